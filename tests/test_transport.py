"""Outlets: what is taken arrives whole and in order, what cannot be taken is refused, and memory stays bounded."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from ticker.counts import Counts
from ticker.errors import Close
from ticker.protocol import frame
from ticker.transport import EXTENSION, BufferedOutlet, EventOutlet, SocketOutlet, StreamProtocol

UPDATE = b'{"type":"update","channel":"ticker","ts":1,"items":[1]}'
SNAPSHOT = b'{"type":"snapshot","channel":"ticker","ts":1,"items":[1]}'
HEARTBEAT = b'{"type":"heartbeat","ts":1,"feeds":{}}'


# -- BufferedOutlet ------------------------------------------------------------------------------------------------


async def test_messages_are_taken_in_order_and_at_once() -> None:
    outlet = BufferedOutlet(100)
    assert outlet.offer(b"one", b"two")
    outlet.send(b"three")
    assert outlet.unsent() == 11
    assert await outlet.take() == [b"one", b"two", b"three"]


async def test_an_offer_past_the_limit_is_refused_whole_until_all_has_left() -> None:
    outlet = BufferedOutlet(4)
    drained: list[int] = []
    outlet.on_drained = lambda: drained.append(outlet.unsent())
    assert outlet.offer(b"12345")
    assert not outlet.offer(b"6")
    await outlet.take()
    assert not outlet.offer(b"7"), "the five bytes are with the endpoint, not with the peer"
    outlet.send(b"answer")
    assert await outlet.take() == [b"answer"]
    assert not drained
    taking = asyncio.create_task(outlet.take())
    await asyncio.sleep(0)
    assert drained == [0]
    assert outlet.offer(b"8")
    assert await taking == [b"8"]


async def test_once_refused_it_takes_nothing_more_before_all_has_left_however_little_that_is() -> None:
    outlet = BufferedOutlet(10)
    outlet.offer(b"x" * 11)
    assert not outlet.offer(b"y")
    await outlet.take()
    outlet.send(b"answer")
    await outlet.take()
    assert outlet.unsent() < 10
    assert not outlet.offer(b"z")


async def test_a_closed_outlet_gives_what_it_holds_and_ends() -> None:
    outlet = BufferedOutlet(100)
    outlet.send(b"last")
    outlet.close(Close.DONE)
    assert await outlet.take() == [b"last"]
    assert await outlet.take() == []
    assert outlet.closing is Close.DONE
    await outlet.writable()


async def test_one_who_reads_no_answers_is_not_writable() -> None:
    outlet = BufferedOutlet(100)
    await outlet.writable()
    outlet.send(b"answer")
    writable = asyncio.create_task(outlet.writable())
    await outlet.take()
    assert not writable.done()
    taking = asyncio.create_task(outlet.take())
    await writable
    taking.cancel()


# -- EventOutlet ---------------------------------------------------------------------------------------------------


async def test_a_message_becomes_an_event_of_its_type() -> None:
    outlet = EventOutlet(1000)
    outlet.position = lambda: "k-1 sim=7"
    outlet.send(HEARTBEAT)
    assert await outlet.take() == [b"event: heartbeat\ndata: " + HEARTBEAT + b"\n\n"]


async def test_only_the_last_message_of_a_group_of_items_can_be_resumed_from() -> None:
    outlet = EventOutlet(1000)
    outlet.position = lambda: "k-1 sim=7"
    outlet.offer(UPDATE, bytearray(SNAPSHOT))
    first, second = await outlet.take()
    assert first == b"event: update\ndata: " + UPDATE + b"\n\n"
    assert second == b"id: k-1 sim=7\nevent: snapshot\ndata: " + SNAPSHOT + b"\n\n"


async def test_where_there_is_no_position_to_give_there_is_no_id() -> None:
    outlet = EventOutlet(1000)
    outlet.send(UPDATE)
    assert b"id:" not in (await outlet.take())[0]


# -- SocketOutlet --------------------------------------------------------------------------------------------------


class Peer:
    """The other end of a WebSocket that the test accepted, reading only when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.conn = ClientProtocol(parse_uri("ws://localhost/v1/stream"))

    async def read(self, size: int = 1 << 20) -> None:
        self.conn.receive_data(await asyncio.get_running_loop().sock_recv(self.sock, size))

    async def write(self) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(self.conn.data_to_send()))

    async def texts(self, count: int) -> list[bytes]:
        """The payloads of the next `count` frames."""
        payloads: list[bytes] = []
        while len(payloads) < count:
            payloads += [bytes(event.data) for event in self.conn.events_received() if isinstance(event, Frame)]
            if len(payloads) < count:
                await self.read()
        return payloads


