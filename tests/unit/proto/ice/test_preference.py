"""Priorities as peers compute them, and the addresses that can be no candidates."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.proto.ice import preference
from firezone.wire.candidate import CandidateKind


@pytest.mark.parametrize(
    ("kind", "is_ipv4", "earlier", "crosses", "expected"),
    [
        (CandidateKind.HOST, False, 0, False, 2130706431),
        (CandidateKind.HOST, True, 0, False, 2130706175),
        (CandidateKind.HOST, True, 1, False, 2130705663),
        (CandidateKind.RELAY, True, 0, False, 37748479),
        (CandidateKind.RELAY, False, 0, True, 37492735),
    ],
)
def test_candidate_priorities(kind: CandidateKind, is_ipv4: bool, earlier: int, crosses: bool, expected: int) -> None:
    local = preference.local_preference(kind, is_ipv4=is_ipv4, earlier=earlier, crosses_family=crosses)
    assert preference.candidate_priority(kind, local) == expected


def test_a_reflexive_candidate_is_announced_with_the_default_preference() -> None:
    assert preference.default_priority(CandidateKind.SERVER_REFLEXIVE, is_ipv4=True) == 1694498559


def test_the_preference_never_becomes_negative() -> None:
    assert preference.local_preference(CandidateKind.RELAY, is_ipv4=True, earlier=100_000) == 0


def test_a_check_claims_to_be_peer_reflexive() -> None:
    assert preference.check_priority(37748479) == 1849687807
    assert preference.check_priority(2130706175) == 1862270719


def test_pair_priority_of_the_specification() -> None:
    assert preference.pair_priority(controlling=1862270719, controlled=37748479) == 162128486503284223


def test_the_controlling_side_breaks_the_tie() -> None:
    assert preference.pair_priority(2, 1) == preference.pair_priority(1, 2) + 1


@pytest.mark.parametrize("address", ["169.254.1.1", "255.255.255.255", "224.0.0.1", "0.0.0.0", "ff02::1", "::", "fe80::1"])
def test_unusable_addresses(address: str) -> None:
    assert not preference.is_usable(Endpoint.from_text(address, 1))


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "203.0.113.7", "2001:db8::1", "fd00::1"])
def test_usable_addresses(address: str) -> None:
    assert preference.is_usable(Endpoint.from_text(address, 1))
    assert not preference.is_usable(Endpoint.from_text(address, 0))


@pytest.mark.parametrize(("address", "own"), [("100.64.0.1", True), ("100.96.0.1", False), ("fd00:2021:1111::1", True)])
def test_tunnel_addresses_are_our_own(address: str, own: bool) -> None:
    assert preference.is_own(Endpoint.from_text(address, 1)) is own
