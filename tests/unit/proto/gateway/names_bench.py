"""A bench whose client announces names and looks into what comes out translated."""

from __future__ import annotations

import ipaddress
import json

from firezone.base.ids import ConnectionId, ResourceId
from firezone.proto.gateway.state import ResolveName
from firezone.wire.control import ControlEvent, decode_control, decode_domain_status, encode_control
from firezone.wire.ip import decode_ip
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.shared import Filter
from tests.harness import packets
from tests.harness.roles import uid
from tests.unit.proto.gateway.bench import Bench

DOMAIN = "app.corp.test"
PROXIES = ("100.96.0.1", "100.96.0.2", "100.96.0.3", "100.96.0.4")
PROXIES6 = ("fd00:2021:1111:8000::", "fd00:2021:1111:8000::1")


class NamesBench(Bench):
    """A bench that announces names and looks into what comes out translated."""

    def __init__(self, *filters: Filter, pattern: str = "*.corp.test") -> None:
        super().__init__()
        self.statuses: list[str] = []
        machine, hear = self.client.machine, self.client.machine._handle_control

        def listen(cid: ConnectionId, packet: bytes, now: int) -> None:
            control = decode_control(packet)
            if control.event == ControlEvent.DOMAIN_STATUS:
                self.statuses.append(decode_domain_status(control.body).status)
            hear(cid, packet, now)

        machine._handle_control = listen  # type: ignore[method-assign]
        self.grant_name(20, pattern, *filters)

    def grant_name(self, number: int, pattern: str, *filters: Filter, expires_at: int | None = None) -> None:
        resource = wire.DnsResource(id=ResourceId(uid(number)), name="r", address=pattern, filters=filters)
        self.grant(number, "", resource=resource, expires_at=expires_at)

    def tell(self, packet: bytes) -> None:
        self.client.machine.node.encapsulate(self.gateway.cid, packet, self.world.clock.time)
        self.client.settle()
        self.world.pump()

    def announce(self, number: int = 20, domain: str = DOMAIN, proxies: tuple[str, ...] = PROXIES) -> str | None:
        """Announces a name; returns what the gateway wants resolved."""
        self.gateway.events.clear()
        body = {"resource": uid(number), "domain": domain, "proxy_ips": list(proxies)}
        self.tell(encode_control(ControlEvent.ASSIGNED_IPS, json.dumps(body).encode()))
        wanted = self.gateway.events_of(ResolveName)
        return wanted[0].domain if wanted else None

    def resolve(self, *addresses: str, domain: str = DOMAIN) -> None:
        found = [ipaddress.ip_address(address) for address in addresses]
        self.gateway.call(self.gateway.machine.handle_resolved, domain, found)
        self.world.pump()

    def set_up(
        self, *addresses: str, number: int = 20, domain: str = DOMAIN, proxies: tuple[str, ...] = PROXIES + PROXIES6
    ) -> None:
        before = len(self.statuses)
        assert self.announce(number, domain, proxies) == domain
        self.resolve(*addresses, domain=domain)
        assert self.statuses[before:] == ["Active"]

    def through(self, packet: bytes) -> tuple[str, int | None] | tuple[int, int, int] | None:
        """Sends a packet: where it comes out, and with which source key; or the ICMP error; or None."""
        self.client.received()
        self.tell(packet)
        passed, answers = self.gateway.received(), self.client.received()
        if passed:
            assert not answers
            header = decode_ip(passed[0])
            assert header.source in (self.client.ipv4, self.client.ipv6)
            return str(header.destination), header.source_port
        if not answers:
            return None
        header, refused = decode_ip(answers[0]), decode_ip(packet)
        assert (header.source, header.destination) == (refused.destination, refused.source)
        return header.protocol, answers[0][header.transport], answers[0][header.transport + 1]

    def back(self, packet: bytes) -> str | None:
        """Sends a packet from the site: the source that the client sees, or None."""
        self.client.received()
        self.gateway.send(packet)
        seen = self.client.received()
        return str(decode_ip(seen[0]).source) if seen else None

    def reply(self, server: str, port: int, source: int = 80) -> bytes:
        return packets.udp(server, str(self.client.ipv4), b"reply", ports=(source, port))
