"""What `./dev perf policy` measures is what it says: packets pass every stage, clients connect, edits reach everybody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from firezone.kernels.types import Verdict
from perf.policy import __main__ as program
from perf.policy.gateway import Crowd
from perf.policy.kernels import BACK, NAMES, NETWORKS, OUT, ROWS, Gateway, SetUp, new_sessions_per_second

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", [NETWORKS, NAMES])
def test_every_packet_passes_and_answers_come_from_where_it_was_sent(kind: str) -> None:
    gateway = Gateway(SetUp(clients=3, resources=20, flows=500), kind)
    assert len(gateway.tables.nat) == (500 if kind == NAMES else 0)
    packets, peers = gateway.outgoing
    answers, _ = gateway.incoming
    gateway.load(answers[:ROWS], None, from_tunnel=False)
    gateway.stages(BACK)()
    assert len(gateway.batch.rows(Verdict.FORWARD)) == ROWS
    assert gateway.batch.peer[:ROWS].tolist() == peers[:ROWS].tolist()
    back = gateway.batch.slab.reshape(ROWS, -1)
    assert (back[:, 12:16] == packets[:ROWS, 16:20]).all(), "from the address the client knows"
    assert (back[:, 16:20] == packets[:ROWS, 12:16]).all()
    assert (back[:, 22:24] == packets[:ROWS, 20:22]).all()
    assert gateway.nanoseconds(OUT, 1) > 0


def test_each_packet_of_the_measure_of_new_sessions_opens_one() -> None:
    assert new_sessions_per_second(2000) > 0


def test_an_edit_reaches_everybody_and_costs_no_packet() -> None:
    crowd = Crowd(lambda line: None)
    assert crowd.grow(40) > 0
    seconds, sent, lost = crowd.edit_policy()
    assert seconds > 0
    assert (sent > 0, lost) == (True, 0)
    assert len(crowd.gateway.machine.node) == crowd.count


def test_figures_are_printed_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tuple(SetUp(clients, resources, flows) for flows in (10, 200) for clients, resources in ((1, 1), (2, 5)))
    monkeypatch.setattr(program, "SET_UPS", small)
    ran = CliRunner().invoke(program.main, ["--clients", "100", "--passes", "1", "--json", str(tmp_path / "figures.json")])
    assert ran.exit_code == 0, ran.output
    stored = json.loads((tmp_path / "figures.json").read_text())
    assert [row["flows"] for row in stored["kernels"]] == [10, 10, 200, 200]
    assert stored["gateway"]["edit_lost"] == 0
    assert "memory per idle connected client" in ran.output
