"""Where the time of a tick goes, stage by stage.

A clock reading costs as much as a packet, so of many ticks one is timed: all that the tick calls then runs through a stopwatch. The
others pay one comparison. Times are of the clock on the wall; what the kernel does within a system call is in them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

P = ParamSpec("P")
R = TypeVar("R")

SAMPLE_EVERY = 127
"""Ticks per timed one. A prime, so that no habit of the loop is always hit or always missed. Under a bulk transfer
some ten a second are timed; half of it doubles what the watch costs, below one per cent of a tick with one packet."""


@dataclass(slots=True)
class Stage:
    """What one stage took."""

    calls: int = 0
    ns: int = 0


class StageTimes:
    """Adds up what the stages of the timed ticks took."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """`clock` counts nanoseconds."""
        self._clock = clock
        self._stages: dict[str, Stage] = {}
        self._whole = Stage()

    def around(self, stage: str, call: Callable[P, R]) -> Callable[P, R]:
        """Returns the same call with a stopwatch around it. Stages do not overlap: nothing that is timed calls another."""
        spent, clock = self._stages.setdefault(stage, Stage()), self._clock

        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            start = clock()
            try:
                return call(*args, **kwargs)
            finally:
                spent.calls += 1
                spent.ns += clock() - start

        return timed

    def run(self, tick: Callable[[], R]) -> R:
        """Runs a timed tick."""
        start = self._clock()
        try:
            return tick()
        finally:
            self._whole.calls += 1
            self._whole.ns += self._clock() - start

    def report(self, others: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Returns what was timed as one JSON-ready object. `other` is what no stage took: the interpreter's own work.

        `others` has nanoseconds of stages that somebody else has timed in the same ticks.
        """
        stages = {name: stage for name, stage in self._stages.items() if stage.calls}
        ns = {name: stage.ns for name, stage in stages.items()} | {name: spent for name, spent in (others or {}).items() if spent}
        return {
            "sampled": self._whole.calls,
            "total_ns": self._whole.ns,
            "ns": {**ns, "other": max(self._whole.ns - sum(ns.values()), 0)},
            "calls": {name: stage.calls for name, stage in stages.items()},
        }


class Timed:
    """An object with a stopwatch around some of its methods; all else is the object's own."""

    def __init__(self, target: Any, stages: Mapping[str, str], times: StageTimes) -> None:
        """`stages` has the stage of each method that is timed."""
        self.target = target
        for method, stage in stages.items():
            setattr(self, method, times.around(stage, getattr(target, method)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)
