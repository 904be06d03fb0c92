"""Rewrites IPv4 packets by a NAT table: UDP, and ICMP errors about it. Checksums are brought along, not made anew.

Pure: packets and time in, packets out. What cannot be translated is dropped and counted by reason: a NAT is silent about what it
does not let through. Fragments are dropped, for the lab's programs never send any (their datagrams fit every link of it).

Source: RFC 3022 section 4 for the rewriting, RFC 4787 section 9 (REQ-10) and RFC 5508 section 4 for ICMP errors.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

from firezone.base.net import Endpoint
from firezone.kernels.checksum import inet_checksum, update

if TYPE_CHECKING:
    import ipaddress

    from firezone.base.timing import Instant
    from firezone.lab.nat.table import NatTable

_ICMP, _UDP = 1, 17
_HEADER, _UDP_HEADER, _ICMP_HEADER = 20, 8, 8
_ICMP_ERRORS = {3, 11, 12}
"""Destination unreachable, time exceeded, parameter problem."""
_FRAGMENT = 0x3FFF
_SOURCE, _DESTINATION = 12, 16


class PacketMachine(Protocol):
    """What stands between reading a packet and writing it: a NAT, or a queue that delays."""

    def handle_packet(self, packet: bytes, now: Instant) -> None: ...
    def handle_timeout(self, now: Instant) -> None: ...
    def poll_timeout(self) -> Instant | None: ...
    def poll_packet(self) -> bytes | None: ...


class UdpNat:
    """The NAT as a packet machine: packets of both sides come in by the same door and are told apart by their source."""

    def __init__(self, table: NatTable, inside: ipaddress.IPv4Network) -> None:
        self.table = table
        self.dropped: Counter[str] = Counter()
        self.is_rebinding = False
        """Set to have the table rebound before the next packet. A signal's handler may not touch the table itself."""
        self._mask, self._inside = int(inside.netmask), int(inside.network_address)
        self._ready: deque[bytes] = deque()

    def handle_packet(self, packet: bytes, now: Instant) -> None:
        transport = _transport_of(packet)
        if transport is None:
            self._drop("malformed")
            return
        handle = self._handle_udp if packet[9] == _UDP else self._handle_icmp
        handle(bytearray(packet), transport, now)

    def handle_timeout(self, now: Instant) -> None:
        """Rebinds when that was asked for; the table forgets by itself, when it is asked."""
        if self.is_rebinding:
            self.is_rebinding = False
            self.table.rebind()

    def poll_timeout(self) -> Instant | None:
        return None

    def poll_packet(self) -> bytes | None:
        return self._ready.popleft() if self._ready else None

    def _handle_udp(self, packet: bytearray, at: int, now: Instant) -> None:
        source, destination = _endpoint(packet, _SOURCE, at), _endpoint(packet, _DESTINATION, at + 2)
        if not self._is_inside(source.ip):
            inner = self.table.incoming(destination, source, now)
            if inner is None:
                self._drop("filtered")
                return
            _rewrite(packet, _DESTINATION, at + 2, at + 6, inner)
        elif destination.ip == self.table.outer_ip:
            ends = self.table.hairpin(source, destination, now)
            if ends is None:
                self._drop("hairpin")
                return
            _rewrite(packet, _SOURCE, at, at + 6, ends[0])
            _rewrite(packet, _DESTINATION, at + 2, at + 6, ends[1])
        else:
            outer = self.table.outgoing(source, destination, now)
            if outer is None:
                self._drop("refused")
                return
            _rewrite(packet, _SOURCE, at, at + 6, outer)
        self._ready.append(bytes(packet))

    def _handle_icmp(self, packet: bytearray, at: int, now: Instant) -> None:
        """Translates an error about one of our mappings, outside and in what it quotes."""
        quoted = bytes(packet[at + _ICMP_HEADER :])
        inner_at = _transport_of(quoted, is_quoted=True)
        if packet[at] not in _ICMP_ERRORS or inner_at is None or quoted[9] != _UDP:
            self._drop("icmp")
            return
        source, destination = _endpoint(quoted, _SOURCE, inner_at), _endpoint(quoted, _DESTINATION, inner_at + 2)
        base = at + _ICMP_HEADER
        if self._is_inside(bytes(packet[_SOURCE : _SOURCE + 4])):
            # Somebody inside refuses what we let in: the quoted destination is the inner endpoint.
            outer = self.table.outer_of(destination, source, now)
            if outer is None:
                self._drop("icmp")
                return
            _rewrite(packet, _DESTINATION, inner_at + 2, inner_at + 6, outer, base)
            _rewrite_address(packet, _SOURCE, outer.ip)
        else:
            inner = self.table.inner_of(source, now)
            if inner is None:
                self._drop("icmp")
                return
            _rewrite(packet, _SOURCE, inner_at, inner_at + 6, inner, base)
            _rewrite_address(packet, _DESTINATION, inner.ip)
        packet[at + 2 : at + 4] = b"\0\0"
        packet[at + 2 : at + 4] = inet_checksum(packet[at:]).to_bytes(2, "big")
        self._ready.append(bytes(packet))

    def _is_inside(self, ip: bytes) -> bool:
        return int.from_bytes(ip, "big") & self._mask == self._inside

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1


def _transport_of(packet: bytes, *, is_quoted: bool = False) -> int | None:
    """Returns the offset of the UDP or ICMP header; None without one. A quoted packet may be cut off behind the first 8 bytes."""
    if len(packet) < _HEADER or packet[0] >> 4 != 4:
        return None
    at = (packet[0] & 0xF) * 4
    total = int.from_bytes(packet[2:4], "big")
    if at < _HEADER or len(packet) < at + _UDP_HEADER or int.from_bytes(packet[6:8], "big") & _FRAGMENT:
        return None
    if packet[9] not in (_UDP, _ICMP) or (total != len(packet) and not is_quoted):
        return None
    return at


def _endpoint(packet: bytes | bytearray, address_at: int, port_at: int) -> Endpoint:
    return Endpoint(bytes(packet[address_at : address_at + 4]), int.from_bytes(packet[port_at : port_at + 2], "big"))


def _rewrite(packet: bytearray, address_at: int, port_at: int, checksum_at: int, new: Endpoint, base: int = 0) -> None:
    """Lays an endpoint over another and brings both checksums along; all offsets count from `base`, where the packet starts."""
    address, port, checksum = base + address_at, base + port_at, base + checksum_at
    before = bytes(packet[address : address + 4] + packet[port : port + 2])
    after = new.ip + new.port.to_bytes(2, "big")
    _rewrite_address(packet, address_at, new.ip, base)
    packet[port : port + 2] = after[4:]
    # A quoted packet may end before its checksum's field, and 0 says that there is none (RFC 768).
    old = int.from_bytes(packet[checksum : checksum + 2], "big")
    if old and checksum + 2 <= len(packet):
        packet[checksum : checksum + 2] = (update(old, before, after) or 0xFFFF).to_bytes(2, "big")


def _rewrite_address(packet: bytearray, at: int, ip: bytes, base: int = 0) -> None:
    at, header = base + at, base + 10
    checksum = update(int.from_bytes(packet[header : header + 2], "big"), bytes(packet[at : at + 4]), ip)
    packet[at : at + 4] = ip
    packet[header : header + 2] = checksum.to_bytes(2, "big")
