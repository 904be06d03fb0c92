"""How a fault is judged, and how gaps are read from what the flows write."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from firezone.lab.faults.flow import block, datagram, digest_of
from firezone.lab.faults.flows import Flow
from firezone.lab.faults.injections import INJECTIONS
from firezone.lab.faults.kinds import FAULTS
from firezone.lab.faults.table import FaultReport, Outcome, parse_names
from firezone.lab.programs import Program

if TYPE_CHECKING:
    from pathlib import Path

GOOD = Outcome(FAULTS["nat-rebinding"], 1, is_back=True, flow_gap_s=2.9, download_gap_s=2.9, is_intact=True)


def flow(directory: Path, *lines: Any) -> Flow:
    """A flow that has ended and left these lines."""
    log = directory / "flow.log"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"last": ')  # A line may be half written.
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Flow(Program("flow", process, log, (None, [], {})))  # type: ignore[arg-type]


def test_every_fault_can_be_made() -> None:
    assert sorted(INJECTIONS) == sorted(FAULTS)


def test_longest_gap_is_one_that_ends_after_the_fault(tmp_path: Path) -> None:
    found = flow(tmp_path, {"gap": [1.0, 9.0]}, {"last": 10.0}, {"gap": [11.0, 11.5]}, {"gap": [12.0, 14.0]}, {"last": 15.0})
    assert found.longest_gap(since=10.5) == 2.0
    assert found.last == 15.0


def test_gap_that_never_ended_counts_up_to_the_end(tmp_path: Path) -> None:
    found = flow(tmp_path, {"last": 10.0}, {"end": 40.0, "last": 10.2})
    assert found.longest_gap(since=10.1) == pytest.approx(29.8)


def test_return_after_a_fault_counts_from_its_end(tmp_path: Path) -> None:
    found = flow(tmp_path, {"gap": [10.0, 42.5]}, {"last": 43.0})
    assert found.first_after(40.0) == 2.5
    assert flow(tmp_path, {"last": 43.0}).first_after(40.0) == 0.0
    assert flow(tmp_path, {"last": 39.0}).first_after(40.0) == float("inf")


def test_every_echo_belongs_to_its_number() -> None:
    echoes = [datagram(number) for number in range(300)]
    assert len(set(echoes)) == 300
    assert [int.from_bytes(echo[:8], "big") for echo in echoes] == list(range(300))
    assert all(len(echo) == 100 for echo in echoes)
    assert len({echo[8:] for echo in echoes}) > 200  # not the number alone


def test_file_is_the_same_from_any_offset_and_no_two_blocks_are() -> None:
    assert len({block(number) for number in range(300)}) == 300
    assert all(len(block(number)) == len(block(0)) for number in range(3))
    whole = b"".join(block(number) for number in range(3))
    assert digest_of(150_000) == hashlib.sha256(whole[:150_000]).hexdigest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "as it should be"),
        ({"flow_gap_s": 3.1}, "the flow's gap is above 3 s"),
        ({"download_gap_s": 3.1}, "the download's gap is above 3 s"),
        ({"is_intact": False}, "corrupted"),
        ({"missing_sign": "the client has started over"}, "no sign of the fault: not so that the client has started over"),
        ({"fault": FAULTS["gateway-restart"], "flow_gap_s": 20.0, "new_gap_s": 25.1}, "the gap of new connections is above 25 s"),
        ({"fault": FAULTS["link-lost"], "flow_gap_s": 61.0, "flow_after_s": 3.1}, "above 3 s"),
        ({"breaks": 2}, "broke 2 times"),
        ({"is_back": False}, "did not come back"),
        ({"complaints": ["client: something"]}, "client: something"),
        ({"error": "the lab failed"}, "the lab failed"),
        ({"fault": FAULTS["gateway-restart"], "breaks": 1, "flow_gap_s": 20.0, "download_gap_s": 99.0}, "as it should be"),
        ({"fault": FAULTS["total-loss"], "flow_gap_s": 33.0, "flow_after_s": 2.9, "download_gap_s": 55.0}, "as it should be"),
        ({"fault": FAULTS["total-loss"], "flow_after_s": 3.1}, "above 3 s"),
        ({"fault": FAULTS["portal-restart"], "flow_gap_s": 0.1, "download_gap_s": 0.3}, "the download's gap is above 0.2 s"),
    ],
)
def test_outcome_is_judged(changes: dict[str, Any], words: str) -> None:
    outcome = replace(GOOD, **changes)
    assert words in outcome.verdict
    assert outcome.ok == (words == "as it should be")


def test_report_counts_and_names_what_failed() -> None:
    report = FaultReport("/logs", [GOOD, replace(GOOD, round=2, flow_gap_s=7.0)])
    assert report.summary == "1 passed, 1 failed"
    found = json.loads(report.to_json())
    assert (found["passed"], found["failed"]) == (1, 1)
    assert [outcome["fault"] for outcome in found["outcomes"]] == ["nat-rebinding"] * 2


def test_names_are_checked() -> None:
    assert parse_names(None) == list(FAULTS)
    assert parse_names("total-loss, nat-rebinding") == ["total-loss", "nat-rebinding"]
    with pytest.raises(ValueError, match="'flood' is no fault; there are portal-restart"):
        parse_names("flood")
