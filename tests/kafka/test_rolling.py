"""A rolling restart of three replicas costs each client one reconnect, and no state."""

from __future__ import annotations

import pytest

from benchmarks.rolling import REPLICAS, rolling


@pytest.mark.timeout(120)
async def test_a_rolling_restart_costs_each_client_one_reconnect_and_no_state() -> None:
    found = await rolling(60, 12, delay_s=1.0, spread_s=2.0)
    assert found.flaws == []
    assert found.histogram == {1: 60}
    assert max(found.shares) <= 1.1 * 60 / REPLICAS
    assert found.failures == 0
    assert found.codes == [0] * REPLICAS
