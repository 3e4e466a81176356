from __future__ import annotations

import pytest

from feeds.feed import FeedError
from feeds.kafka.address import PORT, Address, Back, Start, destination, parse, start
from feeds.options import Spec
from feeds.spec import open_feed
from feeds.ticks import Symbols

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
SECRET = "hunter2"
FORM = "expected kafka://host:port[,host:port]/topic[,topic]"


def address(spec: str) -> Address:
    return parse(Spec(spec))


def refused(spec: str) -> str:
    """Why a spec is refused, in one line that ends the opening of a feed as well."""
    with pytest.raises(FeedError) as error:
        address(spec)
    with pytest.raises(FeedError) as opened:
        open_feed(spec, Symbols())
    assert str(opened.value) == str(error.value)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# -- where ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ("kafka", ("kafka:9092",)),
        ("kafka:19092", ("kafka:19092",)),
        ("kafka-0.kafka.svc.cluster.local", ("kafka-0.kafka.svc.cluster.local:9092",)),
        ("broker.example.com.:9093", ("broker.example.com.:9093",)),
        ("10.0.0.1:1", ("10.0.0.1:1",)),
        ("10.0.0.1:65535", ("10.0.0.1:65535",)),
        ("[::1]", ("[::1]:9092",)),
        ("[2001:db8::7]:9093", ("[2001:db8::7]:9093",)),
        ("[::ffff:10.0.0.1]:9093", ("[::ffff:10.0.0.1]:9093",)),
        ("a,b:1,[::1]:2", ("a:9092", "b:1", "[::1]:2")),
        ("under_score:1", ("under_score:1",)),
        ("bücher.example", ("bücher.example:9092",)),
    ],
)
def test_servers(servers: str, expected: tuple[str, ...]) -> None:
    assert address(f"kafka://{servers}/ticks").servers == expected
    assert PORT == 9092


@pytest.mark.parametrize("topics", ["ticks", "a,b,c", "A.b_c-9", "x" * 249, "...", "__t"])
def test_topics(topics: str) -> None:
    assert address(f"kafka://h/{topics}").topics == tuple(topics.split(","))


def test_what_stands_for_what_is_not_said() -> None:
    assert address("kafka://h/t") == Address(("h:9092",), ("t",), start=Start.SESSION, format="json", renamed=None)


@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("", FORM),
        ("h/t", FORM),
        ("/h/t", FORM),
        ("//", f"{FORM}, was '' for a host and a port"),
        ("///t", f"{FORM}, was '' for a host and a port"),
        ("//:9092/t", f"{FORM}, was ':9092' for a host and a port"),
        ("//h:/t", f"{FORM}, was 'h:' for a host and a port"),
        ("//h:0/t", f"{FORM}, was 'h:0' for a host and a port"),
        ("//h:65536/t", f"{FORM}, was 'h:65536' for a host and a port"),
        ("//h:999999/t", f"{FORM}, was 'h:999999' for a host and a port"),
        ("//h:-1/t", f"{FORM}, was 'h:-1' for a host and a port"),
        ("//h:kafka/t", f"{FORM}, was 'h:kafka' for a host and a port"),
        ("//h:1:2/t", f"{FORM}, was 'h:1:2' for a host and a port"),
        ("//h,/t", f"{FORM}, was '' for a host and a port"),
        ("//h, i/t", f"{FORM}, was ' i' for a host and a port"),
        ("//::1/t", f"{FORM}, was '::1' for a host and a port"),
        ("//[::1/t", f"{FORM}, was '[::1' for a host and a port"),
        ("//[]/t", f"{FORM}, was '[]' for a host and a port"),
        ("//[::1]9092/t", f"{FORM}, was '[::1]9092' for a host and a port"),
        ("//h\ni/t", f"{FORM}, was 'h\\ni' for a host and a port"),
        ("//a..b/t", f"{FORM}, was 'a..b' for a host and a port"),
        ("//.a/t", f"{FORM}, was '.a' for a host and a port"),
        (f"//{'a' * 64}/t", "for a host and a port"),
        ("//h", f"{FORM}, was '' for a topic"),
        ("//h/", f"{FORM}, was '' for a topic"),
        ("//h/t,", f"{FORM}, was '' for a topic"),
        ("//h/a/b", f"{FORM}, was 'a/b' for a topic"),
        ("//h/a b", f"{FORM}, was 'a b' for a topic"),
        ("//h/.", f"{FORM}, was '.' for a topic"),
        ("//h/a,..", f"{FORM}, was '..' for a topic"),
        ("//h/" + "x" * 250, "for a topic"),
        ("//h/a,b,a", "expected each topic once"),
    ],
)
def test_a_bad_place_is_one_clear_line(where: str, cause: str) -> None:
    assert refused(f"kafka:{where}?start=latest").endswith(cause)
    assert refused(f"kafka:{where}").startswith(f"feed {f'kafka:{where}'!r}: ")


