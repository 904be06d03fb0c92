"""`python -m firezone.lab`: everything on this one machine, in namespaces that leave nothing behind."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

import firezone
from firezone.cli.types import OutputFile, Seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.lab.faults.table import FaultReport
    from firezone.lab.matrix.report import MatrixReport

EPILOG = """\b
Examples:
  python -m firezone.lab demo            run everything once and print a report
  python -m firezone.lab demo --json     the same as one JSON object
  python -m firezone.lab demo --relayed  the same with nothing but a relay between
  python -m firezone.lab matrix          which path is found through which NATs
  python -m firezone.lab faults          how long each fault is noticed
  python -m firezone.lab first-packet    how long the first packet of a flow waits
  python -m firezone.lab up              keep it running, with a shell in the client's network
\b
Works as root, and as an ordinary user where user namespaces and /dev/net/tun are allowed. Elsewhere the demo says what is
missing and runs portal, gateway and client over real loopback sockets with rings in memory in place of TUN devices.
Exit status: 0 it worked, 1 it did not (the report says why), 2 wrong usage."""


TABLE_WIDTH = 150
LOGS = click.option(
    "--logs", type=click.Path(path_type=Path, file_okay=False),
    help="Directory for logs. [default: a new one in /tmp, gone after Ctrl-C]",
)  # fmt: skip
JSON_FILE = click.option("--json", "json_file", type=OutputFile(), help="Write what was found there as well.")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(firezone.__version__, "-V", "--version", prog_name="firezone-lab")
def main() -> None:
    """Portal, gateway, client and a resource on one machine, joined by a real tunnel."""
    from firezone.lab import namespaces

    namespaces.complete_path()
    if namespaces.INSIDE in os.environ:
        namespaces.end_without_lifeline()


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--seconds", type=Seconds(1, 3600), default=3.0, show_default=True, help="Length of each transfer.")
@LOGS
@click.option("--relayed", is_flag=True, help="Block direct paths, so that all goes over a relay.")
@click.option("--memory", is_flag=True, help="Use rings in memory in place of TUN devices, even where those are allowed.")
def demo(as_json: bool, seconds: float, logs: Path | None, relayed: bool, memory: bool) -> None:
    """Starts everything, fetches a page through the tunnel and measures."""
    from firezone.lab import namespaces

    if relayed and memory:
        raise click.UsageError("--relayed needs networks to block and --memory has none; give one of the two.")
    directory = _log_directory(logs)
    if namespaces.INSIDE in os.environ:
        from firezone.lab.demo import run_demo

        report = run_demo(directory, seconds, _progress(as_json), is_relayed=relayed)
    elif memory or (missing := namespaces.what_is_missing()) is not None:
        from firezone.lab.memory_demo import run_memory_demo

        if relayed:
            raise click.ClickException(f"--relayed needs the full lab: {missing}")
        if not memory:
            click.echo(f"No full lab: {missing}", err=True)
        report = run_memory_demo(directory, seconds, _progress(as_json))
    else:
        flags = [*(["--json"] if as_json else []), *(["--relayed"] if relayed else [])]
        _enter("demo", directory, logs, "--seconds", str(seconds), *flags)
    if as_json:
        click.echo(report.to_json())
    else:
        from rich.console import Console

        report.print_to(Console())
    sys.exit(0 if report.ok else 1)


@main.command()
@LOGS
def up(logs: Path | None) -> None:
    """Keeps everything running and opens a shell in the client's network; leaving the shell ends it all."""
    import subprocess

    from firezone.base.errors import ConfigError
    from firezone.lab import namespaces

    directory = _log_directory(logs)
    if namespaces.INSIDE not in os.environ:
        _enter("up", directory, logs)

    from firezone.lab.access import APP, CLOSED_PORT, LOCKED, WIKI
    from firezone.lab.stack import Stack
    from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6

    try:
        stack = Stack.start(directory, _progress(False), has_names=True)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"You are in the client's network. Try: curl http://{RESOURCE_ADDRESS}/ or curl 'http://[{RESOURCE_ADDRESS_V6}]/'")
    click.echo(f"or by name: curl http://{WIKI}/ or http://{APP}/; refused is: curl http://{LOCKED}:{CLOSED_PORT}/")
    click.echo(f"Logs are in {directory}. Leave with exit.")
    subprocess.run(stack.topology.client.command(os.environ.get("SHELL", "/bin/sh")), check=False)
    stack.close()


