"""One whole comparison: both relays up, cells in turns, then the tests of memory, overload and floods."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import click

from perf.relay.cells import SINGLES, TO_CLIENT, TO_PEER, TRAINS, Cell, Channels, measure
from perf.relay.contenders import COTURN, OURS, Contender, Coturn, Ours
from perf.relay.lanes import Lanes
from perf.relay.stress import TESTS, Test

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = (1, 100, 10_000)
PAYLOADS = (64, 512, 1200)
QUICK = [
    Cell(SINGLES, TO_PEER, 1, 1200), *(Cell(shape, way, 100, 1200) for shape in (SINGLES, TRAINS) for way in (TO_PEER, TO_CLIENT)),
    Cell(SINGLES, TO_PEER, 10_000, 64),
]  # fmt: skip

Figures = dict[str, float]


def choose(quick: bool, only: tuple[str, ...]) -> tuple[list[Cell], list[Test]]:
    """Returns the cells and the tests with one of the words in their names. Raises ValueError when there are none."""
    every = [Cell(*value) for value in product((SINGLES, TRAINS), (TO_PEER, TO_CLIENT), CHANNELS, PAYLOADS)]
    cells, tests = QUICK if quick else every, list(TESTS)
    if only:
        cells = [cell for cell in cells if any(word in str(cell) for word in only)]
        tests = [test for test in tests if any(word in test.name for word in only)]
    if not (cells or tests):
        names = ", ".join(test.name for test in TESTS)
        raise ValueError(f"{' and '.join(only)!r} is in no name: tests are {names}; a cell is {every[0]}.")
    return cells, tests


@dataclass
class Run:
    """The relays, what is to be measured, and what was."""

    contenders: list[Contender]
    lanes: Lanes
    cells: list[Cell]
    tests: list[Test]
    rounds: int
    seconds: float
    results: dict[Cell, dict[str, list[Figures]]] = field(default_factory=dict)
    test_results: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)

    @classmethod
    def prepare(cls, logs: Path, cells: list[Cell], tests: list[Test], *, rounds: int, seconds: float) -> Run:
        """Builds the lanes. Raises ConfigError when that is refused."""
        lanes = Lanes.build()
        contenders: list[Contender] = [Ours(OURS, 3478, lanes, logs), Coturn(COTURN, 3479, lanes, logs)]
        return cls(contenders, lanes, cells, tests, rounds, seconds)

    def go(self) -> None:
        """Measures everything. Raises FirezoneError when a relay does not do what is needed."""
        for contender in self.contenders:
            contender.start()
        for number in range(self.rounds):
            for channels in sorted({cell.channels for cell in self.cells}):
                self._measure_cells(number, channels)
        for contender in self.contenders:
            contender.stop()
        for number, test in product(range(self.rounds), self.tests):
            for contender in self._in_turn(number):
                click.echo(f"· round {number + 1} of {self.rounds}: {test.name}, {contender.name}", err=True)
                figures = test.measure(contender, self.lanes, self.seconds)
                self.test_results.setdefault(test.name, {}).setdefault(contender.name, []).append(figures)

    def _measure_cells(self, number: int, channels: int) -> None:
        click.echo(f"· round {number + 1} of {self.rounds}: channels: {channels}", err=True)
        bound = {contender.name: Channels.bind(contender, self.lanes, channels) for contender in self.contenders}
        for cell in self.cells:
            if cell.channels == channels:
                for contender in self._in_turn(number):
                    figures = measure(bound[contender.name], cell, self.seconds)
                    self.results.setdefault(cell, {}).setdefault(contender.name, []).append(figures)
        for one in bound.values():
            one.close()

    def _in_turn(self, number: int) -> list[Contender]:
        """Who goes first changes from round to round."""
        return self.contenders if number % 2 == 0 else self.contenders[::-1]
