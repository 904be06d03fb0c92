"""Packets on the slow path: read as the compiled stage reads them, and the ICMP errors of `gateway` 9.1."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.kernels.ip import parse_batch
from firezone.kernels.types import Verdict
from firezone.wire.ip import decode_ip, prohibited, syn_key, unreachable
from tests.harness import packets
from tests.harness.rows import batch_of
from tests.harness.twins import ip as twin
from tests.harness.twins.checksum import checksum

REFUSED_V4 = bytes.fromhex("4500002100004000 4011cc86 64400001 0a000005 15190051000d3852 68656c6c6f")
ANSWER_V4 = bytes.fromhex(
    "45000038000040001401f87f0a00000564400001030daf29000000004500002100004000 4011cc86 64400001 0a000005 15190051000d3852"
)
REFUSED_V6 = bytes.fromhex(
    "60000000000d1140fd002021111100000000000000000001fd00202111118000000000000000000015190050000dca3168656c6c6f"
)
ANSWER_V6 = (
    bytes.fromhex("60000000003d3a14fd002021111180000000000000000000fd0020211111000000000000000000010103b0ee00000000") + REFUSED_V6
)
SYN, ACK = 0x02, 0x10


def transport_is_right(error: bytes) -> bool:
    """Whether the checksums of an ICMP error hold."""
    if error[0] >> 4 == 4:
        return checksum(error[:20]) == 0 and checksum(error[20:]) == 0
    pseudo = error[8:40] + (len(error) - 40).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    return checksum(pseudo + error[40:]) == 0


def test_the_recorded_refusal_of_an_ipv4_packet_is_answered_byte_for_byte() -> None:
    assert prohibited(REFUSED_V4) == ANSWER_V4


def test_the_recorded_refusal_of_an_ipv6_packet_is_answered_byte_for_byte() -> None:
    assert unreachable(REFUSED_V6) == ANSWER_V6


@pytest.mark.parametrize(
    ("make", "packet", "expected"),
    [
        (prohibited, REFUSED_V4, (3, 13)),
        (unreachable, REFUSED_V4, (3, 0)),
        (prohibited, REFUSED_V6, (1, 1)),
        (unreachable, REFUSED_V6, (1, 3)),
    ],
)
def test_type_and_code_say_what_happened(make: object, packet: bytes, expected: tuple[int, int]) -> None:
    error = make(packet)  # type: ignore[operator]
    assert tuple(error[decode_ip(error).transport :][:2]) == expected


@pytest.mark.parametrize(
    "packet",
    [
        packets.udp("100.64.0.1", "10.0.0.5", bytes(1252)),
        packets.udp("100.64.0.1", "10.0.0.5", bytes(1212), options=bytes(40)),
        packets.udp("fd00:2021:1111::1", "fd00::5", bytes(1232)),
        packets.tcp("100.64.0.1", "10.0.0.5"),
        packets.ip("100.64.0.1", "10.0.0.5", 47, b""),
        packets.ip("100.64.0.1", "10.0.0.5", 47, b"gre"),
        packets.ip("fd00:2021:1111::1", "fd00::5", 47, b""),
    ],
    ids=["full v4", "v4 options", "full v6", "tcp", "nothing behind the header", "three bytes", "bare v6"],
)
def test_an_error_about_any_packet_is_a_packet_with_right_checksums(packet: bytes) -> None:
    error = prohibited(packet)
    refused, answer = decode_ip(packet), decode_ip(error)
    assert len(error) <= 1280
    assert (answer.source, answer.destination) == (refused.destination, refused.source)
    assert answer.is_icmp_error
    assert transport_is_right(error)
    quoted = error[answer.transport + 8 :]
    assert packet.startswith(quoted)
    if answer.version == 4:
        assert len(quoted) == min(refused.transport + 8, len(packet))
    else:
        assert len(quoted) == min(1232, len(packet))


def agrees(packet: bytes) -> bool:
    """Whether a packet decodes to what the compiled stage makes of it. Returns whether both accept it."""
    batch = batch_of([packet])
    parse_batch(batch, False)
    if batch.verdict[0] != Verdict.FORWARD:
        with pytest.raises(WireError):
            decode_ip(packet)
        return False
    header = decode_ip(packet)
    assert header.version == batch.ip_version[0]
    assert (header.protocol, header.transport) == (batch.protocol[0], batch.transport[0])
    assert header.source_port == (int(batch.source_port[0]) if batch.flags[0] & twin.HAS_KEY else None)
    assert header.destination_port == (int(batch.destination_port[0]) if batch.flags[0] & twin.HAS_KEY else None)
    assert header.is_icmp_error == bool(batch.flags[0] & twin.ICMP_ERROR)
    at, size = (12, 4) if header.version == 4 else (8, 16)
    assert header.source.packed == packet[at : at + size]
    assert header.destination.packed == packet[at + size : at + 2 * size]
    return True


@given(packets.any_packet())
def test_what_the_compiled_stage_forwards_decodes_to_the_same_and_nothing_else_does(packet: bytes) -> None:
    agrees(packet)


def v4(protocol: int, payload: bytes, **network: Any) -> bytes:
    return packets.ip("10.0.0.1", "10.0.0.2", protocol, payload, **network)


def v6(protocol: int, payload: bytes, extensions: bytes = b"") -> bytes:
    return packets.ip("fd00::1", "fd00::2", protocol, payload, extensions=extensions)


def tcp_header(words: int = 5) -> bytes:
    return bytes(12) + bytes([words << 4]) + bytes(7)


def udp_header(length: int) -> bytes:
    return bytes(4) + length.to_bytes(2, "big") + bytes(2)


AH = bytes([packets.UDP, 1]) + bytes(10)
PLAIN, ATOMIC = bytes([packets.UDP]) + bytes(7), bytes([packets.UDP, 0, 0, 6]) + bytes(4)


@pytest.mark.parametrize(
    ("packet", "accepted"),
    [
        (b"", False), (b"\x45", False), (b"\x60", False), (b"\x55" + bytes(39), False),
        (v4(47, b"")[:19], False), (v6(47, b"")[:39], False),
        (v4(47, b"x" * 4, options=bytes(4)), True), (b"\x44" + v4(47, b"x")[1:], False), (b"\x4f" + v4(47, b"x")[1:], False),
        (v4(47, b"x") + b"y", False), (v4(47, b"xy")[:-1], False), (v6(47, b"x") + b"y", False), (v6(47, b"xy")[:-1], False),
        (v4(47, bytes(1260)), True), (v4(47, bytes(1261)), False), (v6(47, bytes(1240)), True), (v6(47, bytes(1241)), False),
        (v4(47, b"x", flags=0x2000), False), (v4(47, b"x", flags=0x0001), False), (v4(47, b"x", flags=0x8000), True),
        (v4(51, AH + udp_header(8)), True), (v4(51, AH[:11]), False), (v4(51, bytes([17, 9]) + AH[2:]), False),
        (v6(51, AH + udp_header(8)), True), (v6(51, bytes([17, 0]) + bytes(10) + udp_header(8)), False),
        (v6(0, udp_header(8), PLAIN), True), (v6(60, udp_header(8), PLAIN), True), (v6(43, udp_header(8), PLAIN), True),
        (v6(60, udp_header(8), bytes([0]) + bytes(7) + PLAIN), False),
        (v6(60, udp_header(8), bytes([60]) + bytes(7) + PLAIN), True),
        (v6(60, b"", PLAIN[:7]), False), (v6(60, b"", bytes([17, 1]) + bytes(13)), False),
        (v6(44, udp_header(8), ATOMIC), True), (v6(44, udp_header(8), bytes([17, 0, 0, 1]) + bytes(4)), False),
        (v6(44, udp_header(8), bytes([17, 0, 0, 8]) + bytes(4)), False),
        (v6(44, udp_header(8), bytes([17, 9, 0, 0]) + bytes(4)), True),
        (v4(1, bytes([8]) + bytes(7)), True), (v4(1, bytes([8]) + bytes(6)), False), (v6(58, bytes(8)), True),
        (v6(58, bytes(7)), False),
        (v4(58, bytes(8)), False), (v6(1, bytes(8)), False),
        (v4(17, udp_header(8)), True), (v4(17, udp_header(9)), False), (v4(17, udp_header(7)), False), (v4(17, bytes(7)), False),
        (v4(6, tcp_header()), True), (v4(6, tcp_header()[:19]), False), (v4(6, tcp_header(4)), False),
        (v4(6, tcp_header(6)), False),
        (v4(6, tcp_header(6) + bytes(4)), True),
    ],
)  # fmt: skip
def test_every_rule_of_acceptance_is_that_of_the_compiled_stage(packet: bytes, accepted: bool) -> None:
    assert agrees(packet) is accepted


def test_errors_say_what_and_where() -> None:
    with pytest.raises(WireError, match=r"^An empty packet\.$"):
        decode_ip(b"")
    with pytest.raises(WireError, match=r"^IP version 5\.$"):
        decode_ip(b"\x55")
    with pytest.raises(WireError, match="21 bytes says it has 20"):
        decode_ip(v4(47, b"") + b"x")


@given(st.binary(max_size=1400))
def test_any_bytes_are_a_header_or_a_wire_error(data: bytes) -> None:
    try:
        decode_ip(data)
    except WireError:
        return


@given(packets.any_packet())
def test_whatever_decodes_can_be_refused(packet: bytes) -> None:
    try:
        refused = decode_ip(packet)
    except WireError:
        with pytest.raises(WireError):
            prohibited(packet)
        return
    error = decode_ip(prohibited(packet))
    assert error.destination == refused.source
    assert error.is_icmp_error


def test_a_fragment_is_refused_by_name() -> None:
    with pytest.raises(WireError, match="fragment"):
        decode_ip(packets.udp("10.0.0.1", "10.0.0.2", flags=0x2000))
    with pytest.raises(WireError, match="fragment"):
        decode_ip(packets.ip("fd00::1", "fd00::2", 44, bytes(8), extensions=bytes([17, 0, 0, 1]) + bytes(4)))


def test_a_syn_is_known_by_its_flow_and_sequence_whatever_its_options_say() -> None:
    first = packets.tcp("10.0.0.1", "10.0.0.2", seq=7, tcp_flags=SYN)
    again = packets.tcp("10.0.0.1", "10.0.0.2", seq=7, tcp_flags=SYN, tcp_options=b"\2\4\4\xc4", ident=9)
    other = packets.tcp("10.0.0.1", "10.0.0.2", seq=8, tcp_flags=SYN)
    assert syn_key(first, decode_ip(first)) == syn_key(again, decode_ip(again)) is not None
    assert syn_key(first, decode_ip(first)) != syn_key(other, decode_ip(other))


@pytest.mark.parametrize(
    "packet",
    [
        packets.tcp("10.0.0.1", "10.0.0.2", tcp_flags=SYN | ACK),
        packets.tcp("fd00::1", "fd00::2"),
        packets.udp("fd00::1", "fd00::2"),
    ],
    ids=["SYN-ACK", "ACK", "UDP"],
)
def test_nothing_but_a_syn_has_a_syn_key(packet: bytes) -> None:
    assert syn_key(packet, decode_ip(packet)) is None


def test_addresses_of_a_header_are_values() -> None:
    header = decode_ip(packets.echo("fd00::1", "fd00::2", 77))
    assert header.source == ipaddress.ip_address("fd00::1")
    assert (header.source_port, header.destination_port) == (77, 77)
