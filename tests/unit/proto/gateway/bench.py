"""One gateway, and one client that is connected and says whatever the test wants, also what no client would."""

from __future__ import annotations

from collections.abc import Callable

from firezone.base.ids import ClientId, ResourceId
from firezone.proto.gateway.filter_set import INTERNET
from firezone.proto.gateway.state import AccessChanged
from firezone.proto.tunnel_state import ConnectionChanged
from firezone.proto.updates import PeerFilterSet
from firezone.wire.ip import decode_ip
from firezone.wire.portal import client as client_wire
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.shared import Filter, Interface
from tests.harness import packets
from tests.harness.packets import ICMP, ICMPV6
from tests.harness.roles import World, cidr, interface_of, network, uid

GRE = 47
V4, V6 = "10.0.0.7", "fd00:1::7"
PROHIBITED_V4, PROHIBITED_V6 = (ICMP, 3, 13), (ICMPV6, 1, 1)
UNREACHABLE_V4, UNREACHABLE_V6 = (ICMP, 3, 0), (ICMPV6, 1, 3)


def tcp_filter(start: int, end: int | None = None) -> Filter:
    return Filter(protocol="tcp", port_range_start=start, port_range_end=start if end is None else end)


def udp_filter(start: int, end: int | None = None) -> Filter:
    return Filter(protocol="udp", port_range_start=start, port_range_end=start if end is None else end)


class Bench:
    """One gateway and one client that is connected and says whatever the test wants."""

    def __init__(self, *resources: tuple[str, tuple[Filter, ...]]) -> None:
        self.world = World()
        self.gateway = self.world.gateway()
        self.client = self.world.client()
        self.world.portal.add(cidr(9, "198.18.0.0/24"))
        self.ask(9)
        for number, (address, filters) in enumerate(resources, 10):
            self.grant(number, address, *filters)
        self.open_up()
        self.revoke(9) if resources else None
        self.world.run(0.1)
        self.gateway.received()

    def ask(self, number: int) -> None:
        """Lets the client ask for a resource in earnest, by a packet."""
        self.world.run(0.1)
        resource = self.world.portal.resources[uid(number)]
        assert isinstance(resource, client_wire.CidrResource)
        address = resource.address
        server = str(address.network_address)
        source = self.client.ipv4 if address.version == 4 else self.client.ipv6
        self.client.send(packets.udp(str(source), server))
        self.world.run(1)

    def open_up(self) -> None:
        """Switches the client's own admission off."""
        row = self.client.machine.node.row_of(self.gateway.cid)
        assert row is not None
        self.client.tables.apply(PeerFilterSet(row, remote=INTERNET))

    def grant(self, number: int, address: str, *filters: Filter, expires_at: int | None = None, resource: object = None) -> None:
        """What the portal tells the gateway when the client may use a resource."""
        portal = self.world.portal
        ours, theirs, psk = portal._secrets(self.client, self.gateway)
        granted = resource or wire.CidrResource(id=ResourceId(uid(number)), name="r", address=network(address), filters=filters)
        message = wire.AuthorizeFlow(
            ref="by hand", resource=granted, client_ice_credentials=ours, gateway_ice_credentials=theirs,  # type: ignore[arg-type]
            client=wire.Client(
                id=ClientId(self.client.id), public_key=self.client.machine.public_key, preshared_key=psk,  # type: ignore[arg-type]
                ipv4=self.client.ipv4, ipv6=self.client.ipv6,
            ),
            expires_at=expires_at,  # type: ignore[arg-type]
        )  # fmt: skip
        portal.waiting["by hand"] = "nobody", self.gateway.id, uid(number)
        self.gateway.tell(message)
        self.world.run(0.1)

    def revoke(self, number: int) -> None:
        self.gateway.tell(wire.RejectAccess(client_id=ClientId(self.client.id), resource_id=ResourceId(uid(number))))
        self.world.run(0.1)

    def out(self, packet: bytes) -> bytes | tuple[int, int, int] | None:
        """Sends a packet out of the client: it comes out at the gateway's TUN, or as an ICMP error, or not at all."""
        self.client.received()
        node, clock = self.client.machine.node, self.world.clock
        node.encapsulate(self.gateway.cid, packet, clock.time)
        self.client.settle()
        self.world.pump()
        passed, answers = self.gateway.received(), self.client.received()
        if passed:
            assert passed == [packet]
            assert not answers
            return packet
        if not answers:
            return None
        (error,) = answers
        header, refused = decode_ip(error), decode_ip(packet)
        assert (header.source, header.destination) == (refused.destination, refused.source)
        return header.protocol, error[header.transport], error[header.transport + 1]

    def passes(self, packet: bytes) -> bool:
        outcome = self.out(packet)
        assert outcome in (packet, PROHIBITED_V4, PROHIBITED_V6)
        return outcome == packet

    def into(self, packet: bytes) -> bool:
        """Sends a packet from the site towards the client."""
        self.client.received()
        self.gateway.send(packet)
        return self.client.received() == [packet]

    def udp(self, port: int = 80, server: str = V4, source: str | None = None) -> bytes:
        own = str(self.client.ipv4 if "." in server else self.client.ipv6)
        return packets.udp(source or own, server, b"data", ports=(5000, port))

    def tcp(self, port: int = 80, server: str = V4) -> bytes:
        return packets.tcp(str(self.client.ipv4 if "." in server else self.client.ipv6), server, ports=(5000, port))

    @property
    def says_goodbye(self) -> bool:
        return bool([e for e in self.client.events_of(ConnectionChanged) if e.detail == "the peer said goodbye"])

    def changes(self) -> list[str]:
        return [event.what for event in self.gateway.events_of(AccessChanged)]


def init(world: World, *triples: tuple[str, int, int], number: int = 2) -> wire.Init:
    ipv4, ipv6 = interface_of(number)
    return wire.Init(
        interface=Interface(ipv4=ipv4, ipv6=ipv6),
        config=wire.Config(ipv4_masquerade_enabled=True, ipv6_masquerade_enabled=True),
        authorizations=tuple(
            wire.Authorization(client_id=ClientId(client), resource_id=ResourceId(uid(resource)), expires_at=expires_at)  # type: ignore[arg-type]
            for client, resource, expires_at in triples
        ),
    )


def outputs(poll: Callable[[], object | None]) -> list[object]:
    found = []
    while (item := poll()) is not None:
        found.append(item)
    return found
