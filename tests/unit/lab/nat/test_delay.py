"""The delay queue on a virtual clock."""

from __future__ import annotations

import ipaddress

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from firezone.base.timing import MILLISECOND
from firezone.lab.nat.delay import FAR, MAX_WAITING, NEAR, DelayQueue

REGIONS = {
    ipaddress.ip_network(network): region
    for region, networks in (("west", ("192.0.2.0/25", "2001:db8:1::/64")), ("east", ("192.0.2.128/25", "2001:db8:2::/64")))
    for network in networks
}
WEST, EAST = "192.0.2.1", "192.0.2.200"


def packet(source: str, destination: str, word: bytes = b"") -> bytes:
    return bytes((IPv6 if ":" in source else IP)(src=source, dst=destination) / UDP(sport=1, dport=2) / word)


def drain(queue: DelayQueue) -> list[bytes]:
    found = []
    while (out := queue.poll_packet()) is not None:
        found.append(out)
    return found


@pytest.mark.parametrize(
    ("source", "destination", "delay"),
    [(WEST, "192.0.2.2", NEAR), (WEST, EAST, FAR), (EAST, WEST, FAR), ("2001:db8:1::1", "2001:db8:2::1", FAR)],
)
def test_packet_takes_as_long_as_its_distance(source: str, destination: str, delay: int) -> None:
    queue, start = DelayQueue(REGIONS), 5 * MILLISECOND
    queue.handle_packet(packet(source, destination), start)
    assert queue.poll_timeout() == start + delay
    queue.handle_timeout(start + delay - 1)
    assert drain(queue) == []
    queue.handle_timeout(start + delay)
    assert drain(queue) == [packet(source, destination)]
    assert queue.poll_timeout() is None


def test_near_packet_overtakes_a_far_one_but_no_packet_of_its_own_distance() -> None:
    queue = DelayQueue(REGIONS)
    words = [(EAST, b"1"), ("192.0.2.2", b"2"), (EAST, b"3"), ("192.0.2.2", b"4")]
    for number, (destination, word) in enumerate(words):
        queue.handle_packet(packet(WEST, destination, word), number)
    came = []
    while (when := queue.poll_timeout()) is not None:
        queue.handle_timeout(when)
        came += [out[-1:] for out in drain(queue)]
    assert came == [b"2", b"4", b"1", b"3"]


def test_garbage_and_what_overflows_is_lost_and_counted() -> None:
    queue = DelayQueue(REGIONS)
    queue.handle_packet(b"", 0)
    queue.handle_packet(b"\x00" * 60, 0)
    queue.handle_packet(b"\x45", 0)
    assert queue.lost == 3
    for _ in range(MAX_WAITING + 2):
        queue.handle_packet(packet(WEST, EAST), 0)
    assert queue.lost == 5
