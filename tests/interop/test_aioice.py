"""Our ICE agent against aioice, an implementation nobody here wrote, over real loopback sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND
from firezone.proto.ice.agent import IceAgent
from firezone.proto.ice.candidates import host_candidate
from firezone.proto.ice.checks import IceCredentials
from firezone.proto.ice.events import IceState, Nominated
from firezone.wire import stun
from firezone.wire.candidate import decode_candidate, encode_candidate

aioice = pytest.importorskip("aioice")

pytestmark = pytest.mark.interop

LOOPBACK = "127.0.0.1"


class Shim(asyncio.DatagramProtocol):
    """Drives one agent with a socket and the clock."""

    def __init__(self, *, is_controlling: bool) -> None:
        self.credentials = IceCredentials("ours", "our-password-of-enough-length")
        self.is_controlling = is_controlling
        self.nominated: asyncio.Future[Nominated] = asyncio.get_running_loop().create_future()
        self.data: asyncio.Queue[bytes] = asyncio.Queue()
        self.states: list[IceState] = []
        self.agent: IceAgent
        self.local: Endpoint
        self._transport: asyncio.DatagramTransport
        self._timer: asyncio.TimerHandle | None = None

    async def open(self, remote: IceCredentials) -> str:
        """Binds a socket and returns the line to announce."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(LOOPBACK, 0))
        port = self._transport.get_extra_info("sockname")[1]
        self.local = Endpoint.from_text(LOOPBACK, port)
        self.agent = IceAgent(is_controlling=self.is_controlling, local=self.credentials, remote=remote, rng=SeededRng(port))
        announced = self.agent.add_local(host_candidate(self.local), time.monotonic_ns())
        assert announced is not None
        return encode_candidate(announced)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()

    def send(self, payload: bytes) -> None:
        destination = self.nominated.result().destination
        self._transport.sendto(payload, (destination.host, destination.port))

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        if not stun.is_stun(data):
            self.data.put_nowait(data)
            return
        source = Endpoint.from_text(addr[0], addr[1])
        self.agent.handle_message(self.local, source, stun.decode(data), time.monotonic_ns())
        self.settle()

    def settle(self) -> None:
        self.agent.handle_timeout(time.monotonic_ns())
        while (transmit := self.agent.poll_transmit()) is not None:
            self._transport.sendto(transmit.payload, (transmit.destination.host, transmit.destination.port))
        while (event := self.agent.poll_event()) is not None:
            if not isinstance(event, Nominated):
                self.states.append(event.state)
            elif not self.nominated.done():
                self.nominated.set_result(event)
        if self._timer is not None:
            self._timer.cancel()
        if (due := self.agent.poll_timeout()) is not None:
            delay = max(MILLISECOND, due[0] - time.monotonic_ns()) / 1e9
            self._timer = asyncio.get_running_loop().call_later(delay, self.settle)


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test machine may have no other address."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [LOOPBACK])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(True, False), (False, True), (True, True), (False, False)],
    ids=["we control", "aioice controls", "both claim control", "nobody claims control"],
)
async def test_aioice_and_we_connect_and_exchange_data(ours: bool, theirs: bool) -> None:
    await asyncio.wait_for(exchange(ours, theirs), 20)


async def exchange(ours: bool, theirs: bool) -> None:
    connection = aioice.Connection(ice_controlling=theirs, components=1)
    await connection.gather_candidates()
    shim = Shim(is_controlling=ours)
    line = await shim.open(IceCredentials(connection.local_username, connection.local_password))
    try:
        connection.remote_username = shim.credentials.ufrag
        connection.remote_password = shim.credentials.password
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(line.removeprefix("candidate:").partition(" ufrag")[0]))
        await connection.add_remote_candidate(None)
        for candidate in connection.local_candidates:
            assert shim.agent.add_remote(decode_candidate("candidate:" + candidate.to_sdp()), time.monotonic_ns())
        shim.settle()
        await connection.connect()
        await shim.nominated
        await connection.send(b"from aioice")
        assert await shim.data.get() == b"from aioice"
        shim.send(b"from us")
        assert await connection.recv() == b"from us"
        assert shim.agent.is_controlling != connection.ice_controlling
        assert shim.states[-1] in (IceState.CONNECTED, IceState.COMPLETED)
    finally:
        shim.close()
        await connection.close()


async def test_consent_of_aioice_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """aioice gives a connection up when its consent checks (RFC 7675) fail; ours live on its and our checks."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.2)
    monkeypatch.setattr(aioice.ice, "CONSENT_FAILURES", 2)
    await asyncio.wait_for(hold(3.0), 20)


async def hold(seconds: float) -> None:
    connection = aioice.Connection(ice_controlling=True, components=1)
    await connection.gather_candidates()
    shim = Shim(is_controlling=False)
    line = await shim.open(IceCredentials(connection.local_username, connection.local_password))
    try:
        connection.remote_username = shim.credentials.ufrag
        connection.remote_password = shim.credentials.password
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(line.removeprefix("candidate:").partition(" ufrag")[0]))
        await connection.add_remote_candidate(None)
        await connection.connect()
        await asyncio.sleep(seconds)
        await connection.send(b"still there")
        assert await shim.data.get() == b"still there"
        assert shim.agent.state in (IceState.CONNECTED, IceState.COMPLETED)
    finally:
        shim.close()
        await connection.close()
