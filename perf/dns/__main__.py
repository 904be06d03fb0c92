"""`./dev perf dns`: questions to a real sentinel per second, by what becomes of them, and the same of unbound in the same run."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from firezone.base.errors import FirezoneError
from firezone.cli.types import OutputFile, Seconds
from firezone.lab import namespaces
from perf.results import default_path, write_document

if TYPE_CHECKING:
    from firezone.lab.namespaces import Namespace
    from firezone.lab.programs import Program
    from firezone.lab.stack import Stack

NAMES = 1000
SERVER_CORE = 0
"""Everything that answers has this core alone; dnsperf has the others."""
UNBOUND_PORT = 5300
SENTINEL = "100.100.111.1"
RESOURCE, KEPT, PASSED_ON = "addresses of resources", "kept answers of a server", "passed on to a server"
BESIDE = "unbound, the same names"
_UNBOUND = """
server:
 interface: {address}@{port}
 do-daemonize: no
 username: ""
 chroot: ""
 directory: "{directory}"
 pidfile: "{directory}/unbound-{port}.pid"
 num-threads: 1
 use-syslog: no
 access-control: 0.0.0.0/0 allow
 local-zone: "apps.lab.internal." redirect
 local-data: "apps.lab.internal. 1 A 192.0.2.1"
 local-zone: "kept.example." redirect
 local-data: "kept.example. 3600 A 192.0.2.2"
 local-zone: "brief.example." redirect
 local-data: "brief.example. 1 A 192.0.2.3"
remote-control:
 control-enable: no
