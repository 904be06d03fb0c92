"""The NAT of one gateway with dictionaries, one packet at a time; ports are found by trying them all."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from firezone.kernels.types import Reason
from tests.harness.packets import ip as build_ip
from tests.harness.twins import ip
from tests.harness.twins.checksum import checksum

SECOND = 1_000_000_000
TCP_IDLE, IDLE, UNANSWERED, CLOSED, LINGER = 7440 * SECOND, 120 * SECOND, 60 * SECOND, 5 * SECOND, SECOND
FIN, SYN, RST, ACK = 1, 2, 4, 16
PROXIES = ipaddress.ip_network("100.96.0.0/11"), ipaddress.ip_network("fd00:2021:1111:8000::/107")

Key = tuple[int, int, int, bytes]
"""Client, protocol, source key, address."""


@dataclass
class Session:
    inside: Key
    outside: Key
    deadline: int = 0
    answered: bool = False
    fins: set[bool] = field(default_factory=set)
    is_reset: bool = False

    def touch(self, out: bool, flags: int, now: int) -> None:
        if self.is_reset:
            return
        self.answered |= not out
        if flags & FIN:
            self.fins.add(out)
        self.is_reset = bool(flags & RST)
        idle = TCP_IDLE if self.inside[1] == ip.TCP else IDLE
        if not self.answered:
            idle = UNANSWERED
        elif len(self.fins) == 2:
            idle = CLOSED
        self.deadline = now + (LINGER if self.is_reset else idle)


@dataclass
class Nat:
    """Translations and sessions; `own` are the gateway's addresses."""

    own: set[bytes] = field(default_factory=set)
    translations: dict[tuple[int, bytes], bytes | None] = field(default_factory=dict)
    inside: dict[Key, Session] = field(default_factory=dict)
    outside: dict[Key, Session] = field(default_factory=dict)

    def clear(self, client: int) -> None:
        self.translations = {key: real for key, real in self.translations.items() if key[0] != client}
        self.inside = {key: session for key, session in self.inside.items() if key[0] != client}
        self.outside = {key: session for key, session in self.outside.items() if key[0] != client}

    def forget(self, client: int, proxy: bytes) -> None:
        if self.translations.pop((client, proxy), self) is self:
            return
        for key, session in list(self.inside.items()):
            if (key[0], key[3]) == (client, proxy):
                session.deadline = 0
                del self.inside[key]

    def from_tunnel(self, client: int, parsed: ip.Parsed, now: int) -> bytes | Reason:
        _, destination = _addresses(parsed.packet)
        if not any(ipaddress.ip_address(destination) in network for network in PROXIES):
            return parsed.packet
        inside = (client, parsed.protocol, parsed.source_port, destination)
        session = self._live(inside, _tcp_flags(parsed), now) if _has_key(parsed) else None
        if session is None:
            real = self.translations.get((client, destination))
            if real is None:
                return Reason.NO_TRANSLATION
            if not _has_key(parsed):
                return Reason.UNSUPPORTED_PROTOCOL
            session = self._open(inside, real, now)
            if session is None:
                return Reason.NAT_EXHAUSTED
        session.touch(True, _tcp_flags(parsed), now)
        return rewrite(parsed, source=False, address=session.outside[3], key=session.outside[2])

    def to_tunnel(self, client: int, parsed: ip.Parsed, now: int) -> bytes | Reason:
        source, destination = _addresses(parsed.packet)
        if source in self.own and not parsed.flags & ip.ICMP_ERROR:
            return parsed.packet
        if parsed.flags & ip.ICMP_ERROR:
            outside = _embedded(client, parsed)
        elif _has_key(parsed):
            outside = (client, parsed.protocol, parsed.destination_port, source)
        else:
            outside = None
        session = self.outside.get(outside) if outside is not None else None
        if session is None:
            return parsed.packet
        if now >= session.deadline:
            return Reason.EXPIRED_NAT_SESSION
        session.touch(False, _tcp_flags(parsed), now)
        if parsed.flags & ip.ICMP_ERROR:
            return _rebuilt(parsed, session.inside[3], session.inside[2], destination)
        return rewrite(parsed, source=True, address=session.inside[3], key=session.inside[2])

    def _live(self, inside: Key, flags: int, now: int) -> Session | None:
        session = self.inside.get(inside)
        if session is None or now >= session.deadline:
            return None
        if flags & (SYN | ACK) == SYN and (session.is_reset or len(session.fins) == 2):
            session.deadline = now
            return None
        return session

    def _open(self, inside: Key, real: bytes, now: int) -> Session | None:
        client, protocol, wanted, _ = inside
        for key in [*range(wanted, 65536), *range(1, wanted)]:
            outside = (client, protocol, key, real)
            taken = self.outside.get(outside)
            if taken is None or now >= taken.deadline:
                if taken is not None and self.inside.get(taken.inside) is taken:
                    del self.inside[taken.inside]
                self.inside[inside] = self.outside[outside] = session = Session(inside, outside)
                return session
        return None


