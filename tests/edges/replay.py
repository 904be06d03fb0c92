"""Runs of worlds: played from a seed, shrunk when they fail, written to a file and played again."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from tests.edges import invariants
from tests.edges.programs import Fault
from tests.edges.transitions import TRANSITIONS, Step, draw_step
from tests.edges.world import World

STEPS_PER_WORLD = 150
"""A world lives this long: enough for everything to meet everything, little enough to be shrunk in a minute."""


@dataclass
class Failure:
    """A run that went wrong."""

    seed: int
    steps: list[Step]
    what: str
    where: str
    """The innermost function of ours that raised: a shrunk run must fail at the same place."""
    trace: str
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads."""
        path.write_text(json.dumps({
            "seed": self.seed, "steps": [list(step) for step in self.steps], "what": self.what, "where": self.where,
            "trace": self.trace.splitlines(), "notes": self.notes[-120:],
        }, indent=1) + "\n", encoding="utf-8")  # fmt: skip


def load(path: Path) -> tuple[int, list[Step]]:
    """Reads seed and steps of a saved run. Raises ValueError for a file that is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        steps = [Step(*step) for step in document["steps"]]
        seed = int(document["seed"])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no saved run: {error!r}") from error
    if unknown := {step.kind for step in steps} - TRANSITIONS.keys():
        raise ValueError(f"{path} has steps that are not known: {', '.join(sorted(unknown))}")
    return seed, steps


def steps_of(seed: int, count: int = STEPS_PER_WORLD, kinds: Sequence[str] = ()) -> list[Step]:
    """The steps of a seed, of some kinds alone if they are named.

    Not drawn from the world's own generator, so that leaving some out leaves the others as they are.
    """
    draw = random.Random(f"steps {seed}")
    return [draw_step(draw, kinds) for _ in range(count)]


def play(
    seed: int, steps: Iterable[Step], *, on_step: Callable[[World], object] | None = None, is_wound_down: bool = True
) -> Failure | None:
    """Plays one world to its end. Returns what went wrong, if anything."""
    done: list[Step] = []
    world: World | None = None
    with errors_are_faults():
        try:
            world = World(seed)
            invariants.check(world)
            for step in steps:
                done.append(step)
                apply(world, step)
                if on_step is not None:
                    on_step(world)
            if is_wound_down:
                invariants.wind_down(world)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            return Failure(
                seed, done, f"{type(error).__name__}: {error}", f"{type(error).__name__} in {last.name}", traceback.format_exc(),
                [] if world is None else world.notes.lines,
            )  # fmt: skip
    return None


def apply(world: World, step: Step) -> None:
    """Lets one step happen and looks at everything after it."""
    world.before = world.model.copy()
    world.note("step", *step)
    TRANSITIONS[step.kind][0](world, step)
    invariants.check(world)
    world.counts["step " + step.kind] += 1


def shrink(failure: Failure, *, tries: int = 400, on_try: Callable[[int], object] | None = None) -> Failure:
    """Leaves out steps, big pieces first, as long as it fails at the same place; then makes their numbers small."""
    best, tried = failure, 0

    def fails(steps: list[Step]) -> Failure | None:
        nonlocal tried
        tried += 1
        if on_try is not None:
            on_try(len(steps))
        found = play(best.seed, steps)
        return found if found is not None and found.where == failure.where else None

    size = max(1, len(best.steps) // 2)
    while tried < tries:
        at, is_smaller = 0, False
        while at < len(best.steps) and tried < tries:
            found = fails(best.steps[:at] + best.steps[at + size :])
            if found is None:
                at += size
            else:
                best, is_smaller = found, True
        if size == 1 and not is_smaller:
            break
        size = max(1, size // 2)
    return best


@contextlib.contextmanager
def errors_are_faults() -> Iterator[None]:
    """While a world is played, whoever logs an error has found one; everything below is not even put together."""
    former = structlog.get_config()
    structlog.configure(
        processors=[_complain], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**former)


def _complain(_: Any, __: str, event: Any) -> Any:
    raise Fault(f"an error was logged: {event}")