"""


@dataclass
class Load:
    """One kind of question to one server."""

    title: str
    address: str
    port: int
    domain: str
    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, figure: str) -> float:
        return statistics.median(found[figure] for found in self.rounds)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Rounds; all take turns in each.")
@click.option("--seconds", type=Seconds(0.5, 60), default=3.0, show_default=True, help="Length of each measurement.")
@click.option("--json", "json_file", type=OutputFile(), help="Where to write the figures. [default: perf/results/]")
def main(rounds: int, seconds: float, json_file: Path | None) -> None:
    """Measures the name servers of a real client, with dnsperf.

    Client and unbound are pinned to one core, one after the other; dnsperf has the rest. CPU counts user and system time of the
    server alone, so it hardly depends on what else the machine does. Ratios count.
    """
    namespaces.complete_path()
    if namespaces.INSIDE not in os.environ:
        _enter(rounds, seconds, json_file)
    namespaces.end_without_lifeline()
    try:
        loads = _run(rounds, seconds)
    except FirezoneError as error:
        raise click.ClickException(str(error)) from error
    _print(loads)
    _store(loads, json_file, seconds)


def _enter(rounds: int, seconds: float, json_file: Path | None) -> None:
    for program, package in (("dnsperf", "dnsperf"), ("unbound", "unbound")):
        if shutil.which(program) is None:
            raise click.ClickException(f"{program} is not installed; apt-get install {package} would allow the measurement.")
    if (missing := namespaces.what_is_missing()) is not None:
        raise click.ClickException(missing)
    arguments = ["--rounds", str(rounds), "--seconds", str(seconds), *(["--json", str(json_file)] if json_file else [])]
    namespaces.enter(arguments, "perf.dns")


def _run(rounds: int, seconds: float) -> list[Load]:
    from firezone.lab.stack import Stack
    from firezone.lab.topology import PORTAL_ADDRESS

    logs = Path(tempfile.mkdtemp(prefix="firezone-perf-"))
    stack = Stack.start(logs, lambda step: click.echo(f"· {step}", err=True), has_names=True)
    try:
        stack.others[1].stop()  # The lab's own server of the network is in Python, and would be what is measured.
        _start_unbound(stack, stack.topology.public, PORTAL_ADDRESS, 53)
        beside = _start_unbound(stack, stack.topology.client, "127.0.0.1", UNBOUND_PORT)
        loads = [
            Load(RESOURCE, SENTINEL, 53, "apps.lab.internal"), Load(KEPT, SENTINEL, 53, "kept.example"),
            Load(PASSED_ON, SENTINEL, 53, "brief.example"), Load(BESIDE, "127.0.0.1", UNBOUND_PORT, "apps.lab.internal"),
        ]  # fmt: skip
        for number in range(rounds):
            for load in loads:
                click.echo(f"· round {number + 1} of {rounds}: {load.title}", err=True)
                load.rounds.append(_measure(load, stack, beside if load.title == BESIDE else stack.client, seconds))
    finally:
        stack.close()
        shutil.rmtree(logs, ignore_errors=True)
    return loads


def _start_unbound(stack: Stack, namespace: Namespace, address: str, port: int) -> Program:
    from firezone.lab.programs import Program

    config = stack.logs / f"unbound-{port}.conf"
    config.write_text(_UNBOUND.format(address=address, port=port, directory=stack.logs))
    program = Program.start(f"unbound-{port}", namespace, ["unbound", "-d", "-c", str(config)], stack.logs)
    program.wait_for("start of service")
    stack.others.append(program)
    return program


def _measure(load: Load, stack: Stack, server: Program, seconds: float) -> dict[str, float]:
    """Runs dnsperf once. Raises FirezoneError when it says nothing that can be read."""
    questions = stack.logs / "questions"
    questions.write_text("".join(f"host{number}.{load.domain} A\n" for number in range(NAMES)))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(server.process.pid, {cores[SERVER_CORE]})
    before = server.cpu_seconds()
    command = stack.topology.client.command(
        "dnsperf", "-s", load.address, "-p", str(load.port), "-d", str(questions), "-l", str(seconds), "-c", "4", "-q", "100"
    )  # fmt: skip
    command = ["taskset", "-c", ",".join(map(str, cores[1:] or cores)), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    used = server.cpu_seconds() - before
    found = {name: _read(done.stdout, pattern) for name, pattern in _FIGURES.items()}
    if done.returncode or not found["answers"]:
        raise FirezoneError(f"dnsperf found nothing out of {load.title}: {done.stderr.strip() or done.stdout[-500:]}")
    return {**found, "cpu_us": used / found["answers"] * 1e6}


_FIGURES = {
    "per_second": r"Queries per second:\s+([0-9.]+)",
    "answers": r"Queries completed:\s+(\d+)",
    "lost": r"Queries lost:\s+(\d+)",
    "latency_s": r"Average Latency \(s\):\s+([0-9.]+)",
}


def _read(text: str, pattern: str) -> float:
    match = re.search(pattern, text)
    return float(match[1]) if match else 0.0


def _print(loads: list[Load]) -> None:
    table = Table(title="questions over UDP, one core; medians")
    for column in ("", "answers/s", "lost", "CPU µs per answer", "answers per CPU second", "latency ms"):
        table.add_column(column, justify="left" if not column else "right")
    for load in loads:
        cpu = load.median("cpu_us")
        table.add_row(
            load.title, f"{load.median('per_second'):.0f}", f"{load.median('lost'):.0f}", f"{cpu:.1f}", f"{1e6 / cpu:.0f}",
            f"{load.median('latency_s') * 1000:.1f}",
        )  # fmt: skip
    console = Console(width=120)
    console.print(table)
    unbound = loads[-1].median("cpu_us")
    for load in loads[:-1]:
        console.print(f"{load.title}: {load.median('cpu_us') / unbound:.1f} times the CPU of unbound")


def _store(loads: list[Load], json_file: Path | None, seconds: float) -> None:
    path = json_file or default_path("dns-")
    write_document(path, {"seconds": seconds, "results": {load.title: load.rounds for load in loads}})
    click.echo(f"figures: {path}")


if __name__ == "__main__":
    main()
