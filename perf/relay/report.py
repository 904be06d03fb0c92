"""The tables and the file of a comparison of relays."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from perf.relay.cells import STEADY, TRAIN
from perf.relay.contenders import COTURN, OURS
from perf.results import default_path, spread, write_document

if TYPE_CHECKING:
    from pathlib import Path

    from perf.relay.run import Figures, Run


def median_of(rounds: list[Figures], figure: str) -> float:
    return statistics.median(one[figure] for one in rounds)


def ratios(mine: list[Figures], theirs: list[Figures], figure: str) -> list[float]:
    """Returns ours over theirs, round by round."""
    return [ours[figure] / other[figure] if other[figure] else float("inf") for ours, other in zip(mine, theirs, strict=True)]


def print_report(run: Run) -> None:
    """Prints all tables."""
    console = Console(width=190)
    if run.results:
        console.print(_cells(run))
    if run.test_results:
        console.print(_tests(run))


def _cells(run: Run) -> Table:
    table = Table(
        title=f"medians of {run.rounds} rounds in turns (half of max − min); thousands of datagrams; trains: {TRAIN} at a time"
    )
    for column in ("", "", "channels", "payload"):
        table.add_column(column, justify="left" if not column else "right")
    for column in (
        f"{OURS}\nper CPU s",
        f"{COTURN}\nper CPU s",
        "times",
        f"at {STEADY // 1000} k/s\nper CPU s",
        f"{COTURN}\nper CPU s",
        "times",
        f"{OURS}\nloss-free /s",
        f"{COTURN}\nloss-free /s",
        "times",
    ):
        table.add_column(column, justify="right")
    for cell, results in run.results.items():
        mine, theirs = results[OURS], results[COTURN]
        row = [cell.shape, cell.direction, f"{cell.channels:_}".replace("_", " "), str(cell.payload)]
        for figure in ("per_cpu", "steady_per_cpu", "loss_free"):
            row += [_thousands(mine, figure), _thousands(theirs, figure), _times(ratios(mine, theirs, figure))]
        table.add_row(*row)
    return table


def _tests(run: Run) -> Table:
    table = Table(title=f"medians of {run.rounds} rounds in turns (half of max − min)")
    for column in ("test", "figure", OURS, COTURN, "to reach"):
        table.add_column(column, justify="right" if column in (OURS, COTURN) else "left")
    for test in run.tests:
        for figure, goal in test.figures.items():
            results = run.test_results[test.name]
            table.add_row(test.name, figure, *(_plain(results[name], figure) for name in (OURS, COTURN)), goal)
    return table


def _thousands(rounds: list[Figures], figure: str) -> str:
    values = [one[figure] / 1000 for one in rounds]
    return f"{statistics.median(values):.0f} ({spread(values):.0f})"


def _times(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({spread(values):.2f})"


def _plain(rounds: list[Figures], figure: str) -> str:
    values = [one[figure] for one in rounds if figure in one]
    if not values:
        return "–"
    middle = statistics.median(values)
    places = 0 if abs(middle) >= 100 else 2
    return f"{middle:,.{places}f} ({spread(values):,.{places}f})".replace(",", " ")


def store(run: Run, json_file: Path | None) -> None:
    """Writes every figure of every round."""
    path = json_file or default_path("relay-")
    cells = [
        {"shape": cell.shape, "direction": cell.direction, "channels": cell.channels, "payload": cell.payload, **results}
        for cell, results in run.results.items()
    ]
    write_document(path, {"rounds": run.rounds, "seconds": run.seconds, "cells": cells, "tests": run.test_results})
    click.echo(f"figures: {path}")
