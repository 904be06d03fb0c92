"""The relay as a process, unprivileged on loopback: TURN over real sockets, portal, probes, orders, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

import firezone
from firezone.base.net import Endpoint
from firezone.wire import stun
from firezone.wire.phoenix import encode_frame, encode_reply
from firezone.wire.stun import Attribute, Message, MessageClass, Method
from tests.harness.relay_program import DEADLINE_S, SECRET, RelayProgram, SocketTurnClient


@pytest.fixture
def alone() -> Iterator[RelayProgram]:
    program = RelayProgram(variables={"FIREZONE_RELAY_SECRET": SECRET})
    program.wait_until_up()
    yield program
    if program.process.poll() is None:
        program.end()


def test_stand_alone_it_relays_by_channel_and_by_indication(alone: RelayProgram) -> None:
    client = SocketTurnClient(alone.port)
    assert client.ask(Method.BINDING).get(Attribute.XOR_MAPPED_ADDRESS) == client.endpoint
    relayed = client.allocate()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(DEADLINE_S)
        peer.bind(("127.0.0.1", 0))
        address = Endpoint.from_text(*peer.getsockname())
        assert client.ask(Method.CREATE_PERMISSION, (Attribute.XOR_PEER_ADDRESS, address)).message_class is MessageClass.SUCCESS
        send = Message(
            MessageClass.INDICATION, Method.SEND, bytes(12), ((Attribute.XOR_PEER_ADDRESS, address), (Attribute.DATA, b"first"))
        )
        client.socket.send(stun.encode(send))
        assert peer.recvfrom(100) == (b"first", ("127.0.0.1", relayed.port))
        peer.sendto(b"second", ("127.0.0.1", relayed.port))
        data = stun.decode(client.socket.recv(2048)).message
        assert data.attributes == ((Attribute.XOR_PEER_ADDRESS, address), (Attribute.DATA, b"second"))
        bind = client.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, address))
        assert bind.message_class is MessageClass.SUCCESS
        client.socket.send(b"\x40\x00\x00\x05third")
        assert peer.recvfrom(100) == (b"third", ("127.0.0.1", relayed.port))
        peer.sendto(b"fourth", ("127.0.0.1", relayed.port))
        assert client.socket.recv(100) == b"\x40\x00\x00\x06fourth"
    found = alone.metrics()
    assert found["allocations_total"] == found["counters"]["channels"] == 1
    assert found["data_relayed_userspace_bytes"] == len("third" + "fourth")
    assert {"message_type": "channelbind", "response_class": "success", "count": 1} in found["responses_total"]


def test_probes_and_orders(alone: RelayProgram) -> None:
    assert alone.ask(alone.health, "/readyz") == (200, firezone.__version__.encode())
    assert alone.ask(alone.health, "/metrics")[0] == 404
    assert alone.ask(alone.control, "/log_filter?directives=info,firezone.proto.relay=debug", "POST") == (200, b"")
    SocketTurnClient(alone.port).allocate()
    assert alone.ask(alone.control, "/log_filter?directives=x=y=z", "POST")[0] == 400
    assert alone.ask(alone.control, "/log_filter", "POST")[0] == 400
    assert alone.ask(alone.control, "/log_filter?directives=%00%0a", "POST")[0] == 400
    for target in ("//[", "http://[::1/metrics"):
        with socket.create_connection(("127.0.0.1", alone.control), DEADLINE_S) as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 404 ")
    assert alone.ask(alone.control, "/log_filter?directives=info")[0] == 405
    assert alone.ask(alone.control, "/other")[0] == 404
    _, out, _ = alone.end()
    assert "DEBUG firezone::proto::relay::server: allocation created" in out
    assert "ERROR" not in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_row_66_a_signal_ends_it_at_once_with_live_allocations(alone: RelayProgram, number: int) -> None:
    SocketTurnClient(alone.port).allocate()
    began = time.monotonic()
    status, out, err = alone.end(number)
    assert time.monotonic() - began < 2
    assert (status, err) == (0, "")
    assert "relay: relay is up" in out
    assert "relay: goodbye" in out
    assert SECRET not in out


def test_a_port_that_is_taken_ends_the_start_with_one_line(alone: RelayProgram) -> None:
    second = RelayProgram(("--listen-port", str(alone.port)), variables={"FIREZONE_RELAY_SECRET": SECRET})
    status, _, err = second.end(0)
    assert status == 1
    assert str(alone.port) in err
    assert len(err.splitlines()) == 1


def test_allocations_leave_descriptors_for_the_rest_of_the_program() -> None:
    """A relay at its limit refuses allocations; it must not look dead to its probes."""
    relay = RelayProgram(variables={"FIREZONE_RELAY_SECRET": SECRET}, descriptors=300)
    relay.wait_until_up()
    clients = [SocketTurnClient(relay.port, username=f"1999999999:{number}") for number in range(60)]
    answers = [client.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17)) for client in clients]
    refused = [answer for answer in answers if answer.message_class is MessageClass.ERROR]
    assert 0 < len(refused) < 60
    assert relay.ask(relay.health, "/healthz")[0] == 200
    assert relay.metrics()["allocations_total"] == 60 - len(refused)
    assert relay.end()[0] == 0


def test_garbage_does_no_harm(alone: RelayProgram) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for size in range(200):
            stranger.sendto(os.urandom(size), ("127.0.0.1", alone.port))
            stranger.sendto(bytes([0, 3]) + os.urandom(size), ("127.0.0.1", alone.port))
    client = SocketTurnClient(alone.port)
    assert client.ask(Method.BINDING).get(Attribute.XOR_MAPPED_ADDRESS) == client.endpoint


def test_row_67_it_sleeps_when_nothing_comes(alone: RelayProgram) -> None:
    client = SocketTurnClient(alone.port)
    client.allocate()
    for _ in range(200):
        client.ask(Method.REFRESH)
    before = alone.metrics()["counters"]["ticks"]
    time.sleep(1)
    assert alone.metrics()["counters"]["ticks"] - before <= 3


FLOODS = {"channel-data": b"\x40\x00\x04\xb0" + bytes(1200), "garbage": b"\xff" * 100}


@pytest.mark.parametrize("what", FLOODS)
def test_row_53_others_are_answered_promptly_while_one_client_floods(alone: RelayProgram, what: str) -> None:
    flooder, other = SocketTurnClient(alone.port), SocketTurnClient(alone.port, username="1999999999:other")
    flooder.allocate()
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    peer = Endpoint.from_text(*sink.getsockname())
    flooder.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, 0x4000), (Attribute.XOR_PEER_ADDRESS, peer))
    other.allocate()
    script = "import socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\nd = bytes.fromhex(sys.argv[2])\nwhile True: s.send(d)"
    number = flooder.socket.fileno()
    flooder.socket.setblocking(True)
    flood = subprocess.Popen([sys.executable, "-c", script, str(number), FLOODS[what].hex()], pass_fds=[number])
    other.socket.settimeout(0.5)
    waits, lost = [], 0  # The flood fills the buffer of the port they share: clients ask again.
    try:
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            began = time.monotonic()
            with contextlib.suppress(TimeoutError):
                assert other.ask(Method.REFRESH).message_class is MessageClass.SUCCESS
                waits.append(time.monotonic() - began)
                time.sleep(0.02)
                continue
            lost += 1
    finally:
        flood.kill()
        flood.wait()
        sink.close()
    assert len(waits) > 10
    assert lost < len(waits)
    assert sorted(waits)[len(waits) // 2] < 0.1


class Portal:
    """Answers joins and heartbeats and remembers what relays said."""

    def __init__(self) -> None:
        self.logins: list[Request] = []
        self.joins: list[dict[str, Any]] = []
        self.sockets: list[ServerConnection] = []
        self.status = 101
        self.join_status = "ok"
        self.port = 0
        self._server: Server

    async def start(self) -> None:
        self._server = await serve(
            self._serve, "127.0.0.1", self.port, compression=None, process_request=self._judge, close_timeout=1
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _judge(self, websocket: ServerConnection, request: Request) -> Response | None:
        self.logins.append(request)
        return None if self.status == 101 else websocket.respond(HTTPStatus(self.status), "")

    async def _serve(self, websocket: ServerConnection) -> None:
        self.sockets.append(websocket)
        with contextlib.suppress(ConnectionClosed):
            async for text in websocket:
                frame = json.loads(text)
                if frame["event"] == "phx_join":
                    self.joins.append(frame)
                    if self.join_status != "ok":
                        refusal = {"status": "error", "response": {"reason": self.join_status}}
                        reply = {"topic": "relay", "event": "phx_reply", "ref": frame["ref"], "payload": refusal}
                        await websocket.send(json.dumps(reply))
                        continue
                await websocket.send(encode_reply(frame["topic"], frame["ref"]))
                if frame["event"] == "phx_join":
                    await websocket.send(encode_frame("relay", "init", b'{"later":1}', None))


@pytest.fixture
async def portal() -> AsyncIterator[Portal]:
    portal = Portal()
    await portal.start()
    yield portal
    await portal.stop()


def managed(portal: Portal) -> RelayProgram:
    return RelayProgram(variables={"FIREZONE_API_URL": f"ws://127.0.0.1:{portal.port}", "FIREZONE_TOKEN": "t0ken-text"})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - processes have no event to wait for
            await asyncio.sleep(0.02)


async def test_it_logs_in_with_its_secret_and_serves_its_users(portal: Portal) -> None:
    program = managed(portal)
    await until(lambda: bool(portal.joins))
    query = parse_qs(urlsplit(portal.logins[0].path).query)
    assert query == {"token": ["t0ken-text"], "ipv4": ["127.0.0.1"], "port": [str(program.port)]}
    assert urlsplit(portal.logins[0].path).path == "/relay/websocket"
    assert "relay/" in portal.logins[0].headers["User-Agent"]
    join = portal.joins[0]
    assert (join["topic"], join["ref"]) == ("relay", 0)
    secret = join["payload"]["stamp_secret"]
    assert list(join["payload"]) == ["stamp_secret"]
    assert bytes.fromhex(secret).hex() == secret
    await until(lambda: program.ask(program.health, "/readyz")[0] == 200)
    relayed = await asyncio.to_thread(SocketTurnClient(program.port, secret).allocate)
    assert 20000 <= relayed.port <= 20999
    status, out, _ = await asyncio.to_thread(program.end)
    assert status == 0
    assert secret not in out
    assert "t0ken-text" not in out


async def test_row_61_it_serves_before_there_is_a_portal(portal: Portal) -> None:
    await portal.stop()
    program = managed(portal)
    await asyncio.to_thread(program.wait_until_up)
    client = SocketTurnClient(program.port)
    assert (await asyncio.to_thread(client.ask, Method.BINDING)).get(Attribute.XOR_MAPPED_ADDRESS) == client.endpoint
    assert program.ask(program.health, "/readyz") == (503, b"")
    await portal.start()
    await until(lambda: program.ask(program.health, "/readyz")[0] == 200)
    await asyncio.to_thread(program.end)


async def test_row_62_a_portal_that_restarts_gets_the_same_secret_and_allocations_stay(portal: Portal) -> None:
    program = managed(portal)
    await until(lambda: bool(portal.joins))
    client = SocketTurnClient(program.port, portal.joins[0]["payload"]["stamp_secret"])
    await asyncio.to_thread(client.allocate)
    await portal.stop()
    assert (await asyncio.to_thread(client.ask, Method.REFRESH)).message_class is MessageClass.SUCCESS
    await portal.start()
    await until(lambda: len(portal.joins) == 2)
    assert portal.joins[0]["payload"] == portal.joins[1]["payload"]
    assert program.metrics()["allocations_total"] == 1
    await asyncio.to_thread(program.end)


async def test_row_63_a_token_that_is_refused_ends_it(portal: Portal) -> None:
    portal.status = 401
    status, _, err = await asyncio.to_thread(managed(portal).end, 0)
    assert status == 1
    assert err.startswith("Firezone relay ended: The portal refused the login with status 401")


async def test_row_63_a_refused_join_ends_it(portal: Portal) -> None:
    portal.join_status = "not_found"
    status, _, err = await asyncio.to_thread(managed(portal).end, 0)
    assert status == 1
    assert "refused the join: not_found" in err


async def test_row_63_an_expired_token_ends_it(portal: Portal) -> None:
    program = managed(portal)
    await until(lambda: bool(portal.joins))
    await portal.sockets[0].send(encode_frame("relay", "disconnect", b'{"reason":"token_expired"}', None))
    status, _, err = await asyncio.to_thread(program.end, 0)
    assert status == 1
    assert "expired" in err


async def test_row_63_a_portal_in_trouble_is_asked_again(portal: Portal) -> None:
    portal.status = 503
    program = managed(portal)
    await until(lambda: bool(portal.logins))
    portal.status = 101
    await until(lambda: bool(portal.joins))
    await asyncio.to_thread(program.end)