@main.command()
@click.option("--pairs", metavar="SUBSET", help="CLIENT:GATEWAY with commas between, * for every kind.  [default: all]")
@JSON_FILE
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True, help="How often to run all pairs.")
@LOGS
def matrix(pairs: str | None, json_file: Path | None, rounds: int, logs: Path | None) -> None:
    """Client NAT × gateway NAT: which path is found, and is it the best there is?

    \b
    Kinds: none, full-cone, address-restricted, port-restricted, symmetric,
           udp-blocked (but to a relay's port), ipv6-only, broken-ipv6
           (addresses and routes, but packets vanish), double-hairpin.
    Example: python -m firezone.lab matrix --pairs 'symmetric:none,*:full-cone'
    """
    from firezone.base.errors import ConfigError
    from firezone.lab import namespaces
    from firezone.lab.matrix.report import parse_pairs

    try:
        chosen = parse_pairs(pairs)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pairs") from error
    directory = _log_directory(logs)
    if namespaces.INSIDE not in os.environ:
        options = [
            *(["--pairs", pairs] if pairs is not None else []),
            *(["--json", str(json_file)] if json_file is not None else []),
        ]
        _enter("matrix", directory, logs, "--rounds", str(rounds), *options)

    from firezone.lab.matrix.run import run_matrix

    try:
        report = run_matrix(chosen, rounds, directory, _progress(False))
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    _show_and_exit(report, json_file)


@main.command()
@click.option("--only", metavar="NAMES", help="These faults, with commas between.  [default: all]")
@JSON_FILE
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="How often to run each fault.")
@LOGS
def faults(only: str | None, json_file: Path | None, rounds: int, logs: Path | None) -> None:
    """Breaks things under a steady flow and a download, and measures the longest gap of each.

    Each fault runs in a lab of its own, for ten seconds to two minutes.
    """
    from firezone.lab import namespaces
    from firezone.lab.faults.table import parse_names, run_faults

    try:
        names = parse_names(only)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from error
    directory = _log_directory(logs)
    if namespaces.INSIDE not in os.environ:
        options = ["--only", ",".join(names), *(["--json", str(json_file)] if json_file is not None else [])]
        _enter("faults", directory, logs, "--rounds", str(rounds), *options)
    _show_and_exit(run_faults(names, rounds, directory, _progress(False)), json_file)


@main.command()
@click.option("--rounds", type=click.IntRange(1, 1000), default=10, show_default=True, help="How often programs are started.")
@click.option("--relayed", is_flag=True, help="Block direct paths, so that all goes over a relay.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@LOGS
def first_packet(rounds: int, relayed: bool, as_json: bool, logs: Path | None) -> None:
    """Measures the time from the first packet of a flow to its answer, each time over a fresh connection.

    Access, the search for a path and the handshake are in it. A round takes three seconds: it starts client and gateway, connects
    ("just started"), makes the client start over and connects again ("running"). The exit status is 1 when one of the 95th
    percentiles is above 30 ms.
    """
    from firezone.lab import namespaces

    directory = _log_directory(logs)
    if namespaces.INSIDE not in os.environ:
        flags = [*(["--relayed"] if relayed else []), *(["--json"] if as_json else [])]
        _enter("first-packet", directory, logs, "--rounds", str(rounds), *flags)

    from rich.console import Console

    from firezone.lab.first_packet import run_first_packets

    report = run_first_packets(directory, rounds, _progress(as_json), is_relayed=relayed)
    if as_json:
        click.echo(report.to_json())
    else:
        report.print_to(Console())
    sys.exit(0 if report.ok else 1)


def _log_directory(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="firezone-lab-"))
    try:
        given.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{given} cannot be made: {error.strerror}", param_hint="--logs") from error
    if next(given.glob("policy.toml"), None) or next(given.glob("[0-9]*-*"), None):
        # What an earlier run has said there would be taken for the words of this one.
        raise click.BadParameter(f"{given} has the logs of an earlier run; name another directory.", param_hint="--logs")
    return given.resolve()


def _enter(command: str, directory: Path, logs: Path | None, *options: str) -> NoReturn:
    """Runs the same command in fresh namespaces; `directory` is that of the logs, `logs` the one that was asked for."""
    from firezone.lab import namespaces

    if (missing := namespaces.what_is_missing()) is not None:
        raise click.ClickException(missing)
    namespaces.enter([command, "--logs", str(directory), *options], scratch=directory if logs is None else None)


def _show_and_exit(report: MatrixReport | FaultReport, json_file: Path | None) -> NoReturn:
    from rich.console import Console

    if json_file is not None:
        json_file.write_text(report.to_json())
    # A file or a pipe has no width of its own; the table's columns need this much.
    report.print_to(Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH))
    click.echo(report.summary)
    sys.exit(1 if report.failed else 0)


def _progress(is_quiet: bool) -> Callable[[str], None]:
    def show(step: str) -> None:
        if not is_quiet:
            click.echo(f"· {step}", err=True)

    return show


if __name__ == "__main__":
    main()
