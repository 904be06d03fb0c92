"""Whole clients and gateways in one process: real states, compiled tables, engines, TUNs and a network in memory.

    application ─ MemoryTun ─ Engine(ClientState) ─ MemoryNetwork ─ Engine(GatewayState) ─ MemoryTun ─ site
                                        └──── ScriptedPortal, by JSON ────┘

Time jumps from one announced deadline to the next, so a deadline that is not announced is a test that fails. Every message to
and from the portal is encoded and decoded on its way; errors of a tick that a test did not expect fail it.
"""

from __future__ import annotations

import hashlib
import heapq
import ipaddress
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from firezone.base.errors import FirezoneError
from firezone.base.ids import ClientId, ConnectionId, GatewayId, ResourceId, SiteId
from firezone.base.net import Endpoint, Network
from firezone.base.rng import SeededRng
from firezone.base.secret import SecretBytes, SecretText
from firezone.base.timing import MILLISECOND, SECOND, Instant, seconds
from firezone.datapath.tables import Tables
from firezone.kernels.types import Reason
from firezone.loop.engine import Engine
from firezone.loop.memory import MemoryNetwork, MemorySockets, MemoryTun
from firezone.proto.client.state import ClientState
from firezone.proto.gateway.state import GatewayState, ResolveName
from firezone.proto.tunnel_state import ReconnectPortal, SendToPortal, TunnelState
from firezone.wire.portal import client as client_wire
from firezone.wire.portal import gateway as gateway_wire
from firezone.wire.portal.shared import ClientInterface, Filter, IceCredentials, Interface, NoRelays, PublicKey, Site
from tests.harness.engines import ManualClock

if TYPE_CHECKING:
    from firezone.wire.portal.shared import Vocabulary

EPOCH = 1_700_000_000
"""Unix seconds at instant 0 of a ManualClock."""
PORTAL_DELAY = 20 * MILLISECOND
SITE = Site(id=SiteId(str(uuid.UUID(int=0x51))), name="Berlin")

E = TypeVar("E")


def uid(number: int) -> str:
    """A UUID that sorts like its number."""
    return str(uuid.UUID(int=number))


def network(text: str) -> Network:
    return ipaddress.ip_network(text)


def cidr(
    number: int, address: str, *filters: Filter, name: str = "", sites: tuple[Site, ...] = (SITE,)
) -> client_wire.CidrResource:
    """A resource as a client sees it."""
    return client_wire.CidrResource(
        id=ResourceId(uid(number)), name=name or f"resource {number}", address=network(address), sites=sites, filters=filters
    )


def dns(
    number: int, address: str, *filters: Filter, ip_stack: str = "dual", sites: tuple[Site, ...] = (SITE,)
) -> client_wire.DnsResource:
    """A resource by name, as a client sees it."""
    return client_wire.DnsResource(
        id=ResourceId(uid(number)), name=f"resource {number}", address=address, sites=sites, filters=filters, ip_stack=ip_stack
    )  # fmt: skip


def interface_of(number: int) -> tuple[ipaddress.IPv4Address, ipaddress.IPv6Address]:
    return ipaddress.IPv4Address("100.64.0.0") + number, ipaddress.IPv6Address("fd00:2021:1111::") + number


