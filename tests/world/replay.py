"""Walks in files, and making a failing one shorter."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.world.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.world.base import Step


@dataclass(frozen=True)
class Failure:
    """A walk that ended badly."""

    seed: int
    steps: tuple[Step, ...]
    error: str

    def write(self, path: Path) -> None:
        """One step a line, so that a person can read it and leave some out."""
        lines = ",\n  ".join(json.dumps(step) for step in self.steps)
        path.write_text(f'{{"seed": {self.seed}, "error": {json.dumps(self.error)}, "steps": [\n  {lines}\n]}}\n')


def read(path: Path) -> tuple[int, list[Step]]:
    """Returns the seed and the steps of a file. Raises ValueError, OSError."""
    try:
        value = json.loads(path.read_text())
        return int(value["seed"]), [(str(name), list(arguments)) for name, arguments in value["steps"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no walk: {error!r}") from error


def run(seed: int, steps: Iterable[Step]) -> Failure | None:
    """Walks these steps; returns how it failed."""
    walk: Walk | None = None
    try:
        walk = Walk(seed)
        for step in steps:
            walk.apply(step)
    except Exception as error:
        return Failure(seed, () if walk is None else tuple(walk.steps), f"{type(error).__name__}: {error}")
    return None


def shrink(failure: Failure, tell: Callable[[int], None] = lambda left: None, *, most_runs: int = 400) -> Failure:
    """Leaves out steps, first many at a time, as long as the walk still fails with the same kind of error."""
    kind, runs, size = _kind(failure), 0, max(len(failure.steps) // 2, 1)
    while size and runs < most_runs:
        start = 0
        while start < len(failure.steps) - 1 and runs < most_runs:
            shorter = run(failure.seed, failure.steps[:start] + failure.steps[start + size :])
            runs += 1
            if shorter is not None and _kind(shorter) == kind:
                failure = shorter
                tell(len(failure.steps))
            else:
                start += size
        size //= 2
    return failure


def _kind(failure: Failure) -> str:
    """What stays the same when numbers and addresses change."""
    words = failure.error.split(", expected")[0].split()
    return " ".join(word for word in words if word.isalpha() or word.endswith(":") or word.startswith("Fate"))
