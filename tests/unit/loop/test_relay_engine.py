"""A whole relay on loopback: real sockets, compiled tables, the real machine; clients that speak TURN with the codec alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from firezone.base.errors import ConfigError
from firezone.base.net import Endpoint, Transmit
from firezone.base.rng import SeededRng
from firezone.base.timing import MILLISECOND, SECOND
from firezone.io.relay_batch import BUSY, IDLE
from firezone.io.relay_sockets import RelaySockets
from firezone.io.udp_socket import _Waiting
from firezone.kernels.relay import RelayTable
from firezone.kernels.types import Reason
from firezone.loop.relay import Relay, RelayConfig
from firezone.loop.relay_engine import STRANGERS_AT_ONCE, STRANGERS_PER_SECOND, RelayEngine
from firezone.proto.relay.server import RelayServer
from firezone.proto.relay.tables import RelayTransmit
from firezone.wire import stun
from firezone.wire.stun import Attribute, Method
from tests.harness.engines import ManualClock
from tests.harness.relay import SECRET, UDP, UTC, TurnClient, code_of

V4, V6 = "127.0.0.1", "::1"


class LiveRelay:
    """The engine on loopback; `send` is what `TurnClient` calls, each client with a real socket of its own."""

    def __init__(self, *, stands_alone: bool = False, lowest: int = 50000, highest: int = 65535) -> None:
        self.clock = ManualClock()
        self.sockets = RelaySockets(listen_port=udp_port(), addresses={4: V4, 6: V6})
        self.table = RelayTable(self.sockets.listen_port, bytes(48), Endpoint.from_text(V4, 0).ip, Endpoint.from_text(V6, 0).ip)
        self.server = RelayServer(
            public_ip4=Endpoint.from_text(V4, 0).ip, public_ip6=Endpoint.from_text(V6, 0).ip, lowest_port=lowest,
            highest_port=highest, secret=SECRET, rng=SeededRng(random.randrange(1 << 30)), now=self.clock.now(), utc=UTC,
            channels=self.table, ports=self.sockets, stands_alone=stands_alone,
        )  # fmt: skip
        self.engine = RelayEngine(server=self.server, table=self.table, sockets=self.sockets, clock=self.clock)
        self._clients: dict[Endpoint, socket.socket] = {}

    def client(self, host: str = V4, username: str | None = None) -> LiveClient:
        sock = udp(host)
        user = username or f"1893456000:{len(self._clients)}"
        client = LiveClient(self, host, sock.getsockname()[1], user)  # type: ignore[arg-type]
        client.sock = sock
        self._clients[client.endpoint] = sock
        return client

    def address(self, host: str) -> tuple[str, int]:
        return host, self.sockets.local_endpoints()[4 if host == V4 else 6].port

    def send(self, client: Endpoint, datagram: bytes) -> list[RelayTransmit]:
        sock = self._clients[client]
        sock.sendto(datagram, self.address(client.host))
        self.run()
        return [RelayTransmit(None, local_of(client), client, data) for data in received(sock)]

    def run(self) -> None:
        """Ticks until there is nothing more to do. Loopback delivers within the call that sends."""
        while self.engine.tick() or not self.engine.sleeps():
            pass

    def close(self) -> None:
        self.sockets.close_all()
        for sock in self._clients.values():
            sock.close()


class LiveClient(TurnClient):
    """A TURN client with a socket."""

    sock: socket.socket

    def raw(self, datagram: bytes) -> stun.Received | None:
        answers = self.bench.send(self.endpoint, datagram)
        assert len(answers) <= 1
        return stun.decode(answers[0].payload) if answers else None

    def relayed(self) -> list[Endpoint]:
        """Allocates and returns the relayed addresses."""
        message = self.allocate()
        return [
            value for kind, value in message.attributes if kind == Attribute.XOR_RELAYED_ADDRESS and isinstance(value, Endpoint)
        ]


def local_of(client: Endpoint) -> Endpoint:
    return Endpoint.from_text(V4 if client.is_ipv4 else V6, 3478)


def udp(host: str, source: str | None = None) -> socket.socket:
    sock = socket.socket(socket.AF_INET if host == V4 else socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((source or host, 0))
    sock.setblocking(False)
    return sock


def received(sock: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(65536))
    return found


@pytest.fixture
def relay() -> Iterator[LiveRelay]:
    live = LiveRelay()
    yield live
    live.close()


@pytest.mark.parametrize("client_host", [V4, V6])
@pytest.mark.parametrize("peer_host", [V4, V6])
def test_data_crosses_both_ways(relay: LiveRelay, client_host: str, peer_host: str) -> None:
    client = relay.client(client_host)
    relayed = next(endpoint for endpoint in client.relayed() if endpoint.host == peer_host)
    with contextlib.closing(udp(peer_host)) as peer:
        assert code_of(client.bind(0x4000, Endpoint.from_text(peer_host, peer.getsockname()[1]))) == 0
        for size in (0, 1, 1280, 1472, 9000, 65_000):
            payload = random.randbytes(size)
            relay.send(client.endpoint, b"\x40\x00" + size.to_bytes(2, "big") + payload + b"\0" * (size % 3))
            data, source = peer.recvfrom(65536)
            assert (data, source[:2]) == (payload, (relayed.host, relayed.port))
            peer.sendto(payload, (relayed.host, relayed.port))
            relay.run()
            assert received(client.sock) == [b"\x40\x00" + size.to_bytes(2, "big") + payload]


def test_data_right_behind_the_request_for_its_channel_is_relayed(relay: LiveRelay) -> None:
    """The original's clients do not wait for the answer (snownet 7.11); both may be read in one batch."""
    client = relay.client()
    client.relayed()
    with contextlib.closing(udp(V4)) as peer:
        address = Endpoint.from_text(V4, peer.getsockname()[1])
        bind = client.build(Method.CHANNEL_BIND, (Attribute.XOR_PEER_ADDRESS, address), (Attribute.CHANNEL_NUMBER, 0x4000))
        for datagram in (bind, b"\x40\x00\x00\x05first", b"\x40\x01\x00\x05never"):
            client.sock.sendto(datagram, relay.address(V4))
        relay.run()
        assert received(peer) == [b"first"]
        assert [stun.decode(answer).message.method for answer in received(client.sock)] == [Method.CHANNEL_BIND]


