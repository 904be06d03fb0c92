"""A subset of the NAT matrix, as a user runs it: `python -m firezone.lab matrix --pairs ...`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.test_demo import lab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

PAIRS = {
    ("none", "none"): {"host ↔ host"},
    ("symmetric", "none"): {"peer-reflexive ↔ host"},
    ("none", "port-restricted"): {"host ↔ server-reflexive", "host ↔ peer-reflexive"},
    ("ipv6-only", "ipv6-only"): {"host ↔ host"},
}
"""What is found; which of two words stands for a reflexive address is a race between a check and the portal."""


def test_subset_of_the_matrix_finds_the_best_paths(tmp_path: Path) -> None:
    pairs = ",".join(":".join(pair) for pair in PAIRS)
    done = lab("matrix", "--pairs", pairs, "--json", str(tmp_path / "found.json"), "--logs", str(tmp_path / "logs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(PAIRS)} passed, 0 failed"
    for number, (client, gateway) in enumerate(PAIRS, 1):
        assert f"{number}/{len(PAIRS)}: {client} × {gateway}:" in done.stderr  # progress is shown
    cells: list[dict[str, Any]] = json.loads((tmp_path / "found.json").read_text())["cells"]
    for cell in cells:
        path = cell["path"]
        assert f"{path['client']} ↔ {path['gateway']}" in PAIRS[cell["client"], cell["gateway"]]
        assert cell["first_byte_ms"] > 0
        # Both ways between the regions, unless double NAT is in play.
        assert 20 <= cell["rtt_ms"] < 40


def test_pair_that_does_not_exist_is_refused_with_the_kinds_there_are() -> None:
    done = lab("matrix", "--pairs", "none:cone")
    assert done.returncode == 2
    assert "'cone' is no kind of network" in done.stderr
    assert "symmetric" in done.stderr
