from ticker.errors import Close, Code


def test_the_error_codes_are_those_of_the_protocol() -> None:
    assert [str(code) for code in Code] == [
        *("invalid_request", "unknown_op", "unknown_channel", "unknown_field", "invalid_symbol", "unknown_symbol"),
        *(
            "not_entitled",
            "limit_symbols",
            "limit_lanes",
            "rate_limited",
            "auth_required",
            "auth_failed",
            "not_replay",
            "source_failed",
        ),
    ]


def test_only_breaking_the_protocol_is_a_violation_and_asking_for_too_much_is_not() -> None:
    assert {str(code) for code in Code if code.is_violation} == {
        *("invalid_request", "unknown_op", "unknown_channel", "unknown_field", "not_replay", "auth_failed"),
    }


def test_the_close_codes_are_those_of_the_protocol() -> None:
    assert {close.code for close in Close} == {1000, 1009, 1012, 1013, 4400, 4401, 4403, 4408, 4429}
    for close in Close:
        assert Close.of(close.code) is close
        assert len(close.reason.encode()) <= 123  # RFC 6455, section 5.5.1
    assert Close.of(1006) is None
