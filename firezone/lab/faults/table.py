"""Faults as numbers: each in a fresh lab of its own, over several rounds, and the table of the gaps they made."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.lab.faults.kinds import FAULTS, Fault
from firezone.lab.namespaces import die_with_parent, unshare_command
from firezone.lab.programs import python

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console

CELL_TIMEOUT_S = 300.0
"""Above a minute without a link and twice the patience after it, so that what is missing is told by its name."""


@dataclass(slots=True)
class Outcome:
    """One fault in one round."""

    fault: Fault
    round: int
    error: str = ""
    """Why nothing was measured."""
    is_back: bool = False
    """Both flows ran again by themselves."""
    flow_gap_s: float = 0.0
    """Longest gap of 50 echoes a second."""
    flow_after_s: float = 0.0
    """From the end of the fault to the next echo."""
    download_gap_s: float = 0.0
    new_gap_s: float | None = None
    """Between two connections that could be opened; None where that was not tried."""
    missing_sign: str = ""
    """What should have shown that the fault has happened, and has not."""
    lost: int = 0
    """Echoes that did not come back."""
    size: int = 0
    """Bytes of the file that came, in a fault and in the quiet around it."""
    breaks: int = 0
    """How often the download's connection broke and was opened anew."""
    is_intact: bool = False
    """What came of the file is the file, and every echo is what was sent."""
    path_before: str = ""
    path_after: str = ""
    complaints: list[str] = field(default_factory=list)

    @property
    def judged_gap_s(self) -> float:
        """The gap that the limit is about."""
        return self.flow_after_s if self.fault.is_after else self.flow_gap_s

    @property
    def verdict(self) -> str:
        """Returns what is wrong, or "as it should be"."""
        fault = self.fault
        if self.error:
            return self.error
        wrong = []
        if self.missing_sign:
            wrong.append(f"no sign of the fault: not so that {self.missing_sign}")
        if not self.is_intact:
            wrong.append("a transfer was corrupted")
        if self.breaks and not fault.may_break:
            wrong.append(f"the download's connection broke {self.breaks} times")
        if not self.is_back:
            wrong.append("a flow did not come back")
        if self.judged_gap_s > fault.limit_s:
            wrong.append(f"the flow's gap is above {fault.limit_s:g} s")
        if self.new_gap_s is not None and self.new_gap_s > fault.limit_s:
            wrong.append(f"the gap of new connections is above {fault.limit_s:g} s")
        if fault.download_limit_s is not None and self.download_gap_s > fault.download_limit_s:
            wrong.append(f"the download's gap is above {fault.download_limit_s:g} s")
        return "; ".join(wrong + self.complaints) or "as it should be"

    @property
    def ok(self) -> bool:
        return self.verdict == "as it should be"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "fault": self.fault.name, "limit_s": self.fault.limit_s, "ok": self.ok, "verdict": self.verdict}


@dataclass(slots=True)
class FaultReport:
    """All outcomes of a run."""

    logs: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.ok]

    @property
    def summary(self) -> str:
        """The last line of the output."""
        return f"{len(self.outcomes) - len(self.failed)} passed, {len(self.failed)} failed"

    def to_json(self) -> str:
        """Returns the report as one JSON object."""
        value = {
            "passed": len(self.outcomes) - len(self.failed), "failed": len(self.failed), "logs": self.logs,
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
        }  # fmt: skip
        return json.dumps(value, indent=1)

    def print_to(self, console: Console) -> None:
        """Prints one row per fault, with the least and the largest of its rounds."""
        from rich.table import Table

        caption = "What takes everything away for long counts from its end."
        table = Table(title="Faults: longest gap, in seconds", highlight=False, caption=caption)
        for name in ("fault", "limit", "50 packets/s", "download", "opened anew", "lost", "rounds", "verdict"):
            table.add_column(name, justify="left" if name in ("fault", "verdict") else "right", overflow="fold")
        for fault in dict.fromkeys(outcome.fault for outcome in self.outcomes):
            rounds = [outcome for outcome in self.outcomes if outcome.fault is fault]
            measured = [outcome for outcome in rounds if not outcome.error]
            wrong = dict.fromkeys(outcome.verdict for outcome in rounds if not outcome.ok)
            table.add_row(
                fault.what, f"≤ {fault.limit_s:g}", _range([outcome.judged_gap_s for outcome in measured]),
                _range([outcome.download_gap_s for outcome in measured]),
                _range([outcome.new_gap_s for outcome in measured if outcome.new_gap_s is not None]),
                _range([float(outcome.lost) for outcome in measured], digits=0),
                f"{sum(outcome.ok for outcome in rounds)}/{len(rounds)}",
                f"[red]{' | '.join(wrong).replace('[', chr(92) + '[')}[/]" if wrong else "[green]as it should be[/]",
            )  # fmt: skip
        console.print(table)
        console.print(f"logs: {self.logs}", highlight=False, soft_wrap=True)


def run_faults(names: Sequence[str], rounds: int, logs: Path, progress: Callable[[str], None]) -> FaultReport:
    """Runs every fault in every round, one after the other. What goes wrong with one is in its outcome."""
    report = FaultReport(str(logs))
    for number in range(1, rounds + 1):
        for name in names:
            outcome = run_fault(FAULTS[name], number, logs)
            report.outcomes.append(outcome)
            progress(
                f"round {number}, {name}: {outcome.judged_gap_s:.2f} s, download {outcome.download_gap_s:.2f} s: {outcome.verdict}"
            )
    return report


def run_fault(fault: Fault, number: int, logs: Path) -> Outcome:
    """Runs one fault in namespaces of its own."""
    directory = logs / f"{number}-{fault.name}"
    directory.mkdir(parents=True)
    command = [*unshare_command(), *python("firezone.lab.faults.cell", fault.name, str(directory))]
    cell = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    try:
        said, errors = cell.communicate(timeout=CELL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        cell.kill()
        cell.communicate()
        return Outcome(fault, number, f"it took over {CELL_TIMEOUT_S:.0f} s")
    if cell.returncode or not said.strip():
        last = (errors.strip().splitlines() or [f"status {cell.returncode}"])[-1]
        return Outcome(fault, number, f"the lab failed: {last}")
    return Outcome(fault, number, **json.loads(said.splitlines()[-1]))


def parse_names(text: str | None) -> list[str]:
    """Returns the faults that are named, with commas between; all for None. Raises ValueError naming the word that is none."""
    if text is None:
        return list(FAULTS)
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in FAULTS:
            raise ValueError(f"{name!r} is no fault; there are {', '.join(FAULTS)}.")
    return names


def _range(values: list[float], digits: int = 2) -> str:
    if not values:
        return "—"
    least, most = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return least if least == most else f"{least}–{most}"
