"""Draining: the clients of a server that is about to stop are sent away, each in a slot of its own.

Whoever leaves finds another server ready, if this one has told its load balancer in time: so first all are served on for a
while. Then they go one after another, so that no other server has to take all of them in at once; each is served up to
its own slot.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Final

from ticker.gate import Gate
from ticker.hub import Hub

#: Slots closer than this are one.
GRAIN_S: Final = 0.01
#: How often to look whether anybody is left.
LOOK_S: Final = 0.05


async def drain(
    gate: Gate, hubs: Callable[[], Iterable[Hub]], now: Callable[[], int], *, delay_s: float, spread_s: float
) -> None:
    """Let nobody in any more, and return once all have been sent away, or nobody is left.

    `hubs` gives the hubs that there are, `now` the time. With no time to spread them over, nobody is sent away: to tell
    all at once is for who stops the server.
    """
    gate.draining = True
    await _while_inside(gate, delay_s)
    if not spread_s:
        return
    clients = [(hub, client) for hub in hubs() for client in hub.clients]
    random.shuffle(clients)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, (hub, client) in enumerate(clients):
        wait_s = began + spread_s * number / len(clients) - loop.time()
        if wait_s > GRAIN_S:
            await _while_inside(gate, wait_s)
        hub.send_away(client, now())
    await _while_inside(gate, GRAIN_S)


async def _while_inside(gate: Gate, wait_s: float) -> None:
    """Wait so long, or until nobody is inside."""
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    while gate.inside and (left := until - loop.time()) > 0:  # noqa: ASYNC110 - the gate is pure
        await asyncio.sleep(min(left, LOOK_S))