class Member:
    """One client or gateway with everything below and above it."""

    from_portal: Vocabulary
    to_portal: Vocabulary

    def __init__(self, world: World, number: int, outer: str, state_class: type[TunnelState]) -> None:
        self.world = world
        self.id = uid(number)
        self.cid = ConnectionId(self.id)
        self.ipv4, self.ipv6 = interface_of(number)
        self.outer = Endpoint.from_text(outer, 52625)
        self.events: list[object] = []
        self.state_class = state_class
        self.life = 0
        self.is_alive = False
        self.errors: list[Exception] = []
        self.expected_errors: tuple[type[Exception], ...] = ()

    def boot(self) -> None:
        """Starts the program, anew after `crash`."""
        self.life += 1
        self.tables = Tables(bytes(range(48)))
        self.tun = MemoryTun()
        self.tun.coalesce = False  # One packet in is one packet out; joining has tests of its own.
        clock = self.world.clock
        rng = SeededRng(f"{self.id} {self.life}".encode())
        self.machine: Any = self.state_class(  # type: ignore[call-arg]
            store=self.tables.sessions, channels=self.tables.channels, rng=rng, now=clock.time, utc=clock.utc()
        )
        self.sockets = MemorySockets(self.world.network, [self.outer])
        self.engine = Engine(
            machine=self.machine, tables=self.tables, clock=clock, tun_source=self.tun.source, tun_sink=self.tun,
            udp_sources=[self.sockets.source], udp_sink=self.sockets,
        )  # fmt: skip
        self.is_alive = True
        self.machine.set_local_addresses([self.outer], clock.time)
        self.settle()

    def crash(self) -> None:
        """Ends without a word."""
        self.world.network.detach(self.outer)
        self.is_alive = False
        self.world.portal.members.pop(self.id, None)

    def stop(self) -> None:
        """Ends in order: with a goodbye to every peer."""
        self.machine.shutdown(self.world.clock.time)
        self.settle()
        self.crash()

    def tell(self, message: Any) -> None:
        """Hands over a message of the portal, by way of its JSON."""
        event, payload = self.from_portal.encode(message)
        decoded = self.from_portal.decode(event, payload)
        try:
            self.machine.handle_portal(decoded, self.world.clock.time, self.world.clock.utc())
        except FirezoneError as error:
            self.errors.append(error)
        self.settle()

    def call(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Calls the machine as the program around it does."""
        action(*arguments, self.world.clock.time)
        self.settle()

    def settle(self) -> None:
        """Takes what the machine wants."""
        self.engine.touch()
        self.report()

    def report(self) -> None:
        while (event := self.machine.poll_event()) is not None:
            self.events.append(event)
            match event:
                case SendToPortal(message):
                    self.world.portal.hear(self, message)
                case ReconnectPortal(public_key):
                    assert public_key == self.machine.public_key
                    self.world.portal.reconnect(self)
        if (errors := self.engine.errors.take()) is not None:
            for error in errors.exceptions:
                if not isinstance(error, self.expected_errors):
                    raise error
                self.errors.append(error)

    def dropped(self, reason: Reason) -> int:
        return int(self.engine.reasons[reason])

    def events_of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def sent(self, kind: type[E]) -> list[E]:
        """The messages of one kind that were sent to the portal."""
        return [event.message for event in self.events_of(SendToPortal) if isinstance(event.message, kind)]

    def send(self, *packets: bytes) -> None:
        """What an application (or, at a gateway, the site) sends into the TUN device."""
        for packet in packets:
            assert self.tun.send(packet)
        self.world.pump()

    def received(self) -> list[bytes]:
        """What came out of the TUN device since the last call."""
        return [packet for _, packet in self.tun.receive()]


class ClientMember(Member):
    from_portal = client_wire.FROM_PORTAL
    to_portal = client_wire.TO_PORTAL
    machine: ClientState

    def init_message(self) -> client_wire.Init:
        portal = self.world.portal
        return client_wire.Init(
            interface=ClientInterface(ipv4=self.ipv4, ipv6=self.ipv6), resources=tuple(portal.resources_of(self.id))
        )

    def intents(self) -> list[client_wire.CreateFlow]:
        return self.sent(client_wire.CreateFlow)


class GatewayMember(Member):
    from_portal = gateway_wire.FROM_PORTAL
    to_portal = gateway_wire.TO_PORTAL
    machine: GatewayState

    def __init__(self, world: World, number: int, outer: str, state_class: type[TunnelState]) -> None:
        super().__init__(world, number, outer, state_class)
        self.site: dict[str, tuple[str, ...]] = {}
        """Names of the site; the gateway looks them up in 5 ms. Others are resolved by the test, or never."""

    def report(self) -> None:
        before = len(self.events)
        super().report()
        for event in self.events[before:]:
            if isinstance(event, ResolveName) and event.domain in self.site:
                self.world.at(5 * MILLISECOND, lambda domain=event.domain: self._resolve(domain))  # type: ignore[misc]

    def _resolve(self, domain: str) -> None:
        self.call(self.machine.handle_resolved, domain, [ipaddress.ip_address(text) for text in self.site[domain]])

    def init_message(self) -> gateway_wire.Init:
        return gateway_wire.Init(
            interface=Interface(ipv4=self.ipv4, ipv6=self.ipv6),
            config=gateway_wire.Config(ipv4_masquerade_enabled=True, ipv6_masquerade_enabled=True),
            authorizations=tuple(self.world.portal.authorizations_of(self.id)),
        )


@dataclass
class Grant:
    """One live authorisation."""

    client: str
    resource: str
    gateway: str
    expires_at: int


@dataclass
class ScriptedPortal:
    """Forwards what clients and gateways say to each other; what it decides is set by the test."""

    world: World
    resources: dict[str, client_wire.Resource] = field(default_factory=dict)
    hidden: set[tuple[str, str]] = field(default_factory=set)
    """(client, resource) pairs that no policy allows."""
    gateway_for: dict[str, str] = field(default_factory=dict)
    """The gateway of a resource; without an entry the first gateway that is here."""
    lifetime: int = 86_400
    is_away: bool = False
    refuses: str | None = None
    """Reason that every request is answered with."""
    members: dict[str, Member] = field(default_factory=dict)
    grants: list[Grant] = field(default_factory=list)
    waiting: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    flows: int = 0
    heard: list[tuple[str, object]] = field(default_factory=list)
    kept: list[tuple[Member, object]] = field(default_factory=list)
    """What clients and gateways could not send while we are away: they send it when we are back."""

    # what a test decides

    def add(self, *resources: client_wire.Resource) -> None:
        for resource in resources:
            self.resources[resource.id] = resource
            for client in self.clients():
                self.say(client, client_wire.ResourceCreatedOrUpdated(resource=resource))

    def remove(self, number: int) -> None:
        """Takes a resource away from everybody."""
        resource = uid(number)
        del self.resources[resource]
        for client in self.clients():
            self.say(client, client_wire.ResourceDeleted(resource_id=ResourceId(resource)))
            self.revoke(client.id, number)

    def revoke(self, client: str, number: int) -> None:
        """Takes an authorisation away at the gateway alone."""
        gone = [grant for grant in self.grants if (grant.client, grant.resource) == (client, uid(number))]
        for grant in gone:
            self.grants.remove(grant)
            reject = gateway_wire.RejectAccess(client_id=ClientId(client), resource_id=ResourceId(grant.resource))
            self.say(self.members.get(grant.gateway), reject)

    def leave(self) -> None:
        self.is_away = True

    def come_back(self) -> None:
        self.is_away = False
        for member in list(self.members.values()):
            self.login(member)
        kept, self.kept = self.kept, []
        for member, message in kept:
            self.hear(member, message)

    # what members do

    def login(self, member: Member) -> None:
        self.members[member.id] = member
        if not self.is_away:
            self.say(member, member.init_message())  # type: ignore[attr-defined]

    def reconnect(self, member: Member) -> None:
        self.world.at(PORTAL_DELAY, lambda: self.login(member))

    def hear(self, member: Member, message: Any) -> None:
        if self.is_away:
            self.kept.append((member, message))
            return
        event, payload = member.to_portal.encode(message)
        decoded = member.to_portal.decode(event, payload)
        self.heard.append((member.id, decoded))
        self.world.at(PORTAL_DELAY, lambda: self._react(member, decoded))

    # in detail

    def clients(self) -> list[Member]:
        return [member for member in self.members.values() if isinstance(member, ClientMember)]

    def gateways(self) -> list[Member]:
        return [member for member in self.members.values() if isinstance(member, GatewayMember)]

    def resources_of(self, client: str) -> list[client_wire.Resource]:
        return [resource for resource in self.resources.values() if (client, resource.id) not in self.hidden]

    def authorizations_of(self, gateway: str) -> list[gateway_wire.Authorization]:
        return [
            gateway_wire.Authorization(
                client_id=ClientId(grant.client), resource_id=ResourceId(grant.resource), expires_at=grant.expires_at  # type: ignore[arg-type]
            )
            for grant in self.grants
            if grant.gateway == gateway
        ]  # fmt: skip

    def say(self, member: Member | None, message: Any) -> None:
        if member is not None and not self.is_away:
            life = member.life
            self.world.at(PORTAL_DELAY, lambda: member.tell(message) if member.is_alive and member.life == life else None)

    def _react(self, member: Member, message: object) -> None:
        match message:
            case client_wire.CreateFlow(resource_id=resource):
                self._create_flow(member, resource)
            case gateway_wire.FlowAuthorized(ref=ref):
                self._finish_flow(member, ref)
            case client_wire.BroadcastIceCandidates(gateway_ids=ids, candidates=lines):
                self._forward(ids, gateway_wire.IceCandidates(client_id=ClientId(member.id), candidates=lines))
            case client_wire.BroadcastInvalidatedIceCandidates(gateway_ids=ids, candidates=lines):
                self._forward(ids, gateway_wire.InvalidateIceCandidates(client_id=ClientId(member.id), candidates=lines))
            case gateway_wire.BroadcastIceCandidates(client_ids=ids, candidates=lines):
                self._forward(ids, client_wire.IceCandidates(gateway_id=GatewayId(member.id), candidates=lines))
            case gateway_wire.BroadcastInvalidatedIceCandidates(client_ids=ids, candidates=lines):
                self._forward(ids, client_wire.InvalidateIceCandidates(gateway_id=GatewayId(member.id), candidates=lines))
            case NoRelays():
                pass  # A test says itself which relays there are.
            case _:
                raise AssertionError(f"nobody expects {message}")

    def _forward(self, ids: Iterable[str], message: object) -> None:
        for number in ids:
            self.say(self.members.get(number), message)

    def _create_flow(self, client: Member, resource_id: str) -> None:
        resource = self.resources.get(resource_id)
        gateway = self.members.get(self.gateway_for.get(resource_id, "")) or next(iter(self.gateways()), None)
        reason = self.refuses or ("not_found" if resource is None else "offline" if gateway is None else None)
        if reason is not None:
            self.say(client, client_wire.FlowCreationFailed(resource_id=ResourceId(resource_id), reason=reason))
            return
        assert resource is not None
        assert gateway is not None
        expires_at = self.world.clock.utc() // SECOND + self.lifetime
        self.grants = [
            grant for grant in self.grants
            if (grant.client, grant.resource, grant.gateway) != (client.id, resource_id, gateway.id)
        ]  # fmt: skip
        self.grants.append(Grant(client.id, resource_id, gateway.id, expires_at))
        self.flows += 1
        ref = f"ref {self.flows}"
        self.waiting[ref] = client.id, gateway.id, resource_id
        ours, theirs, psk = self._secrets(client, gateway)
        self.say(
            gateway,
            gateway_wire.AuthorizeFlow(
                ref=ref,
                resource=_at_gateway(resource),
                client=gateway_wire.Client(
                    id=ClientId(client.id), public_key=PublicKey(client.machine.public_key), preshared_key=psk,
                    ipv4=client.ipv4, ipv6=client.ipv6,
                ),
                client_ice_credentials=ours,
                gateway_ice_credentials=theirs,
                expires_at=expires_at,  # type: ignore[arg-type]
            ),
        )  # fmt: skip

    def _finish_flow(self, gateway: Member, ref: str) -> None:
        client_id, _, resource = self.waiting.pop(ref)
        client = self.members.get(client_id)
        if client is None:
            return
        ours, theirs, psk = self._secrets(client, gateway)
        self.say(
            client,
            client_wire.FlowCreated(
                resource_id=ResourceId(resource), gateway_id=GatewayId(gateway.id), site_id=SITE.id,
                gateway_public_key=PublicKey(gateway.machine.public_key), gateway_ipv4=gateway.ipv4, gateway_ipv6=gateway.ipv6,
                preshared_key=psk, client_ice_credentials=ours, gateway_ice_credentials=theirs,
            ),
        )  # fmt: skip

    def _secrets(self, client: Member, gateway: Member) -> tuple[IceCredentials, IceCredentials, SecretBytes]:
        """The same for the same two keys, as the portal has it: so a second flow keeps the connection."""
        seed = hashlib.sha256(client.machine.public_key + gateway.machine.public_key).hexdigest()
        ours = IceCredentials(username=seed[:4], password=SecretText(seed[8:30]))
        theirs = IceCredentials(username=seed[4:8], password=SecretText(seed[30:52]))
        return ours, theirs, SecretBytes(bytes.fromhex(seed))


def _at_gateway(resource: client_wire.Resource) -> gateway_wire.Resource:
    """A resource as its gateway is told of it."""
    match resource:
        case client_wire.CidrResource():
            return gateway_wire.CidrResource(
                id=resource.id, name=resource.name, address=resource.address, filters=resource.filters
            )  # fmt: skip
        case client_wire.DnsResource():
            return gateway_wire.DnsResource(
                id=resource.id, name=resource.name, address=resource.address, filters=resource.filters
            )  # fmt: skip
        case client_wire.InternetResource():
            return gateway_wire.InternetResource(id=resource.id)


class World:
    """The clock, the network, the portal and everybody in it."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.network = MemoryNetwork()
        self.portal = ScriptedPortal(self)
        self.members: list[Member] = []
        self._queue: list[tuple[Instant, int, Callable[[], object]]] = []
        self._count = 0

    def client(self, number: int = 1, outer: str = "192.0.2.1") -> ClientMember:
        member = ClientMember(self, number, outer, ClientState)
        self._join(member)
        return member

    def gateway(self, number: int = 2, outer: str = "198.51.100.1") -> GatewayMember:
        member = GatewayMember(self, number, outer, GatewayState)
        self._join(member)
        return member

    def _join(self, member: Member) -> None:
        self.members.append(member)
        self.start(member)

    def start(self, member: Member) -> None:
        member.boot()
        self.portal.login(member)
        self.run(0.1)

    @property
    def utc(self) -> int:
        """Unix seconds."""
        return self.clock.utc() // SECOND

    def at(self, delay: int, action: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.clock.time + delay, self._count, action))

    def pump(self) -> None:
        """Ticks everybody until nobody has anything more to do at this moment."""
        for _ in range(1000):
            alive = [member for member in self.members if member.is_alive]
            more = [member.engine.tick() for member in alive]
            for member in alive:
                member.report()
            if not any(more) and all(member.engine.sleeps() and not self._is_due(member) for member in alive):
                return
        raise AssertionError("time stands still")

    def run(self, duration: float) -> None:
        """Lets so many seconds pass."""
        end = self.clock.time + seconds(duration)
        self.pump()
        while (deadline := self._next_deadline()) is not None and deadline <= end:
            self.clock.time = max(self.clock.time, deadline)
            while self._queue and self._queue[0][0] <= self.clock.time:
                heapq.heappop(self._queue)[2]()
            self.pump()
        self.clock.time = end
        self.pump()

    def run_until(self, condition: Callable[[], bool], limit: float) -> float:
        """Lets time pass until the condition holds; returns how long it took, in seconds."""
        start = self.clock.time
        while not condition():
            assert self.clock.time - start <= seconds(limit), "it does not come to hold"
            self.run(0.1)
        return (self.clock.time - start) / SECOND

    def _is_due(self, member: Member) -> bool:
        deadline = member.engine.deadline
        return member.is_alive and deadline is not None and deadline <= self.clock.time

    def _next_deadline(self) -> Instant | None:
        deadlines = [self._queue[0][0]] if self._queue else []
        deadlines += [member.engine.deadline for member in self.members if member.is_alive and member.engine.deadline is not None]
        return min(deadlines, default=None)
