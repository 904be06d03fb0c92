"""A quick subset of the fault table, as a user runs it: `python -m firezone.lab faults --only ...`; no row is good by itself."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from firezone.lab.faults.kinds import FAULTS
from firezone.lab.faults.table import Outcome
from firezone.lab.namespaces import unshare_command
from firezone.lab.programs import python, wait_until
from tests.harness.lab import ROOT
from tests.harness.namespaces import Namespace, stop
from tests.system.test_demo import lab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

QUICK = ["portal-restart", "nat-rebinding", "address-change", "relay-killed"]
SIGNS = ["portal-restart", "nat-rebinding", "relay-appears", "relay-of-peer", "relay-killed", "total-loss"]
"""One fault of each kind of sign."""
AT_ONCE = 3


def test_quick_faults_are_noticed_no_longer_than_they_may_be(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = lab("faults", "--rounds", "1", "--only", ",".join(QUICK), "--json", str(found), "--logs", str(tmp_path / "logs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(QUICK)} passed, 0 failed"
    outcomes = {outcome["fault"]: outcome for outcome in json.loads(found.read_text())["outcomes"]}
    assert list(outcomes) == QUICK
    assert all(outcome["size"] > 1_000_000 for outcome in outcomes.values())
    assert outcomes["relay-killed"]["path_before"] != outcomes["relay-killed"]["path_after"]


def test_fault_that_does_not_happen_is_no_good_row(tmp_path: Path) -> None:
    def idle(name: str) -> Outcome:
        logs = tmp_path / name
        logs.mkdir()
        command = [*unshare_command(), *python("tests.harness.idle_faults", name, str(logs))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return Outcome(FAULTS[name], 1, **json.loads(done.stdout))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(idle, SIGNS))
    for outcome in outcomes:
        assert outcome.is_back, outcome
        assert outcome.is_intact, outcome
        assert outcome.verdict.startswith("no sign of the fault"), outcome
        assert not outcome.ok


SPOILS = {
    "download": """
        flow.block = lambda number: whole(number) if number < 3 else whole(number)[:-1] + bytes([whole(number)[-1] ^ 1])
    """,
    "echo": """
        class Spoiler(flow.socket.socket):
            def sendto(self, data, to):
                return super().sendto(data[:-1] + bytes([data[-1] ^ 1]), to)
        flow.socket.socket = Spoiler
    """,
}


@pytest.mark.parametrize("kind", SPOILS)
@pytest.mark.parametrize("is_spoiled", [True, False])
def test_one_bit_that_changes_on_the_way_is_a_corrupted_transfer(kind: str, is_spoiled: bool, tmp_path: Path) -> None:
    server = (
        "from firezone.lab.faults import flow\nwhole = flow.block\n" + textwrap.dedent(SPOILS[kind]) * is_spoiled + "flow.serve()"
    )
    log = tmp_path / "log"
    with Namespace() as here, log.open("w") as output:
        here.spawn(sys.executable, "-c", server)
        user = here.spawn(*python("firezone.lab.faults.flow", kind, "127.0.0.1"), stdout=output)
        # Two reports, which come every half second: by then something has come.
        assert wait_until(lambda: log.read_text().count('"last": ') - log.read_text().count("null") >= 2, timeout=20)
        stop(user)
    assert json.loads(log.read_text().splitlines()[-1])["is_intact"] is not is_spoiled
