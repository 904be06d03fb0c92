"""Figures of several rounds: medians and spread, the file they are kept in, and the machine they come from."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from perf.figures import BY_KEY, FIGURES

RESULTS = Path(__file__).parent / "results"
FORMAT = 2
"""Of the file. It grows when a reader of an older one would misread a newer one."""


def middle(values: list[float]) -> float | None:
    """Returns the median; None without values."""
    return statistics.median(values) if values else None


def spread(values: list[float]) -> float:
    """Returns half of the way from the smallest to the largest: median ± spread."""
    return (max(values) - min(values)) / 2 if values else 0.0


def error(values: list[float]) -> float:
    """Returns the standard error of the median, as it is where values scatter normally; 0 for one value, which does not tell."""
    return 1.25 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


@dataclass
class Result:
    """Every round of one contender."""

    name: str
    version: str = ""
    rounds: list[dict[str, float]] = field(default_factory=list)

    def values(self, figure: str) -> list[float]:
        return [one[figure] for one in self.rounds if figure in one]

    def median(self, figure: str) -> float | None:
        return middle(self.values(figure))

    def spread(self, figure: str) -> float:
        return spread(self.values(figure))

    def ratios(self, other: Result, figure: str) -> list[float]:
        """Returns this one's over another's, round by round: what the machine does in one round slows both."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        return [mine[figure] / theirs[figure] for mine, theirs in pairs if figure in mine and theirs.get(figure)]

    def to_json(self) -> dict[str, Any]:
        keys = dict.fromkeys(key for one in self.rounds for key in one)
        return {
            "name": self.name,
            "version": self.version,
            "median": {key: self.median(key) for key in keys},
            "spread": {key: round(self.spread(key), 4) for key in keys},
            "rounds": self.rounds,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Result:
        return cls(value["name"], value.get("version", ""), value["rounds"])


@dataclass
class Run:
    """One whole comparison."""

    results: list[Result]
    rounds: int
    seconds: float
    time: str = ""
    machine: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> Result | None:
        """Returns what a contender has reached; None when it did not take part."""
        return next((result for result in self.results if result.name == name), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "figures": {figure.key: asdict(figure) for figure in FIGURES},
            "results": [result.to_json() for result in self.results],
        }


def write(run: Run, path: Path) -> None:
    """Stores a run, with the time and a description of this machine."""
    stored = write_document(path, run.to_json())
    run.time, run.machine = stored["time"], stored["machine"]


def write_document(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Stores figures of any kind, with the time and a description of this machine, and returns all of it."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    value = {"time": now, "machine": describe_machine(), **value}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return value


def read(path: Path) -> Run:
    """Reads what `write` has stored. Raises ValueError with what is wrong, OSError."""
    try:
        value = json.loads(path.read_text())
        if value["format"] != FORMAT:
            raise ValueError(f"{path} has format {value['format']}; format {FORMAT} is known here.")
        results = [Result.from_json(one) for one in value["results"]]
        run = Run(results, int(value["rounds"]), float(value["seconds"]), str(value["time"]), dict(value["machine"]))
        if not all(isinstance(number, (int, float)) for result in results for one in result.rounds for number in one.values()):
            raise ValueError(f"{path} has a figure that is no number.")
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no file of ./dev perf --json.") from error
    return run


def read_limit(path: Path) -> Result:
    """Reads ceilings that were measured elsewhere, such as a prototype's: `{"name": "…", "figures": {"up_gbps": 12.3}}`.

    Raises: ValueError naming what is wrong, OSError.
    """
    try:
        value = json.loads(path.read_text())
        name, figures = str(value["name"]), {str(key): float(number) for key, number in value["figures"].items()}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        example = '{"name": "prototype", "figures": {"up_gbps": 12.3}}'
        raise ValueError(f"{path} is no limit. Write for example {example}.") from error
    if unknown := figures.keys() - BY_KEY.keys():
        raise ValueError(f"{path}: there is no figure {', '.join(sorted(unknown))}. Figures are: {', '.join(BY_KEY)}.")
    return Result(name, rounds=[figures])


def default_path(kind: str = "") -> Path:
    """Returns where a run is stored that nobody has named a file for."""
    return RESULTS / f"{kind}{datetime.datetime.now(datetime.UTC):%Y-%m-%d-%H%M%S}.json"


def describe_machine() -> dict[str, Any]:
    """Returns what figures depend on: processor, cores, memory, kernel, interpreter."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int((_field("/proc/meminfo", "MemTotal") or "0").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def _field(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def differences(before: Run, now: Run) -> list[str]:
    """Returns what the machines of two runs differ in, a sentence each."""
    keys = ("cpu", "cores", "kernel", "python")
    return [
        f"{key} was {before.machine.get(key)}, is {now.machine.get(key)}"
        for key in keys
        if before.machine.get(key) != now.machine.get(key)
    ]
