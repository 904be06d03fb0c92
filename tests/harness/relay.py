"""A relay's machine on slow tables, and clients that speak TURN to it with the codec alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone.base.net import Endpoint
from firezone.base.rng import Rng, SeededRng
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND, Instant
from firezone.kernels.relay import RelayTable
from firezone.proto.relay.allocations import RelayLimits
from firezone.proto.relay.auth import Username
from firezone.proto.relay.server import RelayServer
from firezone.proto.relay.tables import RelayTransmit
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method, Value

SECRET = SecretText("5d" * 32)
SALT = "uNLcGzbqoY8Jm3gK0wVYhT2f4Rr7xXe1aZp9sQd6BtE"
USERNAME = f"1893456000:{SALT}"
UTC = 1_700_000_000 * SECOND
"""Wall clock of the tests at instant 0; the usual credentials live until 2030."""
PUBLIC4 = Endpoint.from_text("203.0.113.101", 3478)
PUBLIC6 = Endpoint.from_text("2001:db8:113::101", 3478)
UDP = 17


class SlowChannels:
    """The slow twin of the compiled channel table: dictionaries, and a complaint about every call out of order.

    Passes every call on to a compiled table, which must take what its twin takes.
    """

    def __init__(self, log: list[tuple[object, ...]]) -> None:
        self._log = log
        self.compiled = RelayTable(PUBLIC4.port, bytes(48), PUBLIC4.ip, PUBLIC6.ip)
        self.by_number: dict[tuple[Endpoint, int], tuple[Endpoint, int]] = {}
        self.by_peer: dict[tuple[int, Endpoint], tuple[Endpoint, int]] = {}
        self.allowed: dict[tuple[int, bytes], Endpoint] = {}
        self.holders: set[Endpoint] = set()

    def bind(self, client: Endpoint, number: int, peer: Endpoint, port: int) -> None:
        assert self.by_number.get((client, number), (peer, port)) == (peer, port)
        assert self.by_peer.get((port, peer), (client, number)) == (client, number)
        self.by_number[client, number] = peer, port
        self.by_peer[port, peer] = client, number
        self._log.append(("bind", client, number, peer, port))
        self.compiled.bind(client, number, peer, port)
        assert len(self.compiled) == len(self.by_number)

    def unbind(self, client: Endpoint, number: int) -> None:
        peer, port = self.by_number.pop((client, number))
        del self.by_peer[port, peer]
        self._log.append(("unbind", client, number))
        self.compiled.unbind(client, number)
        assert len(self.compiled) == len(self.by_number)

    def admit(self, client: Endpoint) -> None:
        assert client not in self.holders
        self.holders.add(client)
        self.compiled.admit(client)

    def dismiss(self, client: Endpoint) -> None:
        self.holders.remove(client)
        self.compiled.dismiss(client)

    def allow(self, port: int, client: Endpoint, ip: bytes) -> None:
        assert (port, ip) not in self.allowed
        self.allowed[port, ip] = client
        self._log.append(("allow", port, client, ip))
        self.compiled.allow(port, client, ip)

    def revoke(self, port: int, client: Endpoint, ip: bytes) -> None:
        assert self.allowed.pop((port, ip)) == client
        self._log.append(("revoke", port, client, ip))
        self.compiled.revoke(port, client, ip)

    def from_client(self, client: Endpoint, datagram: bytes) -> tuple[int, Endpoint, bytes] | None:
        """What the data path does with channel data: (port it leaves from, peer, payload)."""
        if len(datagram) < 4:
            return None
        number, size = int.from_bytes(datagram[:2], "big"), int.from_bytes(datagram[2:4], "big")
        target = self.by_number.get((client, number))
        if target is None or len(datagram) < 4 + size:
            return None
        return target[1], target[0], datagram[4 : 4 + size]

    def from_peer(self, port: int, peer: Endpoint, data: bytes) -> tuple[Endpoint, bytes] | None:
        """What the data path does with a peer's datagram: (client, channel data)."""
        target = self.by_peer.get((port, peer))
        if target is None:
            return None
        return target[0], target[1].to_bytes(2, "big") + len(data).to_bytes(2, "big") + data


class SlowPorts:
    """Sockets that are opened in name only; `held_by_others` cannot be."""

    def __init__(self, log: list[tuple[object, ...]]) -> None:
        self._log = log
        self.open_ports: dict[int, tuple[int, ...]] = {}
        self.held_by_others: set[int] = set()

    def open(self, port: int, families: tuple[int, ...]) -> bool:
        assert port not in self.open_ports
        if port in self.held_by_others:
            return False
        self.open_ports[port] = families
        self._log.append(("open", port, families))
        return True

    def close(self, port: int) -> None:
        del self.open_ports[port]
        self._log.append(("close", port))


