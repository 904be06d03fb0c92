"""The lab's NATs as the probe finds them, in namespaces with real packets.

host ── router (nat0) ── internet (delay0) ── probe
"""

from __future__ import annotations

import pytest

from firezone.lab.nat.kinds import Kind
from tests.harness.nat_lab import run

pytestmark = pytest.mark.root


def test_probe_finds_every_kind_to_be_what_it_says() -> None:
    found = run("classify_all")
    assert set(found) == {str(kind) for kind in Kind}
    assert {kind: entry["complaints"] for kind, entry in found.items()} == {str(kind): [] for kind in Kind}
    # The findings tell the kinds apart: no two look alike to the probe.
    assert len({str(entry["finding"]) for entry in found.values()}) == len(Kind)


def test_lab_refuses_a_network_that_is_not_what_it_says() -> None:
    refused = run("wrong_kind")
    assert len(refused) == 2
    for words in refused:
        assert "mapping: endpoint-independent instead of address-and-port-dependent" in words


def test_icmp_errors_come_through_and_idle_mappings_end() -> None:
    found = run("errors_and_timeouts")
    assert found["refused"] is True
    assert len(set(found["used"])) == 1
    assert len(set(found["idle"])) == 2


def test_nat_that_is_told_to_rebind_gives_a_socket_another_port() -> None:
    before, after = run("rebinding")
    assert before != after


def test_regions_are_as_far_apart_as_they_say() -> None:
    found = run("distances")
    assert 2 <= found["near_ms"] < 10
    assert 20 <= found["far_ms"] < 35