@asynccontextmanager
async def met(app: Any) -> AsyncIterator[tuple[Peer, StreamProtocol]]:
    """A protocol that serves `app`, with a small socket buffer, and a peer that has said nothing yet."""
    config = uvicorn.Config(app, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None)
    config.load()
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(
        lambda: StreamProtocol(config, ServerState(), {}, _loop=loop), sock=ours
    )
    try:
        yield Peer(theirs), protocol
    finally:
        transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        theirs.close()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[SocketOutlet, Peer, StreamProtocol]]:
    """A `SocketOutlet` as an endpoint gets it, and its peer."""
    outlets: asyncio.Queue[SocketOutlet] = asyncio.Queue()
    ended = asyncio.Event()

    async def app(scope: dict[str, Any], _: object, send: Any) -> None:
        await send({"type": "websocket.accept"})
        outlets.put_nowait(scope["extensions"][EXTENSION])
        await ended.wait()

    async with met(app) as (peer, protocol):
        peer.conn.send_request(peer.conn.connect())
        await peer.write()
        outlet = await outlets.get()
        await peer.read()
        peer.conn.events_received()
        yield outlet, peer, protocol
        ended.set()


def stuff(outlet: SocketOutlet) -> list[bytes]:
    """Offer until it is refused; what was taken."""
    taken: list[bytes] = []
    for number in range(10_000):
        payload = b"%06d" % number + b"x" * 500
        if not outlet.offer(frame(payload)):
            return taken
        taken.append(payload)
    raise AssertionError("a peer that does not read was never refused anything")


async def test_frames_arrive_as_they_were_taken() -> None:
    async with connected() as (outlet, peer, _):
        assert outlet.offer(frame(b"one"), frame(b"two"))
        outlet.send(frame(b"x" * 70_000))
        reading = asyncio.create_task(peer.texts(3))
        assert await reading == [b"one", b"two", b"x" * 70_000]


async def test_a_peer_that_does_not_read_is_refused_and_told_when_it_has_caught_up() -> None:
    async with connected() as (outlet, peer, protocol):
        drained = asyncio.Event()
        outlet.on_drained = drained.set
        taken = stuff(outlet)
        assert protocol.transport.get_write_buffer_size() <= 600, "at most one frame waits in this process"
        assert outlet.unsent() > 4096, "the kernel's share counts"
        assert not outlet.offer(frame(b"refused"))
        assert await peer.texts(len(taken)) == taken
        await drained.wait()
        assert outlet.offer(frame(b"again"))
        assert await peer.texts(1) == [b"again"]


async def test_a_pause_in_which_nothing_was_refused_is_not_told() -> None:
    async with connected() as (outlet, peer, protocol):
        outlet.on_drained = lambda: pytest.fail("nothing was refused")
        outlet.send(frame(b"x" * 100_000))
        assert not protocol.writable.is_set()
        assert len(await peer.texts(1)) == 1
        await outlet.writable()


async def test_a_stalled_peer_is_cut_off_soon_after_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ticker.transport.CLOSE_S_MAX", 0.01)
    async with connected() as (outlet, _, protocol):
        stuff(outlet)
        outlet.close(Close.TOO_SLOW)
        outlet.close(Close.TOO_SLOW)
        while not protocol.disconnected:
            await asyncio.sleep(0.005)
        assert [protocol.queue.get_nowait() for _ in range(protocol.queue.qsize())][1] == {
            "type": "websocket.disconnect",
            "code": 4408,
            "reason": "too slow",
        }
        outlet.send(frame(b"to nobody"))


async def test_a_stop_of_the_server_is_not_upset_by_a_peer_that_is_parting_and_does_not_read() -> None:
    async with connected() as (outlet, peer, protocol):
        stuff(outlet)
        peer.conn.send_close(1000)
        await peer.write()
        while protocol.conn.state is not State.CLOSING:
            await asyncio.sleep(0)
        protocol.shutdown()


