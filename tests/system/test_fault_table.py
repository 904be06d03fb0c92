"""A quick subset of the fault table, as a user runs it: `python -m firezone.lab faults --only ...`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.system.test_demo import lab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

QUICK = ["portal-restart", "nat-rebinding", "address-change", "relay-killed"]


def test_quick_faults_are_noticed_no_longer_than_they_may_be(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = lab("faults", "--rounds", "1", "--only", ",".join(QUICK), "--json", str(found), "--logs", str(tmp_path / "logs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(QUICK)} passed, 0 failed"
    outcomes = {outcome["fault"]: outcome for outcome in json.loads(found.read_text())["outcomes"]}
    assert list(outcomes) == QUICK
    assert all(outcome["size"] > 1_000_000 for outcome in outcomes.values())
    # A fault that made no gap at all would not have happened.
    assert outcomes["nat-rebinding"]["lost"] > 0
    assert outcomes["address-change"]["lost"] > 0
    assert outcomes["relay-killed"]["lost"] > 0
    assert outcomes["relay-killed"]["path_before"] != outcomes["relay-killed"]["path_after"]
