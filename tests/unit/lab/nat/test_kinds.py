"""What a pair of networks allows, written out as a table by hand, and what the probe's answers mean."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firezone.lab.nat.kinds import SURROUNDINGS, Kind, Way, best_possible, complaints
from firezone.lab.nat.probe import Finding, judge_filtering, judge_mapping
from firezone.lab.nat.table import Dependence

TABLE = """
                    none full address port symmetric blocked v6 broken double
none                H    R    R       R    R         -       -  H      R
full-cone           R    R    R       R    R         -       -  R      R
address-restricted  R    R    R       R    R         -       -  R      R
port-restricted     R    R    R       R    -         -       -  R      R
symmetric           R    R    R       -    -         -       -  R      -
udp-blocked         -    -    -       -    -         -       -  -      -
ipv6-only           -    -    -       -    -         -       H  -      -
broken-ipv6         H    R    R       R    R         -       -  H      R
double-hairpin      R    R    R       R    -         -       -  R      R
"""
"""H: host, R: reflexive, -: relayed. From RFC 5128 section 3.3 and the restrictions of each kind, not from the code."""

LETTERS = {"H": Way.HOST, "R": Way.REFLEXIVE, "-": Way.RELAYED}
CELLS = [
    (Kind(row.split()[0]), column, LETTERS[letter])
    for row in TABLE.strip().splitlines()[1:]
    for column, letter in zip(Kind, row.split()[1:], strict=True)
]


@pytest.mark.parametrize(("client", "gateway", "way"), CELLS, ids=str)
def test_best_possible_path_is_that_of_the_table(client: Kind, gateway: Kind, way: Way) -> None:
    assert best_possible(client, gateway) is way
    assert best_possible(gateway, client) is way


def test_two_peers_behind_one_carrier_that_does_not_hairpin_need_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    around = SURROUNDINGS[Kind.DOUBLE_HAIRPIN]
    stubborn = replace(around, nats=(around.nats[0], replace(around.nats[1], is_hairpinning=False)))
    monkeypatch.setitem(SURROUNDINGS, Kind.DOUBLE_HAIRPIN, stubborn)
    assert best_possible(Kind.DOUBLE_HAIRPIN, Kind.DOUBLE_HAIRPIN) is Way.RELAYED
    assert best_possible(Kind.DOUBLE_HAIRPIN, Kind.FULL_CONE) is Way.REFLEXIVE


A1, A2, A3 = ("203.0.113.1", 1000), ("203.0.113.1", 1001), ("203.0.113.1", 1002)


@pytest.mark.parametrize(
    ("seen", "mapping"),
    [
        ({(0, 0): A1, (0, 1): A1, (1, 0): A1, (1, 1): A1}, Dependence.ENDPOINT_INDEPENDENT),
        ({(0, 0): A1, (0, 1): A1, (1, 0): A2, (1, 1): A2}, Dependence.ADDRESS_DEPENDENT),
        ({(0, 0): A1, (0, 1): A2, (1, 0): A3, (1, 1): A1}, Dependence.ADDRESS_AND_PORT_DEPENDENT),
        ({(0, 0): A1, (1, 0): A1}, Dependence.ENDPOINT_INDEPENDENT),
    ],
)
def test_mapping_is_judged_by_what_the_servers_have_seen(seen: dict[tuple[int, int], tuple[str, int]], mapping: Dependence) -> None:
    assert judge_mapping(seen) is mapping


@pytest.mark.parametrize(
    ("heard", "filtering"),
    [
        ({(0, 0), (0, 1), (1, 0), (1, 1)}, Dependence.ENDPOINT_INDEPENDENT),
        ({(0, 0), (1, 1)}, Dependence.ENDPOINT_INDEPENDENT),
        ({(0, 0), (0, 1)}, Dependence.ADDRESS_DEPENDENT),
        ({(0, 0)}, Dependence.ADDRESS_AND_PORT_DEPENDENT),
    ],
)
def test_filtering_is_judged_by_whose_answers_came(heard: set[tuple[int, int]], filtering: Dependence) -> None:
    assert judge_filtering(heard) is filtering


SYMMETRIC = Finding(
    "works", "none", is_translated=True, mapping=str(Dependence.ADDRESS_AND_PORT_DEPENDENT),
    filtering=str(Dependence.ADDRESS_AND_PORT_DEPENDENT), is_preserving=False, is_hairpinning=False, answers_other_port=True,
)  # fmt: skip


def test_nat_that_is_what_it_says_gets_no_complaint_and_any_other_kind_does() -> None:
    assert complaints(Kind.SYMMETRIC, SYMMETRIC) == []
    for kind in Kind:
        assert (complaints(kind, SYMMETRIC) == []) is (kind is Kind.SYMMETRIC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ipv4", "silent"), ("ipv6", "works"), ("is_translated", False), ("mapping", str(Dependence.ADDRESS_DEPENDENT)),
        ("filtering", None), ("is_preserving", True), ("is_hairpinning", True), ("answers_other_port", False),
    ],
)  # fmt: skip
def test_each_deviation_is_named(field: str, value: object) -> None:
    found = complaints(Kind.SYMMETRIC, replace(SYMMETRIC, **{field: value}))  # type: ignore[arg-type]
    assert len(found) == 1
    assert field.replace("_", " ") in found[0]
    assert str(value) in found[0]