def test_strange_peers_are_not_heard(relay: LiveRelay) -> None:
    client = relay.client()
    relayed = client.relayed()[0]
    with contextlib.closing(udp(V4)) as peer, contextlib.closing(udp(V4)) as stranger:
        client.bind(0x4000, Endpoint.from_text(V4, peer.getsockname()[1]))
        stranger.sendto(b"x", (relayed.host, relayed.port))
        relay.run()
        assert received(client.sock) == []
    assert relay.engine.reasons[Reason.NO_CHANNEL] == 1


def test_ports_are_closed_when_the_allocation_ends(relay: LiveRelay) -> None:
    client = relay.client()
    port = client.relayed()[0].port
    for host in (V4, V6):
        with pytest.raises(OSError, match="in use"), contextlib.closing(udp(host)) as probe:
            socket.socket(probe.family, socket.SOCK_DGRAM).bind((host, port))
    assert relay.sockets.counters()["sockets"] == 4
    relay.clock.time += 601 * SECOND
    relay.run()
    assert relay.sockets.counters()["sockets"] == 2
    assert relay.server.counters.allocations == 0
    assert code_of(client.refresh()) == 437


def test_a_port_of_another_program_is_passed_over() -> None:
    with contextlib.closing(udp(V6)) as other:
        taken = other.getsockname()[1]
        live = LiveRelay(lowest=taken, highest=taken)
        assert code_of(live.client().allocate()) == 508
        assert live.sockets.counters()["sockets"] == 2, "the IPv4 socket was opened and must be closed again"
        live.close()


def test_two_allocations_on_one_relay_talk_to_each_other(relay: LiveRelay) -> None:
    alice, bob = relay.client(V4), relay.client(V6)
    to_alice, to_bob = alice.relayed()[0], bob.relayed()[0]
    alice.bind(0x4000, to_bob)
    assert relay.send(alice.endpoint, b"\x40\x00\x00\x01x") == []
    bob.bind(0x4ABC, to_alice)
    relay.send(alice.endpoint, b"\x40\x00\x00\x01x")
    assert received(bob.sock) == [b"\x4a\xbc\x00\x01x"]
    relay.send(bob.endpoint, b"\x4a\xbc\x00\x02yz")
    assert received(alice.sock) == [b"\x40\x00\x00\x02yz"]


