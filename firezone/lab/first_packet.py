"""How long the first packet of a flow waits for its answer: access, path and handshake included, over many fresh connections.

Each round starts a client and a gateway anew and connects to the resource (`started`), then makes the client start over, so that
the same programs build everything a second time (`running`): code that runs for the first time is what the two differ by.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import TYPE_CHECKING

from firezone.base.errors import FirezoneError
from firezone.lab.measure import fetch_page
from firezone.lab.stack import Stack
from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_PORT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

LIMIT_MS = 30.0
"""What 95 of 100 first packets must stay below."""
SETTLE_S = 0.5
"""From the login to the first packet: relays have lent their addresses by then, as they have when somebody begins to work."""
KINDS = ("started", "running")


@dataclass(slots=True)
class FirstPackets:
    """What all rounds measured, in milliseconds from the first SYN to the connection."""

    is_relayed: bool
    logs: str
    times_ms: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    paths: dict[str, int] = field(default_factory=dict)
    """How often each path was taken."""
    errors: list[str] = field(default_factory=list)

    def summary(self, kind: str) -> dict[str, float]:
        """Returns median, 95th percentile and maximum; nothing without a measurement."""
        times = sorted(self.times_ms[kind])
        if not times:
            return {}
        spread = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
        return {"p50": round(spread[9], 2), "p95": round(spread[18], 2), "max": times[-1]}

    @property
    def ok(self) -> bool:
        return not self.errors and all(self.summary(kind).get("p95", LIMIT_MS + 1) <= LIMIT_MS for kind in KINDS)

    def to_json(self) -> str:
        """Returns everything as one JSON object on one line."""
        return json.dumps({
            "ok": self.ok, "relayed": self.is_relayed, "limit_ms": LIMIT_MS,
            **{kind: self.summary(kind) for kind in KINDS}, "times_ms": self.times_ms,
            "paths": self.paths, "logs": self.logs, "errors": self.errors,
        })  # fmt: skip

    def print_to(self, console: Console) -> None:
        """Prints a row for each kind of round."""
        from rich.table import Table

        way = "over a relay" if self.is_relayed else "direct"
        table = Table(title=f"First packet to its answer, {way}: " + ("within" if self.ok else "NOT within") + f" {LIMIT_MS:g} ms")
        for name in ("programs", "rounds", "p50 ms", "p95 ms", "max ms"):
            table.add_column(name, justify="left" if name == "programs" else "right")
        for kind in KINDS:
            found = self.summary(kind)
            table.add_row(f"just {kind}" if kind == "started" else kind, str(len(self.times_ms[kind])),
                          *(f"{value:.1f}" for value in found.values()))  # fmt: skip
        console.print(table)
        for path, count in self.paths.items():
            console.print(f"{count} times {path}", highlight=False)
        console.print(f"logs: {self.logs}", highlight=False, soft_wrap=True)
        for error in self.errors:
            console.print(f"[red]error:[/red] {error}", highlight=False)


def run_first_packets(logs: Path, rounds: int, progress: Callable[[str], None], *, is_relayed: bool = False) -> FirstPackets:
    """Measures inside the lab's namespaces. What goes wrong is in the result."""
    found = FirstPackets(is_relayed, str(logs))
    stack: Stack | None = None
    try:
        stack = Stack.start(logs, progress, is_relayed=is_relayed)
        for number in range(1, rounds + 1):
            progress(f"round {number} of {rounds}")
            if number > 1:
                stack.restart_tunnels()
            _measure(stack, found, "started")
            since = stack.client.log.stat().st_size
            stack.client.process.send_signal(signal.SIGHUP)
            stack.client.wait_for("joined the portal", since=since)
            _measure(stack, found, "running")
        found.errors += stack.complaints()
    except FirezoneError as error:
        found.errors.append(str(error))
    finally:
        if stack is not None:
            stack.close()
    return found


def _measure(stack: Stack, found: FirstPackets, kind: str) -> None:
    time.sleep(SETTLE_S)
    page = fetch_page(stack.topology.client, RESOURCE_ADDRESS, RESOURCE_PORT)
    found.times_ms[kind].append(page["connect_ms"])
    path = stack.path()
    found.paths[path] = found.paths.get(path, 0) + 1