def rewrite(parsed: ip.Parsed, *, source: bool, address: bytes, key: int) -> bytes:
    """The packet with another source or destination, all checksums patched by the difference of sums."""
    before = parsed.packet
    packet, size, at = bytearray(before), len(address), parsed.transport
    start = (12 if size == 4 else 8) + (0 if source else size)
    packet[start : start + size] = address
    place = at + 4 if parsed.flags & ip.ICMP else at + (2 if source else 0)
    packet[place : place + 2] = key.to_bytes(2, "big")
    keys = (key.to_bytes(2, "big"), before[place : place + 2])
    addresses = (address, before[start : start + size])
    if size == 4:
        _patch(packet, 10, addresses)
    field_at = {ip.TCP: at + 16, ip.UDP: at + 6}.get(parsed.protocol, at + 2)
    if parsed.protocol == ip.UDP and before[field_at : field_at + 2] == bytes(2):
        return bytes(packet)
    covered = keys if parsed.protocol == ip.ICMPV4 else (keys[0] + addresses[0], keys[1] + addresses[1])
    _patch(packet, field_at, covered)
    return bytes(packet)


def _patch(packet: bytearray, at: int, change: tuple[bytes, bytes]) -> None:
    """Replaces a checksum after `change` (new bytes, old bytes); never by zero."""
    old = 0xFFFF - int.from_bytes(packet[at : at + 2], "big")
    total = (old + _sum(change[0]) - _sum(change[1])) % 0xFFFF
    packet[at : at + 2] = (0xFFFF - total).to_bytes(2, "big")


def _sum(data: bytes) -> int:
    return sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))


def _addresses(packet: bytes) -> tuple[bytes, bytes]:
    start, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    return packet[start : start + size], packet[start + size : start + 2 * size]


def _has_key(parsed: ip.Parsed) -> bool:
    return bool(parsed.flags & ip.HAS_KEY) and not (parsed.flags & ip.ICMP and parsed.packet[parsed.transport + 1])


def _tcp_flags(parsed: ip.Parsed) -> int:
    return parsed.packet[parsed.transport + 13] if parsed.protocol == ip.TCP else 0


def _embedded(client: int, parsed: ip.Parsed) -> Key | None:
    packet = parsed.packet[parsed.transport + 8 :]
    try:
        version, protocol, transport = ip.walk(packet)
    except ip.Refused:
        return None
    if version != parsed.version or len(packet) - transport < 8:
        return None
    if protocol in (ip.TCP, ip.UDP):
        key = packet[transport : transport + 2]
    elif (protocol, packet[transport]) in ((ip.ICMPV4, 8), (ip.ICMPV6, 128)) and (protocol == ip.ICMPV4) == (version == 4):
        key = packet[transport + 4 : transport + 6]
    else:
        return None
    return client, protocol, int.from_bytes(key, "big"), _addresses(packet)[1]


def _rebuilt(parsed: ip.Parsed, proxy: bytes, key: int, destination: bytes) -> bytes:
    """The error as if the proxy IP had sent it, about the packet as the client had sent it."""
    icmp = parsed.packet[parsed.transport :]
    embedded, is_v4 = bytearray(icmp[8:]), parsed.version == 4
    _, protocol, transport = ip.walk(bytes(embedded))
    start = 16 if is_v4 else 24
    embedded[start : start + len(proxy)] = proxy
    at = transport + (0 if protocol in (ip.TCP, ip.UDP) else 4)
    embedded[at : at + 2] = key.to_bytes(2, "big")
    rest = bytes(4)
    if is_v4 and icmp[:2] == b"\x03\x04":
        rest = bytes(2) + icmp[6:8]
    elif not is_v4 and icmp[0] == 2:
        rest = icmp[4:8]
    body = icmp[:2] + bytes(2) + rest + bytes(embedded)
    pseudo = b"" if is_v4 else proxy + destination + len(body).to_bytes(4, "big") + bytes((0, 0, 0, ip.ICMPV6))
    body = body[:2] + checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    texts = [str(ipaddress.ip_address(address)) for address in (proxy, destination)]
    return build_ip(texts[0], texts[1], ip.ICMPV4 if is_v4 else ip.ICMPV6, body, ttl=20)
