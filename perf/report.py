"""The tables of a comparison: every figure of every contender, what was to be reached, and what has become worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from perf.figures import FIGURES
from perf.regressions import Change
from perf.tunnels import OURS

if TYPE_CHECKING:
    from perf.figures import Figure
    from perf.goals import Score
    from perf.results import Result, Run

_RATIOS = (("up_gbps", "up"), ("down_gbps", "down"), ("cpu_s_per_gb", "CPU per GB"), ("rtt_p50_ms", "RTT p50"))
_TITLE_WIDTH, _CELL_WIDTH, _MARKDOWN_WIDTH = 48, 22, 400


@dataclass(frozen=True, slots=True)
class Report:
    """Prints to a terminal, or as tables of Markdown that a page can take in."""

    is_markdown: bool = False

    def print_run(self, run: Run, limits: list[Result]) -> None:
        """Prints a row for each figure with a column for each contender, then the ratios of the main ones."""
        results = [*run.results, *limits]
        table = self._table(f"one topology, inner MTU 1280; medians of {run.rounds} rounds in turns ± half of the range")
        table.add_column("", no_wrap=True)
        for result in results:
            table.add_column(result.name, justify="right", max_width=None if self.is_markdown else _CELL_WIDTH - 3)
        for figure in FIGURES:
            cells = [_cell(result, figure) for result in results]
            if any(cells):
                table.add_row(f"{figure.title}{figure.unit and f', {figure.unit}'}", *(cell or "–" for cell in cells))
        self._print(table, len(results))
        for line in _ratios(run):
            self._print(line, len(results))

    def print_scores(self, scores: list[Score]) -> None:
        """Prints what was to be reached and what was."""
        if not scores:
            return
        table = self._table("to reach, as medians over the rounds of this run")
        for name in ("", "wanted", "measured", ""):
            table.add_column(name, justify="right" if name == "measured" else "left")
        for score in scores:
            word = "reached" if score.is_reached else "[red]missed[/red]"
            table.add_row(score.goal.title, score.goal.wanted, f"{score.value:.2f} ± {score.spread:.2f}", word)
        self._print(table)

    def print_changes(self, changes: list[Change], before: Run) -> None:
        """Prints what is worse or better than in an earlier run by more than both runs scatter."""
        notable = [change for change in changes if change.is_regression or change.is_improvement]
        self._print(f"against the run of {before.time}: {len(changes)} figures compared, {len(notable)} changed beyond the scatter")
        if not notable:
            return
        table = self._table("")
        for name in ("", "figure", "as", "before", "now", "worse by", "may be", ""):
            table.add_column(name, justify="right" if name in ("before", "now", "worse by", "may be") else "left")
        for change in notable:
            unit = f"times {change.against}" if change.against else change.figure.unit
            word = "[red]worse[/red]" if change.is_regression else "better"
            numbers = f"{change.before:.3g}", f"{change.now:.3g}", f"{change.worse_by:+.0%}", f"{change.allowance:.0%}"
            table.add_row(change.contender, change.figure.title, unit, *numbers, word)
        self._print(table)

    def _table(self, title: str) -> Table:
        if self.is_markdown:
            self._print(f"\n{title}\n")
            return Table(box=box.MARKDOWN)
        return Table(title=title or None)

    def _print(self, what: Table | str, columns: int = 4) -> None:
        """Prints wide enough, even where the output goes to a file."""
        width = _MARKDOWN_WIDTH if self.is_markdown else _TITLE_WIDTH + _CELL_WIDTH * max(columns, 4)
        Console(width=width).print(what, highlight=False)


def _cell(result: Result, figure: Figure) -> str:
    median = result.median(figure.key)
    if median is None:
        return ""
    cell = f"{median:.{figure.places}f}"
    return cell if len(result.rounds) < 2 else f"{cell} ± {result.spread(figure.key):.{figure.places}f}"


def _ratios(run: Run) -> list[str]:
    ours = run.of(OURS)
    if ours is None:
        return []
    lines = []
    for other in run.results:
        parts = []
        for figure, word in _RATIOS:
            mine, theirs = ours.median(figure), other.median(figure)
            if other is not ours and mine is not None and theirs:
                parts.append(f"{word} {mine / theirs:.2f} times")
        if parts:
            lines.append(f"{OURS} against {other.name}: {', '.join(parts)}")
    return lines
