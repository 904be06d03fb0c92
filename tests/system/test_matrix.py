"""A subset of the NAT matrix, as a user runs it: `python -m firezone.lab matrix --pairs ...`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.test_demo import lab

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

REFLEXIVE = {f"{client}-reflexive ↔ {gateway}-reflexive" for client in ("server", "peer") for gateway in ("server", "peer")}
BOTH_RELAYS = {"relay-west", "relay-east"}
PAIRS: dict[tuple[str, str], tuple[set[str], set[str]]] = {
    ("none", "none"): ({"host ↔ host"}, set()),
    ("symmetric", "full-cone"): (REFLEXIVE, set()),
    ("port-restricted", "port-restricted"): (REFLEXIVE, set()),
    ("ipv6-only", "none"): ({"relayed ↔ host", "host ↔ relayed"}, BOTH_RELAYS),
    ("symmetric", "symmetric"): ({"relayed ↔ relayed"}, BOTH_RELAYS),
}
"""What may be found, and over which relays. Which of two words stands for a reflexive address is a race between a check and the
portal; so is which of two relayed pairs of equal priority comes first."""


def test_subset_of_the_matrix_finds_the_best_paths(tmp_path: Path) -> None:
    pairs = ",".join(":".join(pair) for pair in PAIRS)
    done = lab(
        "matrix", "--pairs", pairs, "--json", str(tmp_path / "found.json"), "--logs", str(tmp_path / "logs"),
        environment={"RUST_LOG": "info,firezone.loop.program=debug"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(PAIRS)} passed, 0 failed"
    for number, (client, gateway) in enumerate(PAIRS, 1):
        assert f"{number}/{len(PAIRS)}: {client} × {gateway}:" in done.stderr  # progress is shown
    cells: list[dict[str, Any]] = json.loads((tmp_path / "found.json").read_text())["cells"]
    for cell in cells:
        path = cell["path"]
        words, via = PAIRS[cell["client"], cell["gateway"]]
        assert f"{path['client']} ↔ {path['gateway']}" in words
        assert set(path["via"]) <= via
        assert bool(path["via"]) is bool(via)
        assert cell["first_byte_ms"] > 0
        # Both ways between the regions, once.
        assert 20 <= cell["rtt_ms"] < 40

    # What docs/paths.md tells to look for: both programs say what they offered and heard of.
    for name in ("client", "gateway"):
        log = (tmp_path / "logs" / "1-symmetric-symmetric" / f"{name}.log").read_text()
        assert "candidates to the portal" in log
        assert "candidates from the portal" in log
        for kind in ("typ host", "typ srflx", "typ relay"):
            assert kind in log


def test_pair_whose_path_is_not_known_to_be_the_best_fails_the_run(tmp_path: Path) -> None:
    # The programs are told not to say which path they have chosen.
    quiet = {"RUST_LOG": "info,firezone.loop.program=warn"}
    done = lab("matrix", "--pairs", "none:none", "--logs", str(tmp_path), environment=quiet)
    assert done.returncode == 1
    assert "no path was reported" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"
