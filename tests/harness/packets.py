"""IP packets for tests: builders with valid checksums, and Hypothesis strategies for valid, odd and hostile ones."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.harness.twins.checksum import checksum
from tests.harness.twins.offload import ACK, PSH, with_checksum

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


def ip(
    source: str, destination: str, protocol: int, payload: bytes, *, ecn: int = 0, ident: int = 0, flags: int = 0x4000,
    ttl: int = 64, options: bytes = b"", label: int = 0, dscp: int = 0, extensions: bytes = b"",
) -> bytes:  # fmt: skip
    """An IPv4 or IPv6 packet around a payload; `extensions` stand in front of it and `protocol` names the first of them."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    tos, body = dscp << 2 | ecn, extensions + payload
    if a.version == 6:
        head = (6 << 28 | tos << 20 | label).to_bytes(4, "big") + len(body).to_bytes(2, "big") + bytes([protocol, ttl])
        return head + a.packed + b.packed + body
    v4 = bytearray([0x40 | 5 + len(options) // 4, tos])
    v4 += (20 + len(options) + len(body)).to_bytes(2, "big") + ident.to_bytes(2, "big") + flags.to_bytes(2, "big")
    v4 += bytes([ttl, protocol, 0, 0]) + a.packed + b.packed + options
    v4[10:12] = checksum(bytes(v4)).to_bytes(2, "big")
    return bytes(v4) + body


def tcp(
    source: str, destination: str, payload: bytes = b"", *, ports: tuple[int, int] = (1000, 80), seq: int = 0, ack: int = 0,
    tcp_flags: int = ACK, tcp_options: bytes = b"", window: int = 512, **network: Any,
) -> bytes:  # fmt: skip
    """A TCP packet with valid checksums."""
    header = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + (seq & 0xFFFFFFFF).to_bytes(4, "big")
    header += (ack & 0xFFFFFFFF).to_bytes(4, "big") + ((5 + len(tcp_options) // 4) << 12 | tcp_flags).to_bytes(2, "big")
    header += window.to_bytes(2, "big") + bytes(4) + tcp_options
    packet = ip(source, destination, TCP, header + payload, **network)
    return with_checksum(packet, len(packet) - len(header) - len(payload), TCP)


def udp(source: str, destination: str, payload: bytes = b"", *, ports: tuple[int, int] = (1000, 53), **network: Any) -> bytes:
    """A UDP packet with valid checksums."""
    header = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    packet = ip(source, destination, UDP, header + payload, **network)
    return with_checksum(packet, len(packet) - len(header) - len(payload), UDP)


def echo(source: str, destination: str, identifier: int = 1, *, reply: bool = False, **network: Any) -> bytes:
    """An ICMP or ICMPv6 echo with an IPv4 header checksum that is valid."""
    v6 = ":" in source
    kind = (129 if reply else 128) if v6 else (0 if reply else 8)
    body = bytes([kind, 0, 0, 0]) + identifier.to_bytes(2, "big") + bytes(10)
    return ip(source, destination, ICMPV6 if v6 else ICMP, body, **network)


# --- strategies --------------------------------------------------------------------------------------------------------

V4 = ["10.0.0.1", "10.0.0.2", "10.0.1.7", "100.64.0.9", "192.0.2.1"]
V6 = ["fd00::1", "fd00::2", "fd00:0:0:1::7", "fd00:2021:1111::9", "2001:db8::1"]
PORTS = st.sampled_from([22, 53, 80, 443, 1000, 65535])


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str]:
    pool = draw(st.sampled_from([V4, V6]))
    return draw(st.sampled_from(pool)), draw(st.sampled_from(pool))


@st.composite
def well_formed(draw: st.DrawFn, max_payload: int = 40) -> bytes:
    """A packet that the parse stage accepts, of any kind."""
    source, destination = draw(addresses())
    payload = draw(st.binary(max_size=max_payload))
    ports = draw(PORTS), draw(PORTS)
    network: dict[str, Any] = {
        "ecn": draw(st.integers(0, 3)),
        "ident": draw(st.integers(0, 65535)),
        "ttl": draw(st.integers(1, 255)),
    }
    kind = draw(st.sampled_from(["tcp", "udp", "echo", "icmp", "other"]))
    if kind == "tcp":
        return tcp(source, destination, payload, ports=ports, tcp_flags=draw(st.integers(0, 511)), **network)
    if kind == "udp":
        return udp(source, destination, payload, ports=ports, **network)
    if kind == "echo":
        return echo(source, destination, draw(st.integers(0, 65535)), reply=draw(st.booleans()), **network)
    if kind == "icmp":
        body = bytes([draw(st.integers(0, 255))]) + draw(st.binary(min_size=7, max_size=20))
        return ip(source, destination, ICMPV6 if ":" in source else ICMP, body, **network)
    return ip(source, destination, draw(st.sampled_from([2, 47, 50, 132, 255])), payload, **network)


@st.composite
def with_extensions(draw: st.DrawFn) -> bytes:
    """An IPv6 packet whose chain of extension headers is mostly right."""
    kinds = draw(st.lists(st.sampled_from([0, 43, 44, 51, 60]), min_size=1, max_size=4))
    body = draw(st.binary(max_size=30))
    following = [*kinds[1:], draw(st.sampled_from([TCP, UDP, 59, 132]))]
    chain = b""
    for kind, after in zip(kinds, following, strict=True):
        if kind == 44:
            chain += bytes([after, 0]) + draw(st.sampled_from([bytes(2), b"\0\1", b"\0\x08", b"\0\6"])) + bytes(4)
        else:
            units = draw(st.integers(0, 2))
            size = (units + 1) * 8 if kind != 51 else (units + 3) * 4
            chain += bytes([after, units if kind != 51 else units + 1]) + bytes(size - 2)
    return ip("fd00::1", "fd00::2", kinds[0], body, extensions=chain)


@st.composite
def mutated(draw: st.DrawFn, packets: SearchStrategy[bytes]) -> bytes:
    """A packet after a few hostile changes: bytes set, cut off, added."""
    packet = bytearray(draw(packets))
    for _ in range(draw(st.integers(0, 3))):
        change = draw(st.sampled_from(["set", "set", "cut", "add"]))
        if change == "set" and packet:
            packet[draw(st.integers(0, min(len(packet), 64) - 1))] = draw(st.integers(0, 255))
        elif change == "cut":
            del packet[draw(st.integers(0, len(packet))) :]
        elif change == "add":
            packet += draw(st.binary(max_size=24))
    return bytes(packet)


def any_packet() -> SearchStrategy[bytes]:
    """Valid, odd and hostile packets, and plain noise."""
    return st.one_of(well_formed(), with_extensions(), mutated(well_formed()), mutated(with_extensions()), st.binary(max_size=80))


@st.composite
def flow_packets(draw: st.DrawFn, max_packets: int = 24) -> list[bytes]:
    """Packets of a few interleaved flows, most of which continue what came before."""
    flows = draw(st.lists(st.tuples(addresses(), st.booleans()), min_size=1, max_size=3))
    sequence = dict.fromkeys(range(len(flows)), draw(st.sampled_from([0, 0xFFFFFF00])))
    size = draw(st.sampled_from([1, 10, 100]))
    packets = []
    for _ in range(draw(st.integers(1, max_packets))):
        number = draw(st.integers(0, len(flows) - 1))
        (source, destination), is_tcp = flows[number]
        odd = draw(st.integers(0, 7)) == 0
        payload = bytes([number]) * (draw(st.integers(0, size + 1)) if odd else size)
        network: dict[str, Any] = {"ttl": 64 - draw(st.integers(0, 15)) // 15, "ident": draw(st.integers(0, 3))}
        if not is_tcp:
            packets.append(udp(source, destination, payload, ports=(number, 2), **network))
            continue
        flags = draw(st.sampled_from([ACK] * 8 + [ACK | PSH, ACK | 1, 2, ACK | 0x40, ACK | 0x100]))
        packets.append(
            tcp(
                source,
                destination,
                payload,
                ports=(number, 2),
                seq=sequence[number] + draw(st.integers(0, 15)) // 15,
                ack=draw(st.integers(0, 15)) // 15,
                tcp_flags=flags,
                tcp_options=draw(st.sampled_from([b""] * 7 + [b"\1\1\1\0"])),
                **network,
            )
        )
        sequence[number] += len(payload)
    return packets
