"""Candidates that wait for the portal: what is told in the end (snownet 14.1, July 2026)."""

from __future__ import annotations

from firezone.base.ids import ConnectionId
from firezone.proto.held_candidates import MAX_HELD, HeldCandidates

PEER, OTHER = ConnectionId("peer"), ConnectionId("other")
A = "candidate:1 1 udp 2130706431 192.168.1.7 52625 typ host ufrag abcd"
A_GONE = "candidate:9 1 udp 50331391 192.168.1.7 52625 typ host"
B = "candidate:2 1 udp 2130706175 192.168.1.8 52625 typ host ufrag abcd"


def told(held: HeldCandidates, *gone: ConnectionId) -> list[tuple[ConnectionId, tuple[str, ...], bool]]:
    return list(held.take(lambda cid: cid not in gone))


def test_removal_cancels_a_held_addition_whatever_its_priority() -> None:
    held = HeldCandidates()
    held.add(PEER, [A, B])
    held.remove(PEER, [A_GONE])
    assert told(held) == [(PEER, (B,), True)]
    assert told(held) == []


def test_removal_of_what_the_peer_knows_is_told_after_the_additions() -> None:
    held = HeldCandidates()
    held.remove(PEER, [A_GONE])
    held.add(PEER, [B])
    assert told(held) == [(PEER, (B,), True), (PEER, (A_GONE,), False)]


def test_addition_cancels_a_held_removal() -> None:
    held = HeldCandidates()
    held.remove(PEER, [A_GONE])
    held.add(PEER, [A])
    assert told(held) == [(PEER, (A,), True)]


def test_connection_that_is_gone_is_not_told_of() -> None:
    held = HeldCandidates()
    held.add(PEER, [A])
    held.add(OTHER, [A])
    held.forget(OTHER)
    assert told(held, PEER) == []


def test_what_is_held_is_bounded_and_the_newest_stays() -> None:
    held = HeldCandidates()
    lines = [f"candidate:1 1 udp 1 10.0.{n // 256}.{n % 256} 52625 typ host" for n in range(MAX_HELD + 5)]
    held.add(PEER, lines)
    assert len(held) == MAX_HELD
    assert told(held) == [(PEER, tuple(lines[5:]), True)]
