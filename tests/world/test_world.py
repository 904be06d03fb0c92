"""Ten thousand steps through the world, and that what a walk is made of works: replaying, shrinking, the same seed twice."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from firezone.proto.client.state import ClientState
from tests.world import replay
from tests.world.__main__ import main
from tests.world.base import WorldError
from tests.world.walk import Walk

if TYPE_CHECKING:
    from pathlib import Path

SEEDS, STEPS = range(1000, 1025), 400


@pytest.mark.parametrize("seed", SEEDS)
def test_system_and_reference_agree(seed: int, tmp_path: Path) -> None:
    walk = Walk(seed)
    try:
        for _ in range(STEPS):
            walk.apply(walk.propose())
    except Exception as error:
        failure = replay.shrink(replay.Failure(seed, tuple(walk.steps), f"{type(error).__name__}: {error}"), most_runs=100)
        failure.write(tmp_path / "walk.json")
        raise WorldError(f"{failure.error}\n{(tmp_path / 'walk.json').read_text()}") from error


def test_the_same_seed_gives_the_same_walk_and_the_same_world() -> None:
    walks = [Walk(3), Walk(3)]
    for _ in range(60):
        first, second = (walk.propose() for walk in walks)
        assert first == second
        for walk in walks:
            walk.apply(first)
    transcripts = [[(p.number, str(p.header), p.arrived, p.answers, p.errors) for p in w.system.probes.values()] for w in walks]
    assert transcripts[0] == transcripts[1]
    assert walks[0].system.clock.time == walks[1].system.clock.time


def test_a_failure_is_shrunk_to_the_step_that_matters_and_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClientState, "set_internet_resource_state", lambda *_: None)
    ran = CliRunner().invoke(main, ["--steps", "3000", "--seed", "1", "--failures", str(tmp_path)])
    assert ran.exit_code == 1
    assert "./dev soak --replay" in ran.output
    (path,) = tmp_path.glob("walk-*.json")
    steps = json.loads(path.read_text())["steps"]
    assert [name for name, _ in steps if name == "switch_internet"] == ["switch_internet"]
    assert len(steps) <= 3
    again = CliRunner().invoke(main, ["--replay", str(path)])
    assert again.exit_code == 1
    monkeypatch.undo()
    mended = CliRunner().invoke(main, ["--replay", str(path)])
    assert mended.exit_code == 0, mended.output


def test_a_file_that_holds_no_walk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "walk.json"
    for text in ("", "[]", '{"seed": 1}', '{"seed": "x", "steps": []}'):
        path.write_text(text)
        ran = CliRunner().invoke(main, ["--replay", str(path)])
        assert ran.exit_code == 2
        assert "Traceback" not in ran.output