def test_trains_stay_whole(relay: LiveRelay) -> None:
    """What a client sends in one call with UDP_SEGMENT is received in few reads and leaves in as few calls."""
    client = relay.client()
    client.relayed()
    with contextlib.closing(udp(V4)) as peer:
        client.bind(0x4000, Endpoint.from_text(V4, peer.getsockname()[1]))
        client.sock.setsockopt(socket.IPPROTO_UDP, 103, 1004)
        payloads = [bytes([n]) * 1000 for n in range(40)]
        before = relay.sockets.counters()
        relay.send(client.endpoint, b"".join(b"\x40\x00\x03\xe8" + payload for payload in payloads))
        assert received(peer) == payloads
        after = relay.sockets.counters()
    assert after["sent"] - before["sent"] == 40
    assert after["send_calls"] - before["send_calls"] == 1
    assert after["received"] - before["received"] == 1


def test_stand_alone_relay_serves_indications() -> None:
    live = LiveRelay(stands_alone=True)
    client = live.client()
    relayed = client.relayed()[0]
    with contextlib.closing(udp(V4)) as peer:
        address = Endpoint.from_text(V4, peer.getsockname()[1])
        peer.sendto(b"too early", (relayed.host, relayed.port))
        live.run()
        assert received(client.sock) == []
        assert code_of(client.permit(address)) == 0
        client.indicate(address, b"hello")
        assert peer.recvfrom(100) == (b"hello", (relayed.host, relayed.port))
        peer.sendto(b"and back", (relayed.host, relayed.port))
        live.run()
        (answer,) = received(client.sock)
        message = stun.decode(answer).message
        assert (message.method, message.get(Attribute.DATA), message.get(Attribute.XOR_PEER_ADDRESS)) == (
            Method.DATA,
            b"and back",
            address,
        )
    live.close()


def test_strangers_are_admitted_at_a_bounded_rate_and_clients_apart(relay: LiveRelay) -> None:
    client, stranger = relay.client(), relay.client()
    client.relayed()
    binding = stun.encode(stun.Message(stun.MessageClass.REQUEST, Method.BINDING, bytes(12), ()))
    half = STRANGERS_AT_ONCE // 2
    answered = sum(len(relay.send(stranger.endpoint, binding)) for _ in range(half + 50))
    assert answered in range(half - 5, half + 1), "the other half is for other networks"
    assert relay.engine.reasons[Reason.PUNT_LIMIT] >= 50
    assert len(relay.send(client.endpoint, binding)) == 1, "a client is not kept from its allocation by strangers"
    relay.clock.time += SECOND // 100
    assert sum(len(relay.send(stranger.endpoint, binding)) for _ in range(100)) == STRANGERS_PER_SECOND // 100


def test_a_newcomer_is_challenged_beside_a_flood_from_another_network(relay: LiveRelay) -> None:
    wanted = ((Attribute.REQUESTED_TRANSPORT, UDP),)
    allocate = stun.encode(stun.Message(stun.MessageClass.REQUEST, Method.ALLOCATE, bytes(12), wanted))
    with contextlib.ExitStack() as stack:
        flood = [stack.enter_context(contextlib.closing(udp(V4, f"127.0.1.{host}"))) for host in range(1, 17)]
        newcomers = [stack.enter_context(contextlib.closing(udp(V4, f"127.0.{network}.1"))) for network in range(2, 12)]
        answered = 0
        for newcomer in newcomers:
            for sock in flood * 20:
                sock.sendto(allocate, relay.address(V4))
            newcomer.sendto(allocate, relay.address(V4))
            relay.clock.time += 3 * MILLISECOND
            relay.run()
            answered += sum(len(received(sock)) for sock in flood)
            (answer,) = received(newcomer)
            assert code_of(stun.decode(answer)) == 401
        assert answered < STRANGERS_AT_ONCE, "the flood itself is bounded"
        assert relay.engine.reasons[Reason.PUNT_LIMIT] > len(newcomers) * 200


