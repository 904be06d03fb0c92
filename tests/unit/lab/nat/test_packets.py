"""Rewritten packets, judged by scapy: addresses, ports, and every checksum as if made anew."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP

from firezone.base.rng import SeededRng
from firezone.lab.nat.packets import UdpNat
from firezone.lab.nat.table import Behaviour, Dependence, NatTable

OUTER, INNER, OTHER, REMOTE, HOP = "203.0.113.9", "192.168.1.2", "192.168.1.3", "198.51.100.7", "198.51.100.99"


def make(**words: Any) -> UdpNat:
    behaviour = Behaviour(is_preserving=False, **words)
    return UdpNat(NatTable(ipaddress.ip_address(OUTER).packed, behaviour, SeededRng(3)), ipaddress.IPv4Network("192.168.1.0/24"))


def through(nat: UdpNat, packet: Any, now: int = 0) -> Any:
    """Returns what comes out as scapy reads it; None when it was dropped. Fails unless scapy would have made the same bytes."""
    nat.handle_packet(bytes(packet), now)
    out = nat.poll_packet()
    assert nat.poll_packet() is None
    if out is None:
        return None
    again = IP(out)
    layer: Any = again
    while layer:
        if hasattr(layer, "chksum") and not (isinstance(layer, UDP) and layer.chksum == 0):
            layer.chksum = None
        layer = layer.payload
    assert bytes(again) == out
    return IP(out)


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes = b"hello", **fields: Any) -> Any:
    return IP(src=source[0], dst=destination[0], id=7) / UDP(sport=source[1], dport=destination[1], **fields) / payload


@given(st.integers(1, 65535), st.integers(1, 65535), st.binary(max_size=80), st.sampled_from([None, 0]))
def test_datagram_goes_out_and_its_answer_comes_back(inner: int, remote: int, payload: bytes, checksum: int | None) -> None:
    nat = make()
    out = through(nat, udp((INNER, inner), (REMOTE, remote), payload, chksum=checksum))
    assert (out.src, out.dst, out[UDP].dport, bytes(out[UDP].payload)) == (OUTER, REMOTE, remote, payload)
    back = through(nat, udp((REMOTE, remote), (OUTER, out[UDP].sport), payload[::-1], chksum=checksum))
    assert (back.src, back.dst, back[UDP].dport, bytes(back[UDP].payload)) == (REMOTE, INNER, inner, payload[::-1])
    assert (back[UDP].chksum == 0) is (checksum == 0)


def test_ip_options_and_dscp_survive() -> None:
    packet = IP(src=INNER, dst=REMOTE, tos=0xB9, options=b"\x94\x04\0\0") / UDP(sport=1, dport=2) / b"x"
    out = through(make(), packet)
    assert (out.tos, bytes(out)[20:24], out.src) == (0xB9, b"\x94\x04\0\0", OUTER)


def test_hairpinned_datagram_gets_both_addresses() -> None:
    nat = make(is_hairpinning=True)
    outer = through(nat, udp((OTHER, 5), (REMOTE, 6)))[UDP].sport
    turned = through(nat, udp((INNER, 5), (OUTER, outer)))
    assert (turned.src, turned.dst, turned[UDP].dport) == (OUTER, OTHER, 5)


@given(st.sampled_from([3, 11, 12]), st.integers(0, 60), st.sampled_from([None, 0]))
def test_icmp_error_from_outside_reaches_whom_it_is_about(kind: int, size: int, checksum: int | None) -> None:
    nat = make(mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT)
    out = through(nat, udp((INNER, 52625), (REMOTE, 9), b"p" * size, chksum=checksum))
    error = through(nat, IP(src=HOP, dst=OUTER) / ICMP(type=kind, code=1) / bytes(out))
    assert (error.src, error.dst, error[ICMP].type) == (HOP, INNER, kind)
    quoted = IP(bytes(error[ICMP].payload))
    assert (quoted.src, quoted.dst, quoted[UDP].sport, quoted[UDP].dport) == (INNER, REMOTE, 52625, 9)


def test_icmp_error_that_quotes_eight_bytes_is_translated() -> None:
    nat = make()
    out = bytes(through(nat, udp((INNER, 52625), (REMOTE, 9), b"p" * 40)))[:28]
    nat.handle_packet(bytes(IP(src=HOP, dst=OUTER) / ICMP(type=3, code=3) / out), 1)
    error = nat.poll_packet()
    assert error is not None
    assert error[28 + 12 : 28 + 16] == ipaddress.ip_address(INNER).packed
    assert error[28 + 20 : 28 + 22] == (52625).to_bytes(2, "big")


def test_icmp_error_from_inside_leaves_under_the_outer_address() -> None:
    nat = make()
    out = through(nat, udp((INNER, 52625), (REMOTE, 9)))
    refused = through(nat, udp((REMOTE, 9), (OUTER, out[UDP].sport)))
    error = through(nat, IP(src=INNER, dst=REMOTE) / ICMP(type=3, code=3) / bytes(refused))
    assert (error.src, error.dst) == (OUTER, REMOTE)
    quoted = IP(bytes(error[ICMP].payload))
    assert (quoted.src, quoted.dst, quoted[UDP].dport) == (REMOTE, OUTER, out[UDP].sport)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (udp((REMOTE, 9), (OUTER, 7)), "filtered"),
        (udp((INNER, 9), (OUTER, 7)), "hairpin"),
        (IP(src=INNER, dst=REMOTE, flags="MF") / UDP(sport=1, dport=2), "malformed"),
        (IP(src=INNER, dst=REMOTE) / TCP(), "malformed"),
        (IP(src=INNER, dst=REMOTE) / ICMP(type=8), "icmp"),
        (IP(src=HOP, dst=OUTER) / ICMP(type=3) / bytes(udp((OUTER, 7), (REMOTE, 9))), "icmp"),
        (IP(src=INNER, dst=REMOTE) / ICMP(type=3) / bytes(udp((REMOTE, 7), (INNER, 9))), "icmp"),
        (b"", "malformed"),
        (b"\x60" + bytes(60), "malformed"),
    ],
)
def test_what_cannot_be_translated_is_dropped_and_counted(packet: Any, reason: str) -> None:
    nat = make()
    assert through(nat, packet) is None
    assert dict(nat.dropped) == {reason: 1}


def test_refused_port_is_counted() -> None:
    nat = make(only_port=3478)
    assert through(nat, udp((INNER, 9), (REMOTE, 7))) is None
    assert dict(nat.dropped) == {"refused": 1}


@given(st.binary(max_size=90))
def test_garbage_never_raises(data: bytes) -> None:
    nat = make()
    for packet in (data, b"\x45\0" + len(data).to_bytes(2, "big") + data[4:]):
        nat.handle_packet(packet, 0)