@dataclass
class RelayBench:
    """A server, its tables, and one log of everything it did in order."""

    only: int | None = None
    """4 or 6 for a relay with one public address."""
    lowest: int = 49152
    highest: int = 65535
    limits: RelayLimits | None = None
    stands_alone: bool = False
    rng: Rng = field(default_factory=lambda: SeededRng(1))
    now: Instant = 0

    def __post_init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.channels = SlowChannels(self.log)
        self.ports = SlowPorts(self.log)
        self.server = RelayServer(
            public_ip4=None if self.only == 6 else PUBLIC4.ip,
            public_ip6=None if self.only == 4 else PUBLIC6.ip,
            lowest_port=self.lowest,
            highest_port=self.highest,
            secret=SECRET,
            rng=self.rng,
            now=0,
            utc=UTC,
            channels=self.channels,
            ports=self.ports,
            limits=self.limits,
            stands_alone=self.stands_alone,
        )

    def send(self, client: Endpoint, datagram: bytes) -> list[RelayTransmit]:
        """Hands in one datagram and returns what comes of it."""
        local = PUBLIC4 if client.is_ipv4 else PUBLIC6
        self.server.handle_datagram(local, client, datagram, self.now)
        return self.drain()

    def drain(self) -> list[RelayTransmit]:
        sent: list[RelayTransmit] = []
        while (transmit := self.server.poll_transmit()) is not None:
            self.log.append(("send", transmit.remote))
            sent.append(transmit)
        return sent

    def advance(self, seconds: float) -> None:
        """Lets time pass, waking the machine only when it asked to be."""
        until = self.now + round(seconds * SECOND)
        while (due := self.server.poll_timeout()) is not None and due[0] <= until:
            self.now = max(self.now, due[0])
            self.server.handle_timeout(self.now)
        self.now = until

    def next_wake(self) -> float | None:
        """Seconds at which the machine wants to be woken."""
        due = self.server.poll_timeout()
        return None if due is None else due[0] / SECOND

    def take_log(self) -> list[tuple[object, ...]]:
        taken, self.log[:] = list(self.log), []
        return taken


class TurnClient:
    """Speaks to a bench from one address, with one user's credentials; learns nonces from refusals."""

    def __init__(self, bench: RelayBench, address: str = "198.51.100.7", port: int = 52625, username: str | None = None) -> None:
        self.bench = bench
        self.endpoint = Endpoint.from_text(address, port)
        self.username = f"1893456000:{address.replace(':', '.')}" if username is None else username
        known = Username.from_text(self.username)
        self.password = known.password(SECRET) if known else "none"
        self.nonce: str | None = None
        self._count = 0

    @property
    def key(self) -> bytes:
        return stun.long_term_key(self.username, "firezone", self.password)

    def build(
        self, method: int, *attributes: tuple[int, Value], kind: MessageClass = MessageClass.REQUEST, sign: bool = True
    ) -> bytes:
        self._count += 1
        transaction_id = self._count.to_bytes(12, "big")
        credentials: list[tuple[int, Value]] = []
        if sign:
            credentials = [(Attribute.USERNAME, self.username), (Attribute.REALM, "firezone")]
            credentials += [(Attribute.NONCE, self.nonce)] if self.nonce is not None else []
        message = Message(kind, method, transaction_id, (*attributes, *credentials))
        return stun.encode(message, key=self.key if sign else None)

    def raw(self, datagram: bytes) -> stun.Received | None:
        """Sends bytes and returns the one answer, if there is one, which must go back to us from where we asked."""
        answers = self.bench.send(self.endpoint, datagram)
        assert len(answers) <= 1
        if not answers:
            return None
        assert answers[0].port is None
        assert answers[0].remote == self.endpoint
        assert answers[0].local == (PUBLIC4 if self.endpoint.is_ipv4 else PUBLIC6)
        return stun.decode(answers[0].payload)

    def ask(self, method: int, *attributes: tuple[int, Value]) -> stun.Received:
        """Sends an authenticated request once and returns the answer."""
        received = self.raw(self.build(method, *attributes))
        assert received is not None
        return received

    def request(self, method: int, *attributes: tuple[int, Value]) -> Message:
        """Sends an authenticated request, and again with the nonce of a refusal, as clients do. The answer must be signed."""
        received = self.ask(method, *attributes)
        if code_of(received) in (401, 438):
            self.nonce = received.message.get(Attribute.NONCE)
            received = self.ask(method, *attributes)
        assert received.verify_integrity(self.key)
        return received.message

    def allocate(self, *attributes: tuple[int, Value], transport: int = UDP, additional: bool = True) -> Message:
        both = ((Attribute.ADDITIONAL_ADDRESS_FAMILY, 2),) if additional else ()
        return self.request(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, transport), *both, *attributes)

    def refresh(self, lifetime: int | None = None) -> Message:
        return self.request(Method.REFRESH, *(() if lifetime is None else ((Attribute.LIFETIME, lifetime),)))

    def bind(self, number: int, peer: Endpoint) -> Message:
        return self.request(Method.CHANNEL_BIND, (Attribute.XOR_PEER_ADDRESS, peer), (Attribute.CHANNEL_NUMBER, number))

    def permit(self, *peers: Endpoint) -> Message:
        return self.request(Method.CREATE_PERMISSION, *((Attribute.XOR_PEER_ADDRESS, peer) for peer in peers))

    def indicate(self, peer: Endpoint, data: bytes) -> list[RelayTransmit]:
        """Sends a Send indication and returns everything the relay sends for it."""
        attributes = ((Attribute.XOR_PEER_ADDRESS, peer), (Attribute.DATA, data))
        return self.bench.send(self.endpoint, self.build(Method.SEND, *attributes, kind=MessageClass.INDICATION, sign=False))


def code_of(received: stun.Received | Message | None) -> int:
    """Returns the error code of an answer, 0 for success."""
    assert received is not None
    message = received.message if isinstance(received, stun.Received) else received
    error = message.get(Attribute.ERROR_CODE)
    assert (message.message_class is MessageClass.ERROR) == (error is not None)
    return 0 if error is None else error.code