def test_a_full_socket_holds_up_nobody_else(relay: LiveRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = relay.client(), relay.client()
    slow_port, _ = slow.relayed()[0].port, fast.relayed()
    with contextlib.closing(udp(V4)) as peer:
        address = Endpoint.from_text(V4, peer.getsockname()[1])
        slow.bind(0x4000, address)
        fast.bind(0x4000, address)
        udp_socket = relay.sockets._sockets[slow_port, 4]
        relay.sockets._block((slow_port, 4))
        udp_socket.waiting.append(_Waiting(b"stuck", 5, address, None, 0, relay.clock.time))
        udp_socket.waiting_bytes = relay.sockets._waiting_bytes = 5
        monkeypatch.setattr(type(udp_socket), "_send_item", lambda self, item: self is not udp_socket)
        for number in range(3):
            slow.sock.sendto(b"\x40\x00\x00\x01" + bytes([number]), relay.address(V4))
            fast.sock.sendto(b"\x40\x00\x00\x01F", relay.address(V4))
        relay.run()
        assert relay.engine.is_held
        assert relay.engine.blocked_descriptors() == (udp_socket.batch.fd,)
        assert received(peer) == [b"F"] * 3
        assert relay.sockets.counters()["waiting_bytes"] == 5 + 3
        monkeypatch.undo()
        relay.run()
        assert received(peer) == [b"stuck", b"\x00", b"\x01", b"\x02"]
        assert not relay.engine.is_held
        assert relay.sockets.counters()["waiting_bytes"] == 0


def test_what_waits_for_full_sockets_has_a_bound_for_each_and_for_all(relay: LiveRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every allocation's socket is full, and each client goes on sending."""
    bound, of_one = 500_000, 150_000
    monkeypatch.setattr("firezone.io.relay_sockets.MAX_RELAY_WAITING_BYTES", bound)
    monkeypatch.setattr("firezone.io.udp_socket.MAX_WAITING_BYTES", of_one)
    with contextlib.closing(udp(V4)) as peer:
        address = Endpoint.from_text(V4, peer.getsockname()[1])
        clients = [relay.client() for _ in range(6)]
        for number, client in enumerate(clients):
            key = client.relayed()[0].port, 4
            client.bind(0x4000, address)
            udp_socket = relay.sockets._sockets[key]
            monkeypatch.setattr(udp_socket, "_send_item", lambda item: False)
            relay.sockets.send(Transmit(None, address, bytes([number])), relay.clock.time, key[0])
        for _ in range(8):
            for client in clients:
                client.sock.sendto(b"\x40\x00\x75\x30" + bytes(30_000), relay.address(V4))
                relay.run()
        waiting = [udp_socket.waiting_bytes for udp_socket in relay.sockets._sockets.values()]
        assert max(waiting) <= of_one
        assert bound - 2 * 30_000 < sum(waiting) <= bound
        assert relay.sockets.counters()["waiting_bytes"] == sum(waiting)
        assert relay.sockets.counters()["dropped_waiting"] > 10
        relay.clock.time += 21 * MILLISECOND
        relay.run()
        assert relay.sockets.counters()["waiting_bytes"] == 0


def test_a_socket_that_is_closed_takes_what_waits_for_it_along(relay: LiveRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    client = relay.client()
    port = client.relayed()[0].port
    monkeypatch.setattr(relay.sockets._sockets[port, 4], "_send_item", lambda item: False)
    relay.sockets.send(Transmit(None, client.endpoint, bytes(1000)), relay.clock.time, port)
    assert relay.sockets.counters()["waiting_bytes"] == 1000
    assert code_of(client.refresh(0)) == 0
    assert relay.sockets.counters()["waiting_bytes"] == 0
    assert relay.sockets.counters()["dropped_waiting"] == 1, "what is counted stays counted"


def test_a_refused_datagram_stops_none_of_its_batch(relay: LiveRelay) -> None:
    client = relay.client()
    client.relayed()
    with contextlib.closing(udp(V4)) as first, contextlib.closing(udp(V4)) as last:
        peers = [Endpoint.from_text(V4, first.getsockname()[1]), Endpoint.from_text("255.255.255.255", 9)]
        peers.append(Endpoint.from_text(V4, last.getsockname()[1]))
        for number, peer in enumerate(peers):
            assert code_of(client.bind(0x4000 + number, peer)) == 0
        for round_ in range(3):
            for number in range(3):
                client.sock.sendto(bytes([0x40, number, 0, 1, round_]), relay.address(V4))
        relay.run()
        assert received(first) == received(last) == [b"\0", b"\1", b"\2"]
    assert relay.sockets.counters()["refused"] == 3
    assert relay.sockets.counters()["sent"] >= 6


def test_a_train_is_not_taken_apart(relay: LiveRelay) -> None:
    client = relay.client()
    client.relayed()
    with contextlib.closing(udp(V4)) as peer:
        client.bind(0x4000, Endpoint.from_text(V4, peer.getsockname()[1]))
        before = relay.sockets.counters()["send_calls"]
        for number in range(40):
            client.sock.sendto(b"\x40\x00\x00\x02" + bytes([number, 0]), relay.address(V4))
        relay.run()
        assert received(peer) == [bytes([number, 0]) for number in range(40)]
    assert relay.sockets.counters()["send_calls"] == before + 1


def test_what_comes_while_a_relay_lingers_is_relayed_in_the_same_tick(relay: LiveRelay) -> None:
    engine = RelayEngine(server=relay.server, table=relay.table, sockets=relay.sockets, clock=relay.clock, linger_ms=500)
    client = relay.client()
    client.relayed()
    with contextlib.closing(udp(V4)) as peer:
        client.bind(0x4000, Endpoint.from_text(V4, peer.getsockname()[1]))
        later = threading.Timer(0.05, lambda: client.sock.sendto(b"\x40\x00\x00\x01L", relay.address(V4)))
        later.start()
        engine.tick()
        later.join()
        assert received(peer) == [b"L"]


def test_data_without_end_gives_way_after_its_time(relay: LiveRelay) -> None:
    client = relay.client()
    client.relayed()
    with contextlib.closing(udp(V4)) as peer:
        client.bind(0x4000, Endpoint.from_text(V4, peer.getsockname()[1]))
        for _ in range(2):
            client.sock.sendto(b"\x40\x00\x00\x01D", relay.address(V4))
        pump = relay.engine._pump
        assert (pump.run(1, 0, 0, True), received(peer)) == (BUSY, [b"D"])
        assert (pump.run(1, 0, 0, True), received(peer)) == (BUSY, [b"D"])
        assert (pump.run(1, 0, 0, True), received(peer)) == (IDLE, [])


def test_the_listen_port_taken_says_what_to_do() -> None:
    with contextlib.closing(udp(V4)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"UDP port {port} on {V4} cannot be had: Address already in use. Is another relay"):
            RelaySockets(listen_port=port, addresses={4: V4})


async def test_relay_on_asyncio_answers_and_closes() -> None:
    config = RelayConfig(
        secret=SECRET, public_ip4=Endpoint.from_text(V4, 0).ip, bind_ip4=V4, listen_port=udp_port(), lowest_port=50000
    )
    failures: list[Exception] = []
    relay = Relay(config, on_fatal=failures.append)
    relay.start()
    with contextlib.closing(udp(V4)) as sock:
        sock.sendto(stun.encode(stun.Message(stun.MessageClass.REQUEST, Method.BINDING, bytes(12), ())), (V4, config.listen_port))
        loop = asyncio.get_running_loop()
        answer = await asyncio.wait_for(loop.sock_recv(sock, 1000), 2)
        mapped = stun.decode(answer).message.get(Attribute.XOR_MAPPED_ADDRESS)
        assert mapped == Endpoint.from_text(V4, sock.getsockname()[1])
        assert relay.counters()["responses"] == [{"message_type": "binding", "response_class": "success", "count": 1}]
        relay.stop()
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as again:
        again.bind((V4, config.listen_port))
    assert failures == []


def udp_port() -> int:
    with contextlib.closing(udp(V4)) as sock:
        return int(sock.getsockname()[1])
