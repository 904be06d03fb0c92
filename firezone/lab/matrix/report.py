"""What the matrix found: one cell per pair of networks and round, whether it is as good as can be, and the table of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.lab.nat.kinds import Kind, Way, best_possible
from firezone.lab.paths import FoundPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


@dataclass(slots=True)
class Cell:
    """One pair in one round."""

    client: Kind
    gateway: Kind
    round: int
    path: FoundPath | None = None
    first_byte_ms: float | None = None
    """From the first SYN of the first flow to the first byte of the page: intent, ICE and handshakes included."""
    rtt_ms: float | None = None
    error: str = ""
    """Why there is no path, or what else went wrong."""

    @property
    def best(self) -> Way:
        return best_possible(self.client, self.gateway)

    @property
    def ok(self) -> bool:
        return not self.error and self.path is not None and self.path.way <= self.best

    @property
    def verdict(self) -> str:
        if self.ok:
            return "as good as can be" if self.path is not None and self.path.way == self.best else "better than expected"
        if self.error or self.path is None:
            return self.error or "no path was reported"
        return f"{self.path.way}, but {self.best} is possible"

    def to_dict(self) -> dict[str, Any]:
        return {
            "client": self.client, "gateway": self.gateway, "round": self.round, "ok": self.ok, "verdict": self.verdict,
            "best_possible": str(self.best), "path": None if self.path is None else self.path.to_dict(),
            "first_byte_ms": self.first_byte_ms, "rtt_ms": self.rtt_ms,
        }  # fmt: skip


@dataclass(slots=True)
class MatrixReport:
    """All cells of a run."""

    logs: str
    cells: list[Cell] = field(default_factory=list)

    @property
    def failed(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.ok]

    @property
    def summary(self) -> str:
        """The last line of the output."""
        return f"{len(self.cells) - len(self.failed)} passed, {len(self.failed)} failed"

    def to_json(self) -> str:
        """Returns the report as one JSON object."""
        value = {
            "passed": len(self.cells) - len(self.failed), "failed": len(self.failed), "logs": self.logs,
            "cells": [cell.to_dict() for cell in self.cells],
        }  # fmt: skip
        return json.dumps(value, indent=1)

    def print_to(self, console: Console) -> None:
        """Prints one row per cell."""
        from rich.table import Table

        table = Table(title="Paths through NATs: client × gateway", highlight=False)
        for name in ("client", "gateway", "path found: client ↔ gateway", "first byte", "round trip", "verdict"):
            table.add_column(name, justify="right" if name in ("first byte", "round trip") else "left", overflow="fold")
        many = len({cell.round for cell in self.cells}) > 1
        for cell in self.cells:
            table.add_row(
                f"{cell.client}{f' #{cell.round}' if many else ''}",
                str(cell.gateway),
                "—" if cell.path is None else str(cell.path),
                _ms(cell.first_byte_ms),
                _ms(cell.rtt_ms),
                f"[{'green' if cell.ok else 'red'}]{_escape(cell.verdict)}[/]",
            )
        console.print(table)
        console.print(f"logs: {self.logs}", highlight=False, soft_wrap=True)


def parse_pairs(text: str | None) -> list[tuple[Kind, Kind]]:
    """Returns the pairs that a subset names: `client:gateway` with commas between, `*` for every kind, both orders as written.

    Raises: ValueError naming the word that is no kind.
    """
    if text is None:
        return [(client, gateway) for gateway in Kind for client in Kind]
    pairs: dict[tuple[Kind, Kind], None] = {}
    for word in text.split(","):
        client, colon, gateway = word.strip().partition(":")
        if not colon:
            raise ValueError(f"{word.strip()!r} is no pair; write CLIENT:GATEWAY, such as symmetric:none or full-cone:*.")
        pairs.update(dict.fromkeys((c, g) for g in _kinds(gateway) for c in _kinds(client)))
    return list(pairs)


def _kinds(word: str) -> Sequence[Kind]:
    if word == "*":
        return list(Kind)
    if word not in set(Kind):
        raise ValueError(f"{word!r} is no kind of network; there are {', '.join(Kind)}.")
    return [Kind(word)]


def _ms(value: float | None) -> str:
    return "—" if value is None else f"{value:.1f} ms"


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
