"""`./dev perf relay`: our relay beside coturn, cell by cell in turns, several rounds, medians with spread."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import click

from firezone.base.errors import FirezoneError
from firezone.cli.types import OutputFile, Seconds
from firezone.lab import namespaces
from perf.relay.build import BuildFailed, build


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Rounds; the relays take turns in each.")
@click.option("--seconds", type=Seconds(0.1, 60), default=0.8, show_default=True, help="Length of each measurement.")
@click.option("--quick", is_flag=True, help="A few cells and one round, in less than a minute.")
@click.option("--only", multiple=True, help="Only the cells, or the tests, whose name has this word in it. May be repeated.")
@click.option(
    "--json",
    "json_file",
    type=OutputFile(),
    help="Where to write the figures. [default: perf/results/]",
)
def main(rounds: int, seconds: float, quick: bool, only: tuple[str, ...], json_file: Path | None) -> None:
    """Compares relays on this machine: datagrams per CPU second, the highest rate without loss, memory, overload and floods.

    Datagrams per CPU second count user and system time of the relay alone, so they hardly depend on what else the machine does.
    Ratios count; absolute figures differ from machine to machine and from hour to hour.
    """
    namespaces.complete_path()
    try:
        build()
    except BuildFailed as error:
        raise click.ClickException(str(error)) from error
    from perf.relay.run import Run, choose

    try:
        chosen = choose(quick, only)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from error
    if namespaces.INSIDE not in os.environ:
        _enter(rounds, seconds, quick, only, json_file)
    namespaces.end_without_lifeline()
    from perf.relay.report import print_report, store

    logs = Path(os.environ[namespaces.SCRATCH])
    run = Run.prepare(logs, *chosen, rounds=1 if quick else rounds, seconds=min(seconds, 0.4) if quick else seconds)
    try:
        run.go()
    except FirezoneError as error:
        raise click.ClickException(str(error)) from error
    shutil.rmtree(logs, ignore_errors=True)
    print_report(run)
    store(run, json_file)


def _enter(rounds: int, seconds: float, quick: bool, only: tuple[str, ...], json_file: Path | None) -> None:
    if (missing := namespaces.what_is_missing()) is not None:
        raise click.ClickException(missing)
    if shutil.which("turnserver") is None:
        raise click.ClickException("coturn is not installed; apt-get install coturn would allow the comparison.")
    arguments = ["--rounds", str(rounds), "--seconds", str(seconds), *(["--quick"] if quick else [])]
    for word in only:
        arguments += ["--only", word]
    scratch = Path(tempfile.mkdtemp(prefix="firezone-perf-"))
    namespaces.enter([*arguments, *(["--json", str(json_file)] if json_file else [])], "perf.relay", scratch=scratch)


if __name__ == "__main__":
    main()
