"""Random worlds behave as the model says; runs are repeatable, failures are shrunk and can be played again."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edges import soak, transitions
from tests.edges.programs import Fault
from tests.edges.replay import load, play, shrink, steps_of
from tests.edges.transitions import RANGE, TRANSITIONS, Step, draw_step
from tests.edges.world import World

BLOCKS, WORLDS_PER_BLOCK = 6, 6
"""With 150 steps per world 5 400 steps, beside the ten thousand of `tests/world`."""
MUST_HAPPEN = {
    "answered", "dropped", "prohibited", "unreachable", "icmp v4", "icmp v6", "udp v4", "udp v6", "tcp v4", "tcp v6",
    *(f"step {kind}" for kind in TRANSITIONS),
}  # fmt: skip
SEEN: Counter[str] = Counter()
"""What has happened in the worlds of this process."""


@pytest.mark.parametrize("block", range(BLOCKS))
def test_worlds_behave_as_the_model_says(block: int, tmp_path: Path) -> None:
    for seed in range(block * WORLDS_PER_BLOCK, (block + 1) * WORLDS_PER_BLOCK):
        worlds: list[World] = []
        failure = play(seed, steps_of(seed), on_step=worlds.append)
        SEEN.update(worlds[-1].counts if worlds else {})
        if failure is not None:
            failure.save(tmp_path / "failure.json")
            pytest.fail(f"./dev soak edges --replay {tmp_path}/failure.json: {failure.what}\n{failure.trace}")


def test_everything_has_happened() -> None:
    """A transition that is never legal, or an outcome that never comes, would be a test that says nothing."""
    if SEEN["step send"] < 3_000:
        pytest.skip("needs the worlds of the test before")
    assert {name for name, count in SEEN.items() if count} >= MUST_HAPPEN
    assert SEEN["answered"] > 0.3 * (SEEN["answered"] + SEEN["dropped"] + SEEN["prohibited"] + SEEN["unreachable"])


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_is_a_run(seed: int) -> None:
    def transcript() -> list[str]:
        lines: list[str] = []
        worlds: list[World] = []
        assert play(seed, steps_of(seed, 40), on_step=worlds.append, is_wound_down=False) is None
        lines += worlds[-1].notes.lines
        return lines

    first = transcript()
    assert first == transcript()
    assert len(first) > 40


STEPS = st.lists(
    st.builds(Step, st.sampled_from([kind for kind in TRANSITIONS if kind != "idle"]), *[st.integers(0, RANGE - 1)] * 4),
    max_size=12,
)


@given(seed=st.integers(0, 1 << 20), steps=STEPS)
@settings(max_examples=max(10, settings().max_examples // 5), deadline=None, suppress_health_check=list(HealthCheck))
def test_worlds_of_hypothesis(seed: int, steps: list[Step]) -> None:
    failure = play(seed, steps)
    assert failure is None, failure.trace


def fail_at_second_pause(world: World, step: Step) -> None:
    world.counts["pauses"] += 1
    if world.counts["pauses"] == 2:
        raise Fault("the second pause")


def test_a_failure_is_shrunk_saved_and_played_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(transitions.TRANSITIONS, "pause", (fail_at_second_pause, 8))
    path = tmp_path / "found.json"
    assert soak.main(["--steps", "600", "--seed", "3", "--output", str(path)]) == soak.FOUND
    document = json.loads(path.read_text())
    assert [step[0] for step in document["steps"]] == ["pause", "pause"]
    assert "Fault" in document["what"]
    assert soak.main(["--replay", str(path)]) == soak.FOUND
    monkeypatch.undo()
    assert soak.main(["--replay", str(path)]) == soak.OK
    assert "nothing was found" in capsys.readouterr().out


def test_shrinking_keeps_to_the_place_of_the_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(transitions.TRANSITIONS, "pause", (fail_at_second_pause, 8))
    draw = random.Random(1)
    steps = [step for step in (draw_step(draw) for _ in range(40)) if step.kind in ("send", "pause")]
    steps += [Step("pause", 0, 0, 0, 0)] * 2
    failure = play(5, steps)
    assert failure is not None
    assert [step.kind for step in shrink(failure, tries=60).steps] == ["pause", "pause"]


def test_the_soak_says_what_is_wrong_with_its_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--steps", "0"]) == soak.USAGE
    assert soak.main(["--replay", str(tmp_path / "none.json")]) == soak.USAGE
    broken = tmp_path / "broken.json"
    broken.write_text('{"seed": 1, "steps": [["dance", 1, 2, 3, 4]]}')
    assert soak.main(["--replay", str(broken)]) == soak.USAGE
    assert "dance" in capsys.readouterr().err
    broken.write_text("[]")
    with pytest.raises(ValueError, match="no saved run"):
        load(broken)


def test_a_clean_soak_tells_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--steps", "200", "--seed", "0"]) == soak.OK
    said = capsys.readouterr().err
    assert "200/200 steps" in said
    assert "steps/s" in said
