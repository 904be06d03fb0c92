"""A relay in a few lines, for tests of its clients: credentials, nonces, allocations of both families, channels. No limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone.base.ids import RelayId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND, Instant
from firezone.proto.relay.auth import Username
from firezone.proto.relay.server import RelayServer
from firezone.proto.snownet.relays import Relay
from firezone.proto.turn.channels import decode_channel_data, encode_channel_data
from firezone.wire import stun
from firezone.wire.stun import Attribute, ErrorCode, Message, MessageClass, Method, Received, Value
from tests.harness.relay import SlowChannels, SlowPorts

Out = tuple[Endpoint, Endpoint, bytes]
"""From, to, datagram."""
REALM = "firezone"


@dataclass
class Lease:
    """What one client was lent."""

    client: Endpoint
    server: Endpoint
    lent: list[Endpoint]
    expires_at: Instant
    channels: dict[int, tuple[Endpoint, Instant]] = field(default_factory=dict)
    """Number to peer and when the binding ends."""

    def channel_of(self, peer: Endpoint, now: Instant) -> int | None:
        return next((number for number, (bound, until) in self.channels.items() if bound == peer and now < until), None)


class RelayModel:
    """One relay with an address of each family it is given."""

    def __init__(self, name: str, *addresses: str, password: str = "secret") -> None:
        self.id = RelayId(name)
        self.servers = [Endpoint.from_text(address, 3478) for address in addresses]
        self.username = f"user of {name}"
        self.password = password
        self.lifetime = 600
        self.is_alive = True
        self.is_full = False
        """Whether it refuses new allocations."""
        self.leases: dict[Endpoint, Lease] = {}
        self.requests: list[tuple[Instant, Message]] = []
        self.relayed = 0
        """Datagrams of peers passed on, both ways."""
        self._nonce = 0
        self._next_port = 50000

    def credentials(self, host: str) -> tuple[str, str]:
        """What the portal has one host log in with."""
        return self.username, self.password

    def entry(self, host: str) -> Relay:
        """What the portal says of it."""
        ipv4 = next((server for server in self.servers if server.is_ipv4), None)
        ipv6 = next((server for server in self.servers if not server.is_ipv4), None)
        return Relay(self.id, ipv4, ipv6, *self.credentials(host))

    def restart(self, password: str) -> None:
        """Comes back with nothing but another secret."""
        self.leases.clear()
        self.password = password
        self._nonce += 1

    def owns(self, endpoint: Endpoint) -> bool:
        return self.is_alive and any(server.ip == endpoint.ip for server in self.servers)

    def handle(self, source: Endpoint, destination: Endpoint, datagram: bytes, now: Instant) -> list[Out]:
        """Returns what leaves because of a datagram to one of its addresses."""
        self.leases = {client: lease for client, lease in self.leases.items() if now < lease.expires_at}
        if destination not in self.servers:
            return self._from_peer(source, destination, datagram, now)
        if not stun.is_stun(datagram):
            return self._from_client(source, datagram, now)
        received = stun.decode(datagram)
        self.requests.append((now, received.message))
        return [(destination, source, answer) for answer in self._answer(source, destination, received, now)]

    # peers' data

    def _from_client(self, client: Endpoint, datagram: bytes, now: Instant) -> list[Out]:
        lease, framed = self.leases.get(client), decode_channel_data(datagram)
        if lease is None or framed is None or framed[0] not in lease.channels:
            return []
        peer, until = lease.channels[framed[0]]
        lent = next((endpoint for endpoint in lease.lent if endpoint.is_ipv4 == peer.is_ipv4), None)
        if now >= until or lent is None:
            return []
        self.relayed += 1
        return self._hairpin(lent, peer, framed[1], now)

    def _hairpin(self, lent: Endpoint, peer: Endpoint, payload: bytes, now: Instant) -> list[Out]:
        if self.owns(peer) and peer not in self.servers:
            return self._from_peer(lent, peer, payload, now)
        return [(lent, peer, payload)]

    def _from_peer(self, peer: Endpoint, lent: Endpoint, payload: bytes, now: Instant) -> list[Out]:
        lease = next((lease for lease in self.leases.values() if lent in lease.lent), None)
        number = None if lease is None else lease.channel_of(peer, now)
        if lease is None or number is None:
            return []
        self.relayed += 1
        return [(lease.server, lease.client, encode_channel_data(number, payload))]

    # requests

    def _answer(self, client: Endpoint, server: Endpoint, received: Received, now: Instant) -> list[bytes]:
        message = received.message
        if message.method == Method.BINDING:
            return [self._encode(message, ((Attribute.XOR_MAPPED_ADDRESS, client),), is_signed=False)]
        key = stun.long_term_key(self.username, REALM, self.password)
        if not received.verify_integrity(key) or message.get(Attribute.USERNAME) != self.username:
            return [self._refuse(message, 401)]
        nonce = message.get(Attribute.NONCE)
        if nonce != f"nonce-{self._nonce}":
            return [self._refuse(message, 401 if nonce is None else 438)]
        lease = self.leases.get(client)
        match message.method:
            case Method.ALLOCATE if lease is None and self.is_full:
                return [self._refuse(message, 508)]
            case Method.ALLOCATE:
                return [self._refuse(message, 437) if lease is not None else self._allocate(message, client, server, now)]
            case Method.REFRESH if lease is not None:
                return [self._refresh(message, lease, now)]
            case Method.CHANNEL_BIND if lease is not None:
                return [self._bind(message, lease, now)]
        return [self._refuse(message, 437)]

    def _allocate(self, message: Message, client: Endpoint, server: Endpoint, now: Instant) -> bytes:
        lent = [Endpoint(own.ip, self._next_port) for own in self.servers]
        self._next_port += 1
        self.leases[client] = Lease(client, server, lent, now + self.lifetime * SECOND)
        addresses = tuple((Attribute.XOR_RELAYED_ADDRESS, endpoint) for endpoint in lent)
        return self._encode(message, (*addresses, (Attribute.XOR_MAPPED_ADDRESS, client), (Attribute.LIFETIME, self.lifetime)))

    def _refresh(self, message: Message, lease: Lease, now: Instant) -> bytes:
        wanted = message.get(Attribute.LIFETIME)
        lifetime = self.lifetime if wanted is None else min(wanted, 3600)
        lease.expires_at = now + lifetime * SECOND
        return self._encode(message, ((Attribute.LIFETIME, lifetime),))

    def _bind(self, message: Message, lease: Lease, now: Instant) -> bytes:
        number, peer = message.get(Attribute.CHANNEL_NUMBER), message.get(Attribute.XOR_PEER_ADDRESS)
        assert number is not None
        assert peer is not None
        for bound_number, (bound, until) in lease.channels.items():
            if now < until + 300 * SECOND and (bound_number == number) != (bound == peer):
                return self._refuse(message, 400)
        lease.channels[number] = peer, now + 600 * SECOND
        return self._encode(message, ())

    def _refuse(self, message: Message, code: int) -> bytes:
        challenge = ((Attribute.REALM, REALM), (Attribute.NONCE, f"nonce-{self._nonce}")) if code in (401, 438) else ()
        return self._encode(message, ((Attribute.ERROR_CODE, ErrorCode(code)), *challenge), is_error=True)

    def _encode(
        self, message: Message, attributes: tuple[tuple[int, Value], ...], *, is_signed: bool = True, is_error: bool = False
    ) -> bytes:
        message_class = MessageClass.ERROR if is_error else MessageClass.SUCCESS
        key = stun.long_term_key(self.username, REALM, self.password) if is_signed else None
        return stun.encode(Message(message_class, message.method, message.transaction_id, attributes), key=key)


class RealRelay(RelayModel):
    """The package's own relay machine in the place of the model; its data path are the slow tables."""

    def __init__(self, name: str, *addresses: str) -> None:
        super().__init__(name, *addresses)
        self.username = f"1893456000:{name}"
        self.restart("secret of " + name)

    def restart(self, password: str) -> None:
        """Comes back with nothing but another stamp secret."""
        ips = {server.is_ipv4: server.ip for server in self.servers}
        log: list[tuple[object, ...]] = []
        self.channels, self.ports = SlowChannels(log), SlowPorts(log)
        self.secret = secret = SecretText(password)
        self.server = RelayServer(
            public_ip4=ips.get(True), public_ip6=ips.get(False), lowest_port=49152, highest_port=65535, secret=secret,
            rng=SeededRng(password.encode()), now=0, utc=1_700_000_000 * SECOND, channels=self.channels, ports=self.ports,
        )  # fmt: skip

    def credentials(self, host: str) -> tuple[str, str]:
        """A username of its own for each: of one user only the newest allocation lives."""
        username = Username.from_text(f"{self.username}{host}")
        assert username is not None
        return username.text, username.password(self.secret)

    def handle(self, source: Endpoint, destination: Endpoint, datagram: bytes, now: Instant) -> list[Out]:
        self.server.handle_timeout(now)
        if destination not in self.servers:
            return self._pass_to_client(source, destination, datagram)
        if not stun.is_stun(datagram):
            return self._pass_to_peer(source, datagram)
        self.requests.append((now, stun.decode(datagram).message))
        self.server.handle_datagram(destination, source, datagram, now)
        answers = []
        while (transmit := self.server.poll_transmit()) is not None:
            answers.append((destination, transmit.remote, transmit.payload))
        return answers

    def _pass_to_peer(self, client: Endpoint, datagram: bytes) -> list[Out]:
        found = self.channels.from_client(client, datagram)
        if found is None:
            return []
        port, peer, payload = found
        self.relayed += 1
        lent = next(Endpoint(server.ip, port) for server in self.servers if server.is_ipv4 == peer.is_ipv4)
        return self._pass_to_client(lent, peer, payload) if self.owns(peer) else [(lent, peer, payload)]

    def _pass_to_client(self, peer: Endpoint, lent: Endpoint, data: bytes) -> list[Out]:
        found = self.channels.from_peer(lent.port, peer, data)
        if found is None:
            return []
        client, framed = found
        self.relayed += 1
        return [(next(server for server in self.servers if server.is_ipv4 == client.is_ipv4), client, framed)]