async def test_no_frame_follows_a_close_whoever_closes() -> None:
    async def peer_closes(peer: Peer, protocol: StreamProtocol) -> None:
        peer.conn.send_close(1000)
        await peer.write()

    async def peer_breaks_the_protocol(peer: Peer, protocol: StreamProtocol) -> None:
        await asyncio.get_running_loop().sock_sendall(peer.sock, b"\xff" * 10)

    async def server_stops(peer: Peer, protocol: StreamProtocol) -> None:
        protocol.shutdown()

    async def peer_is_dead(peer: Peer, protocol: StreamProtocol) -> None:
        protocol.keepalive_timeout()

    for ending in (peer_closes, peer_breaks_the_protocol, server_stops, peer_is_dead):
        async with connected() as (outlet, peer, protocol):
            await ending(peer, protocol)
            while outlet.offer(frame(b"tick")):
                await asyncio.sleep(0)
            with suppress(ConnectionError):
                for _ in range(3):
                    await peer.read()
            opcodes = [event.opcode for event in peer.conn.events_received() if isinstance(event, Frame)]
            assert Opcode.CLOSE not in opcodes[:-1], ending.__name__


async def test_a_response_that_is_still_on_its_way_is_not_written_into() -> None:
    """An upgrade may come behind a request on the same connection, whose answer the peer has not read yet."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.write(b"x" * 100_000)
        config = uvicorn.Config(_unused, ws_ping_interval=None, ws_per_message_deflate=False, log_config=None)
        config.load()
        protocol = StreamProtocol(config, ServerState(), {}, _loop=loop)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        outlet = protocol.outlet = SocketOutlet(protocol, transport, Counts())
        assert not outlet.offer(frame(b"into it"))
        drained = asyncio.Event()
        outlet.on_drained = drained.set
        received = b""
        while len(received) < 100_000:
            received += await loop.sock_recv(theirs, 1 << 16)
        assert set(received) == {ord("x")}
        await drained.wait()
        assert outlet.offer(frame(b"behind it"))
        transport.abort()
        await asyncio.sleep(0)


async def _unused(scope: object, receive: object, send: object) -> None: ...


@pytest.mark.parametrize("flood", [b"\x89\x80\0\0\0\0", b"\x8a\x80\0\0\0\0", b"\x00\x80\0\0\0\0"])
async def test_a_flood_of_control_frames_or_fragments_takes_turns_and_ends(flood: bytes) -> None:
    async with connected() as (_, peer, protocol):
        start = b"\x01\x80\0\0\0\0" if flood[0] == 0 else b""
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(loop.sock_sendall(peer.sock, start + flood * 100_000))
        worst = 0.0
        while not protocol.close_sent:
            began = time.thread_time()
            await asyncio.sleep(0)
            worst = max(worst, time.thread_time() - began)
        assert protocol.conn.close_sent is not None
        assert protocol.conn.close_sent.code == 4429
        assert worst < 0.1
        sending.cancel()


async def test_an_upgrade_with_headers_past_all_limits_is_refused_and_closed() -> None:
    loop = asyncio.get_running_loop()
    async with met(_unused) as (peer, protocol):
        with suppress(ConnectionError):  # it is not read to its end
            await loop.sock_sendall(peer.sock, b"GET /v1/stream HTTP/1.1\r\ncookie: " + b"x" * 20_000 + b"\r\n\r\n")
        assert (await loop.sock_recv(peer.sock, 100)).startswith(b"HTTP/1.1 400 ")
        while not protocol.disconnected:
            await asyncio.sleep(0)
        protocol.shutdown()


async def test_a_close_is_said_to_a_peer_that_listens() -> None:
    async with connected() as (outlet, peer, _):
        outlet.close(Close.VIOLATION)
        outlet.offer(frame(b"after the close"))
        with suppress(ConnectionError):
            await peer.read()
        assert peer.conn.close_rcvd is not None
        assert (peer.conn.close_rcvd.code, peer.conn.close_rcvd.reason) == (4400, "protocol violation")
        assert all(event.opcode is Opcode.CLOSE for event in peer.conn.events_received() if isinstance(event, Frame))


async def test_pings_of_a_peer_that_does_not_read_take_no_memory() -> None:
    async with connected() as (outlet, peer, protocol):
        stuff(outlet)
        before = protocol.transport.get_write_buffer_size()
        for _ in range(100):
            peer.conn.send_ping(b"?" * 100)
        await asyncio.get_running_loop().sock_sendall(peer.sock, b"".join(peer.conn.data_to_send()))
        for _ in range(20):
            await asyncio.sleep(0)
        assert protocol.transport.get_write_buffer_size() == before


async def test_nothing_is_written_once_the_connection_is_lost() -> None:
    async with connected() as (outlet, peer, protocol):
        peer.sock.close()
        while not protocol.disconnected:
            await asyncio.sleep(0.005)
        assert not outlet.offer(frame(b"to nobody"))
        outlet.send(frame(b"to nobody"))
        assert outlet.unsent() == 0
