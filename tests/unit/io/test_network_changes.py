"""Which netlink events are our own device's and no news; the bytes are those of the kernel's structures."""

from __future__ import annotations

import struct

import pytest

from firezone.io.netlink import LINK_TABLE
from firezone.io.network_changes import is_own_event, split_messages

OWN, OTHER = 7, 3
LINK, ADDRESS, ROUTE, NEIGHBOUR = 16, 20, 24, 28


def link(index: int) -> bytes:
    return struct.pack("=BxHiII", 0, 1, index, 0, 0)


def address(index: int) -> bytes:
    return struct.pack("=BBBBI", 2, 32, 0, 0, index)


def route(*attributes: tuple[int, int]) -> bytes:
    return bytes(12) + b"".join(struct.pack("=HHI", 8, kind, value) for kind, value in attributes)


@pytest.mark.parametrize(
    ("kind", "body", "is_own"),
    [
        (LINK, link(OWN), True),
        (LINK, link(OTHER), False),
        (ADDRESS, address(OWN), True),
        (ADDRESS, address(OTHER), False),
        (ROUTE, route((1, 5), (4, OWN)), True),
        (ROUTE, route((1, 5), (4, OTHER)), False),
        (ROUTE, route((15, LINK_TABLE), (4, OTHER)), True),  # our copy of a link's route
        (ROUTE, route((15, 254), (4, OTHER)), False),
        (ROUTE, route() + b"\x02\x00\x04\x00" + bytes(4), False),  # an attribute shorter than its head
        (ROUTE, route() + b"\xff\x00\x04\x00" + bytes(4), False),  # and one longer than the message
        (LINK, b"", False),
        (NEIGHBOUR, link(OWN), False),
    ],
)
def test_event_is_told_apart(kind: int, body: bytes, is_own: bool) -> None:
    assert is_own_event(kind, body, OWN) is is_own


def test_messages_of_one_read_are_split_and_garbage_ends_it() -> None:
    def message(kind: int, body: bytes) -> bytes:
        return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)

    data = message(LINK, link(1)) + message(ADDRESS, b"abcde") + struct.pack("=IHHII", 999, ROUTE, 0, 0, 0)
    assert list(split_messages(data)) == [(LINK, link(1)), (ADDRESS, b"abcde")]
    assert list(split_messages(data[:10])) == []
