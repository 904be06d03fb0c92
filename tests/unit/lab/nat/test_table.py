"""The translation table against RFC 4787, case by case and, under Hypothesis, against a twin that keeps nothing but a history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.lab.nat.table import MAX_CONTACTS, MAX_MAPPINGS, MIN_TIMEOUT, Behaviour, Dependence, NatTable

OUTER = bytes((203, 0, 113, 9))
INNER, OTHER_INNER = Endpoint.from_text("192.168.1.2", 52625), Endpoint.from_text("192.168.1.3", 52625)
A1, A2 = Endpoint.from_text("198.51.100.1", 1000), Endpoint.from_text("198.51.100.1", 2000)
B1 = Endpoint.from_text("198.51.100.2", 1000)
ANY, ADDRESS, PORT = Dependence


def table(**words: object) -> NatTable:
    return NatTable(OUTER, Behaviour(**words), SeededRng(1))  # type: ignore[arg-type]


def sent(nat: NatTable, inner: Endpoint, remote: Endpoint, now: int = 0) -> Endpoint:
    outer = nat.outgoing(inner, remote, now)
    assert outer is not None
    return outer


@pytest.mark.parametrize(("mapping", "is_same"), [(ANY, (True, True)), (ADDRESS, (True, False)), (PORT, (False, False))])
def test_mapping_depends_on_as_much_of_the_remote_as_it_says(mapping: Dependence, is_same: tuple[bool, bool]) -> None:
    nat = table(mapping=mapping)
    first = sent(nat, INNER, A1)
    assert (sent(nat, INNER, A2) == first, sent(nat, INNER, B1) == first) == is_same
    assert sent(nat, INNER, A1) == first


@pytest.mark.parametrize(("filtering", "lets_in"), [(ANY, (True, True)), (ADDRESS, (True, False)), (PORT, (False, False))])
def test_filter_depends_on_as_much_of_the_remote_as_it_says(filtering: Dependence, lets_in: tuple[bool, bool]) -> None:
    nat = table(filtering=filtering)
    outer = sent(nat, INNER, A1)
    assert nat.incoming(outer, A1, 1) == INNER
    assert (nat.incoming(outer, A2, 1) == INNER, nat.incoming(outer, B1, 1) == INNER) == lets_in


def test_port_is_preserved_while_it_is_free_and_another_is_drawn_then() -> None:
    nat = table()
    assert sent(nat, INNER, A1) == Endpoint(OUTER, 52625)
    assert sent(nat, OTHER_INNER, A1).port not in (52625, 0)


def test_nat_that_does_not_preserve_never_gives_the_inner_port() -> None:
    nat = table(mapping=PORT, is_preserving=False)
    for port in range(1, 2000):
        assert sent(nat, INNER, Endpoint(B1.ip, port)).port != INNER.port


def test_mapping_ends_after_the_timeout_and_its_port_is_free_again() -> None:
    nat = table()
    outer = sent(nat, INNER, A1)
    assert nat.incoming(outer, A1, MIN_TIMEOUT - 1) == INNER
    assert nat.incoming(outer, A1, MIN_TIMEOUT) is None
    assert sent(nat, OTHER_INNER, A1, MIN_TIMEOUT) == outer
    assert len(nat) == 1


def test_datagrams_from_inside_keep_a_mapping_alive() -> None:
    nat = table(filtering=PORT)
    outer = sent(nat, INNER, A1)
    sent(nat, INNER, B1, MIN_TIMEOUT - 1)
    # The mapping lives on by B1, but the permission of A1 has ended.
    assert nat.incoming(outer, A1, MIN_TIMEOUT) is None
    assert nat.incoming(outer, B1, MIN_TIMEOUT) == INNER
    assert sent(nat, INNER, A1, MIN_TIMEOUT) == outer


@pytest.mark.parametrize("refreshes", [False, True])
def test_datagrams_from_outside_keep_it_alive_only_where_that_is_asked_for(refreshes: bool) -> None:
    nat = table(refreshes_inbound=refreshes)
    outer = sent(nat, INNER, A1)
    assert nat.incoming(outer, A1, MIN_TIMEOUT - 1) == INNER
    assert (nat.incoming(outer, A1, MIN_TIMEOUT) == INNER) is refreshes


def test_hairpin_uses_outer_addresses_on_both_sides_and_obeys_the_filter() -> None:
    nat = table(filtering=PORT, is_hairpinning=True)
    outer, other_outer = sent(nat, INNER, A1), sent(nat, OTHER_INNER, A1)
    assert nat.hairpin(INNER, other_outer, 1) is None  # the other one has not sent to us
    assert nat.hairpin(OTHER_INNER, outer, 1) == (other_outer, INNER)
    assert nat.hairpin(INNER, other_outer, 1) == (outer, OTHER_INNER)


def test_nat_without_hairpinning_drops_what_comes_back() -> None:
    nat = table()
    outer = sent(nat, INNER, A1)
    assert nat.hairpin(OTHER_INNER, outer, 1) is None


def test_only_one_remote_port_is_let_out() -> None:
    nat = table(only_port=3478)
    assert nat.outgoing(INNER, A1, 0) is None
    assert len(nat) == 0
    assert nat.outgoing(INNER, replace(A1, port=3478), 0) is not None


def test_outer_addresses_that_are_not_ours_lead_nowhere() -> None:
    nat = table()
    outer = sent(nat, INNER, A1)
    assert nat.incoming(replace(outer, ip=B1.ip), A1, 1) is None
    assert nat.incoming(replace(outer, port=outer.port + 1), A1, 1) is None


def test_contacts_and_mappings_have_a_bound() -> None:
    nat = table(mapping=PORT, filtering=PORT, is_preserving=False)
    for number in range(MAX_MAPPINGS):
        sent(nat, INNER, Endpoint(bytes((9, 9, number >> 8, number & 255)), 1))
    assert nat.outgoing(INNER, A1, 1) is None
    assert nat.outgoing(INNER, A1, MIN_TIMEOUT + 1) is not None  # the old ones are over
    assert len(nat) == 1
    nat = table(filtering=PORT)
    outer = sent(nat, INNER, A1)
    for port in range(1, MAX_CONTACTS + 1):
        sent(nat, INNER, Endpoint(B1.ip, port))
    assert nat.incoming(outer, A1, 1) is None
    assert nat.incoming(outer, Endpoint(B1.ip, MAX_CONTACTS), 1) == INNER


@pytest.mark.parametrize("is_preserving", [False, True])
def test_rebound_nat_gives_everybody_another_port_and_lets_nothing_in_at_the_old_one(is_preserving: bool) -> None:
    nat = table(is_preserving=is_preserving)
    outer = sent(nat, INNER, A1)
    nat.rebind()
    assert nat.incoming(outer, A1, 1) is None
    again = sent(nat, INNER, A1, 1)
    assert again != outer
    assert nat.incoming(again, A1, 1) == INNER
    assert len(nat) == 1
    nat.rebind()
    assert sent(nat, INNER, A1, 2) != again


# Against the twin

behaviours = st.builds(
    Behaviour, st.sampled_from(Dependence), st.sampled_from(Dependence), is_preserving=st.booleans(),
    is_hairpinning=st.booleans(), timeout=st.just(10 * SECOND), refreshes_inbound=st.booleans(),
)  # fmt: skip
inners = st.builds(Endpoint, st.sampled_from([INNER.ip, OTHER_INNER.ip]), st.integers(1, 3))
remotes = st.builds(Endpoint, st.sampled_from([A1.ip, B1.ip]), st.integers(1, 3))
steps = st.lists(
    st.tuples(st.sampled_from(["out", "in", "hairpin", "tidy"]), inners, remotes, st.integers(0, 40), st.integers(0, 6 * SECOND)),
    max_size=60,
)


@dataclass(frozen=True)
class Sent:
    """One datagram that left, or that came in and counts as a refresh."""

    inner: Endpoint
    outer: Endpoint
    remote: Endpoint
    at: int


class Twin:
    """Decides from the whole history. The choice of a new outer port is the table's own; the twin only says whether it was fair."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.history: list[Sent] = []

    def fresh(self, now: int) -> list[Sent]:
        return [entry for entry in self.history if now - entry.at < self.behaviour.timeout]

    def same_mapping(self, a: Endpoint, b: Endpoint) -> bool:
        return self._same(self.behaviour.mapping, a, b)

    def mapped(self, inner: Endpoint, remote: Endpoint, now: int) -> Endpoint | None:
        found = [e.outer for e in self.fresh(now) if e.inner == inner and self.same_mapping(e.remote, remote)]
        return found[-1] if found else None

    def admits(self, outer: Endpoint, remote: Endpoint, now: int) -> Endpoint | None:
        found = [e for e in self.fresh(now) if e.outer == outer and self._same(self.behaviour.filtering, e.remote, remote)]
        if found and self.behaviour.refreshes_inbound:
            # What came in stands for the datagram that had gone to the same place.
            self.history.append(replace(found[-1], at=now))
        return found[-1].inner if found else None

    def check_out(self, inner: Endpoint, remote: Endpoint, outer: Endpoint, now: int) -> None:
        known = self.mapped(inner, remote, now)
        if known is not None:
            assert outer == known
        else:
            taken = {e.outer for e in self.fresh(now)}
            assert outer not in taken  # one outer endpoint stands for one mapping
            assert outer.ip == OUTER
            own = Endpoint(OUTER, inner.port)
            assert (outer == own) is (self.behaviour.is_preserving and own not in taken)
        self.history.append(Sent(inner, outer, remote, now))

    @staticmethod
    def _same(dependence: Dependence, a: Endpoint, b: Endpoint) -> bool:
        return {0: True, 1: a.ip == b.ip, 2: a == b}[dependence]