# -- from when on --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("session", Start.SESSION),
        ("latest", Start.LATEST),
        ("earliest", Start.EARLIEST),
        ("-15m", Back(15 * MINUTE_US)),
        ("-90s", Back(90_000_000)),
        ("-250ms", Back(250_000)),
        ("-2h", Back(120 * MINUTE_US)),
        ("-7d", Back(7 * DAY_US)),
        ("-0s", Back(0)),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000_000_000),
        ("2023-11-14", 1_699_920_000_000_000),
        ("1700000000", 1_700_000_000_000_000),
        ("1700000000000", 1_700_000_000_000_000),
        ("1700000000000000", 1_700_000_000_000_000),
        ("1700000000000000000", 1_700_000_000_000_000),
    ],
)
def test_starts(text: str, expected: Start | Back | int) -> None:
    assert start(text) == expected
    assert address(f"kafka://h/t?start={text.replace('+', '%2B')}").start == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "Latest", "SESSION", "15m", "-15", "-m", "-15 m", "--15m", "-1.5h", "-15M", "-1w", "-15m "),
        *("-9999999999s", "nan", "inf", "yesterday", "2023-13-01", "2300-01-01", "1969-12-31", "-1700000000"),
    ],
)
def test_a_bad_start_is_one_clear_line(text: str) -> None:
    assert refused(f"kafka://h/t?start={text}") == (
        "feed 'kafka://h/t': start: expected session, latest, earliest, a time back such as -15m, or a time in ISO 8601"
        f" or since 1970, was {text!r}"
    )


# -- what the values are -------------------------------------------------------------------------------------------


def test_a_format_and_names_of_its_own() -> None:
    told = address("kafka://h/t?format=msgpack&map=price:px,ts_event:time&start=latest")
    assert (told.format, told.renamed) == ("msgpack", {"price": "px", "ts_event": "time"})


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ("map=", "map: expected field:name pairs, fields being symbol, venue, type, ts_event"),
        ("map=cost:px", "map: expected field:name pairs, fields being symbol, venue, type, ts_event"),
        ("map=price:", "map: expected field:name pairs, fields being symbol, venue, type, ts_event"),
        ("offset=3", "unknown option 'offset': expected start, format, map"),
        ("start=latest&start=earliest", "start: expected once, was given twice"),
        ("latest", "expected options as name=value"),
    ],
)
def test_a_bad_option_is_one_clear_line(options: str, cause: str) -> None:
    assert f"feed 'kafka://h/t': {cause}" in refused(f"kafka://h/t?{options}")


def test_a_format_that_there_is_not_is_said_when_the_feed_is_opened() -> None:
    with pytest.raises(FeedError, match=r"^format 'xml': expected one of json, msgpack"):
        open_feed("kafka://h/t?format=xml", Symbols())


# -- what is written to --------------------------------------------------------------------------------------------


def test_a_destination_is_one_topic_and_a_format() -> None:
    told = destination(Spec("kafka://a,b:1/ticks?format=msgpack"))
    assert told == Address(("a:9092", "b:1"), ("ticks",), format="msgpack")
    assert destination(Spec("kafka://a/ticks")).format == "json"


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ("kafka://h/a,b", "feed 'kafka://h/a,b': expected one topic to write to"),
        ("kafka://h/a?start=latest", "feed 'kafka://h/a': unknown option 'start': expected format"),
        ("kafka://h", f"feed 'kafka://h': {FORM}, was '' for a topic"),
    ],
)
def test_a_bad_destination_is_one_clear_line(spec: str, cause: str) -> None:
    with pytest.raises(FeedError) as error:
        destination(Spec(spec))
    assert str(error.value) == cause


# -- secrets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        f"kafka://me:{SECRET}@h:9092/t",
        f"kafka://me:{SECRET}@h,me:{SECRET}@i/t?start=latest",
        f"kafka://h,{SECRET}@i/t",
        f"kafka://me:{SECRET}/x@h/t",
        f"kafka://me%3A{SECRET}@h/t",
        f"kafka:me:{SECRET}@h/t",
        f"kafka://h/{SECRET}@t",
    ],
)
def test_a_password_before_a_host_is_refused_without_showing_it(spec: str) -> None:
    said = refused(spec)
    assert SECRET not in said
    assert said == f"feed kafka: {FORM}: a user and a password are settings, and never stand in a spec"
    with pytest.raises(FeedError) as error:
        destination(Spec(spec))
    assert str(error.value) == said


@pytest.mark.parametrize(
    "spec",
    [
        f"kafka://h/t?password={SECRET}",
        f"kafka://h/t?start=latest&sasl_password={SECRET}",
        f"kafka://h/t?password={SECRET}&password={SECRET}",
        f"kafka://h/t?password={SECRET}={SECRET}",
        f"sim:?password={SECRET}",
        f"replay:x.csv?password={SECRET}",
        f"replay:x.csv?token={SECRET}&token={SECRET}",
        f"Kafka://h/t?password={SECRET}",
        f"Kafka://me:{SECRET}@h/t",
        f"kafka+ssl://me:{SECRET}@h/t",
        f"kafka://me:{SECRET}@h/t?latest",
        f"kafka://me:{SECRET}@h/t?start=latest&start=latest",
        f"kafka://me:?{SECRET}@h/t",
        f"kafka://me:{SECRET}?x@h/t",
        f"kafka://h/t?password:{SECRET}",
        f"sim:?password:{SECRET}",
        f"h/t?password={SECRET}",
    ],
)
def test_no_spec_of_any_kind_shows_a_secret(spec: str) -> None:
    with pytest.raises(FeedError) as error:
        open_feed(spec, Symbols())
    assert SECRET not in str(error.value)
