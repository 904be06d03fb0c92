"""Splitting, grouping and joining as the specification tells them, one packet at a time."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.kernels.types import Reason
from tests.harness.twins import ip
from tests.harness.twins.checksum import checksum, pseudo_sum, transport_checksum

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

NEEDS_CSUM = 1
NONE, TCPV4, TCPV6, UDP_L4 = 0, 1, 4, 5
PSH, ACK, FIN = 0x08, 0x10, 0x01


def vnet(flags: int = 0, gso_type: int = 0, header: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    """A virtio-net header."""
    return struct.pack("=BBHHHH", flags, gso_type, header, size, start, offset)


# --- splitting ---------------------------------------------------------------------------------------------------------


def split(header: bytes, packet: bytes) -> list[bytes] | Reason:
    """The packets of one TUN read, or why it is refused."""
    flags, gso_type, _, size, start, offset = struct.unpack("=BBHHHH", header)
    if not packet or (flags & NEEDS_CSUM and (start + offset + 2 > len(packet) or offset % 2)):
        return Reason.MALFORMED_OFFLOAD
    if gso_type == NONE:
        if len(packet) > 1280:
            return Reason.OVERSIZED
        return [_complete(packet, start, offset) if flags & NEEDS_CSUM else packet]
    layout = _super_layout(gso_type, packet)
    if layout is None or size == 0:
        return Reason.MALFORMED_OFFLOAD
    transport, headers = layout
    payloads = [packet[at : at + size] for at in range(headers, len(packet), size)]
    if not payloads or len(payloads) > 256:
        return Reason.MALFORMED_OFFLOAD
    if headers + len(payloads[0]) > 1280:
        return Reason.OVERSIZED
    return [
        _segment(packet, transport, headers, payload, index, index * size, index == len(payloads) - 1)
        for index, payload in enumerate(payloads)
    ]


def _complete(packet: bytes, start: int, offset: int) -> bytes:
    changed = bytearray(packet)
    at = start + offset
    initial = int.from_bytes(packet[at : at + 2], "big")
    changed[at : at + 2] = bytes(2)
    value = checksum(bytes(changed[start:]), initial)
    if value == 0 and offset == 6:
        value = 0xFFFF
    changed[at : at + 2] = value.to_bytes(2, "big")
    return bytes(changed)


def _super_layout(gso_type: int, packet: bytes) -> tuple[int, int] | None:
    """Offset of the transport header and length of all headers; None when the packet is not what the type says."""
    minimum = {4: 20, 6: 40}.get(packet[0] >> 4)
    if gso_type not in (TCPV4, TCPV6, UDP_L4) or minimum is None or len(packet) < minimum:
        return None
    try:
        version, protocol, transport = ip.walk(packet)
    except ip.Refused:
        return None
    wanted = {TCPV4: (4, ip.TCP), TCPV6: (6, ip.TCP), UDP_L4: (version, ip.UDP)}[gso_type]
    minimum = 20 if protocol == ip.TCP else 8
    if (version, protocol) != wanted or len(packet) - transport < minimum:
        return None
    size = (packet[transport + 12] >> 4) * 4 if protocol == ip.TCP else 8
    return (transport, transport + size) if minimum <= size < len(packet) - transport else None


def _segment(packet: bytes, transport: int, headers: int, payload: bytes, index: int, ahead: int, is_last: bool) -> bytes:
    out = bytearray(packet[:headers] + payload)
    is_tcp = headers - transport >= 20
    if packet[0] >> 4 == 4:
        out[2:4] = len(out).to_bytes(2, "big")
        out[4:6] = ((int.from_bytes(packet[4:6], "big") + index) & 0xFFFF).to_bytes(2, "big")
        out[10:12] = bytes(2)
        out[10:12] = checksum(bytes(out[: (packet[0] & 15) * 4])).to_bytes(2, "big")
    else:
        out[4:6] = (len(out) - 40).to_bytes(2, "big")
    if is_tcp:
        sequence = (int.from_bytes(packet[transport + 4 : transport + 8], "big") + ahead) & 0xFFFFFFFF
        out[transport + 4 : transport + 8] = sequence.to_bytes(4, "big")
        if not is_last:
            out[transport + 13] &= 0xFF ^ (PSH | FIN)
    else:
        out[transport + 4 : transport + 6] = (len(out) - transport).to_bytes(2, "big")
    return with_checksum(bytes(out), transport, 6 if is_tcp else 17)


def with_checksum(packet: bytes, transport: int, protocol: int) -> bytes:
    """The packet with its TCP, UDP or ICMPv6 checksum computed anew."""
    start, size = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    at = transport + {6: 16, 17: 6, 58: 2}[protocol]
    bare = packet[:at] + bytes(2) + packet[at + 2 :]
    source, destination = packet[start : start + size], packet[start + size : start + 2 * size]
    return bare[:at] + transport_checksum(source, destination, protocol, bare[transport:]).to_bytes(2, "big") + bare[at + 2 :]


# --- grouping ----------------------------------------------------------------------------------------------------------


def group(rows: Sequence[tuple[Hashable, int, int]]) -> list[list[int]]:
    """Runs of row numbers, for rows of (key, family of the destination, length)."""
    runs: list[list[int]] = []
    recent: dict[Hashable, list[int]] = {}
    for number, (key, family, length) in enumerate(rows):
        run = recent.get(key)
        if run is not None:
            sizes = [rows[member][2] for member in run]
            most = min(64, (65535 - (48 if family == 6 else 68)) // sizes[0])
            if sum(sizes) % sizes[0] == 0 and length <= sizes[0] and len(run) < most:
                run.append(number)
                continue
        recent[key] = [number]
        runs.append(recent[key])
    return runs


# --- joining -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """A packet that parsed, taken apart."""

    version: int
    protocol: int
    transport: int
    packet: bytes

    @property
    def flow(self) -> tuple[object, ...] | None:
        if self.protocol not in (6, 17):
            return None
        start, end = (12, 20) if self.version == 4 else (8, 40)
        return self.version, self.protocol, self.packet[start:end], self.packet[self.transport : self.transport + 4]

    @property
    def headers(self) -> int:
        return self.transport + ((self.packet[self.transport + 12] >> 4) * 4 if self.protocol == 6 else 8)

    @property
    def payload(self) -> bytes:
        return self.packet[self.headers :]

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.packet[self.transport + 4 : self.transport + 8], "big")

    @property
    def tcp_flags(self) -> int:
        return int.from_bytes(self.packet[self.transport + 12 : self.transport + 14], "big") & 0xFFF

    def is_candidate(self) -> bool:
        if self.protocol not in (6, 17) or self.transport != (20 if self.version == 4 else 40) or not self.payload:
            return False
        if self.protocol == 17:
            return self.packet[self.transport + 6 : self.transport + 8] != bytes(2)
        return self.tcp_flags in (ACK, ACK | PSH)

    def fixed(self) -> tuple[object, ...]:
        """Everything that all packets of one super-packet share besides the flow."""
        p, t = self.packet, self.transport
        network = (p[1], p[6] >> 5, p[8]) if self.version == 4 else (p[0], p[1] >> 4, p[7])
        transport = (p[t + 8 : t + 12], p[t + 14 : t + 16], p[t + 20 : self.headers]) if self.protocol == 6 else ()
        return network, transport, self.headers


def join(packets: Sequence[bytes], coalesce: bool) -> list[tuple[bytes, bytes]]:
    """What is written to TUN for accepted packets: (virtio-net header, bytes) each."""
    items: list[list[_View]] = []
    recent: dict[object, list[_View]] = {}
    for packet in packets:
        view = _View(*ip.walk(packet), packet)
        item = recent.get(view.flow) if coalesce and view.flow is not None else None
        if item is not None and _takes(item, view):
            item.append(view)
            continue
        items.append([view])
        if view.flow is not None:
            recent[view.flow] = items[-1]
    return [_finish(item) if len(item) > 1 else (bytes(10), item[0].packet) for item in items]


def _takes(item: list[_View], view: _View) -> bool:
    first, last = item[0], item[-1]
    if not view.is_candidate() or not first.is_candidate() or view.fixed() != first.fixed():
        return False
    carried = sum(len(member.payload) for member in item)
    if len(last.payload) != len(first.payload) or len(view.payload) > len(first.payload):
        return False
    if first.headers + carried + len(view.payload) > 65535:
        return False
    if view.protocol == 17:
        return len(item) < 128
    return not last.tcp_flags & PSH and view.sequence == (first.sequence + carried) & 0xFFFFFFFF


def _finish(item: list[_View]) -> tuple[bytes, bytes]:
    first, is_tcp = item[0], item[0].protocol == 6
    out = bytearray(first.packet[: first.headers] + b"".join(member.payload for member in item))
    t, size = first.transport, len(out) - first.transport
    if first.version == 4:
        out[2:4] = len(out).to_bytes(2, "big")
        out[10:12] = bytes(2)
        out[10:12] = checksum(bytes(out[:20])).to_bytes(2, "big")
    else:
        out[4:6] = size.to_bytes(2, "big")
    if is_tcp and any(member.tcp_flags & PSH for member in item):
        out[t + 13] |= PSH
    if not is_tcp:
        out[t + 4 : t + 6] = size.to_bytes(2, "big")
    start, width = (12, 4) if first.version == 4 else (8, 16)
    addresses = bytes(out[start : start + width]), bytes(out[start + width : start + 2 * width])
    at = t + (16 if is_tcp else 6)
    out[at : at + 2] = pseudo_sum(*addresses, first.protocol, size).to_bytes(2, "big")
    kind = UDP_L4 if not is_tcp else TCPV4 if first.version == 4 else TCPV6
    return vnet(NEEDS_CSUM, kind, first.headers, len(first.payload), t, at - t), bytes(out)