@given(behaviours, steps, st.integers(0, 1000))
def test_table_agrees_with_a_twin_that_only_knows_the_history(behaviour: Behaviour, steps: list[Any], seed: int) -> None:
    nat, twin, now = NatTable(OUTER, behaviour, SeededRng(seed)), Twin(behaviour), 0
    for kind, inner, remote, pick, wait in steps:
        now += wait
        # An outer endpoint that was once given, or one that never was.
        outers = [*dict.fromkeys(entry.outer for entry in twin.history), Endpoint(OUTER, 7)]
        outer = outers[pick % len(outers)]
        if kind == "out":
            twin.check_out(inner, remote, sent(nat, inner, remote, now), now)
        elif kind == "in":
            assert nat.incoming(outer, remote, now) == twin.admits(outer, remote, now)
        elif kind == "tidy":
            nat.handle_timeout(now)
            assert len(nat) == len({entry.outer for entry in twin.fresh(now)})
        else:
            check_hairpin(nat, twin, inner, outer, now)


def check_hairpin(nat: NatTable, twin: Twin, inner: Endpoint, outer: Endpoint, now: int) -> None:
    ends = nat.hairpin(inner, outer, now)
    if not nat.behaviour.is_hairpinning:
        assert ends is None
        return
    source = nat.outer_of(inner, outer, now)
    assert source is not None
    twin.check_out(inner, outer, source, now)
    destination = twin.admits(outer, source, now)
    assert ends == (None if destination is None else (source, destination))
