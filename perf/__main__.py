"""`./dev perf`: this tunnel beside no tunnel and every user-space WireGuard there is, in turns, medians with spread."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from firezone.base.errors import FirezoneError
from firezone.cli.types import OutputFile, Seconds
from perf import figures, inside, picture, results, tunnels
from perf.goals import judge
from perf.regressions import compare
from perf.report import Report

if TYPE_CHECKING:
    from perf.results import Result, Run
    from perf.tunnels import Tunnel

QUICK_SECONDS = 1.0
EPILOG = """
\b
Examples:
  ./dev perf --quick                          one short round of everything: does it run here?
  ./dev perf --rows tcp --only newest         throughput and CPU beside the newest wireguard-go
  ./dev perf --rounds 5 --json base.json      figures to compare with later ...
  ./dev perf --rounds 5 --against base.json   ... which is done here; exit status 1 when something is worse
  ./dev perf --limit prototype.json           draws ceilings measured elsewhere, and judges against them:
                                              {"name": "prototype", "figures": {"up_gbps": 12.3}}
  ./dev perf --from new.json --against base.json --png new.png   the same of stored runs, without measuring
  ./dev perf --list                           the contenders and the rows of this machine
\b
Contenders: veth without a tunnel (the limit that every picture has), this tunnel direct, over our relay and over coturn,
wireguard-go as Debian has it and as released in May 2025 (built once through the Go module proxy where Go is present),
boringtun-cli where found, and the programs that $WIREGUARD_GO names, separated by colons; all over the same networks.
\b
Further commands, each with its --help: ./dev perf scale (1 to 100 000 flows), relay, policy, dns, record (a profile).
"""


class File(click.Path):
    """A file that is there."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Rounds; contenders take turns in each.")
@click.option(
    "--seconds", type=Seconds(0.5, 300), default=4.0, show_default=True, help="Length of a TCP transfer; others take a share of it."
)
@click.option("--quick", is_flag=True, help="One round of transfers of a second: to see that it runs, not to compare.")
@click.option("--only", multiple=True, metavar="WORD", help="Contenders with this in their names, and this tunnel. Repeatable.")
@click.option("--rows", multiple=True, metavar="WORD", help="Groups of rows, or rows with this in their names. Repeatable.")
@click.option("--list", "is_list", is_flag=True, help="Say which contenders and rows there are, and measure nothing.")
@click.option("--json", "json_file", type=OutputFile(), help="Where to write the figures. [default: perf/results/]")
@click.option("--png", "png_file", type=OutputFile(), help="Where to draw the picture. [default: beside the figures]")
@click.option("--limit", "limits", multiple=True, type=File(), help="Ceilings to draw and to judge against. Repeatable.")
@click.option("--against", type=File(), help="Figures of an earlier run: tell what is worse by more than both runs scatter.")
@click.option("--from", "stored", type=File(), help="Tell and draw again what an earlier run has stored; measure nothing.")
@click.option("--markdown", "is_markdown", is_flag=True, help="Print the tables for a page of Markdown.")
@click.option("--no-newest", is_flag=True, help="Do not build the newest wireguard-go from its Go module.")
def main(
    rounds: int, seconds: float, quick: bool, only: tuple[str, ...], rows: tuple[str, ...], is_list: bool, json_file: Path | None,
    png_file: Path | None, limits: tuple[Path, ...], against: Path | None, stored: Path | None, is_markdown: bool, no_newest: bool,
) -> None:  # fmt: skip
    """Compares tunnels on this machine, over one topology with an inner MTU of 1280: throughput of TCP and UDP, round trips idle
    and under load, small packets, what it costs in CPU, system calls, context switches and memory, and new connections.

    Ratios count; absolute figures differ from machine to machine and from hour to hour. What each row means is in
    docs/performance.md.
    """
    ceilings = [_read(results.read_limit, path, "--limit") for path in limits]
    before = _read(results.read, against, "--against") if against else None
    if png_file and not picture.can_draw():
        raise click.UsageError(picture.MISSING)
    if stored:
        run = _read(results.read, stored, "--from")
        if png_file:
            picture.draw(run, ceilings, png_file)
        sys.exit(1 if _tell(run, ceilings, before, Report(is_markdown)) else 0)
    groups = _choose_groups(rows)
    if not inside.is_inside():
        found = inside.find(only, is_newest_built=not no_newest)
        _list(found, groups) if is_list else inside.enter("perf", found)
        return
    run, failures = _measure(groups, 1 if quick else rounds, min(seconds, QUICK_SECONDS) if quick else seconds)
    _store(run, ceilings, json_file or results.default_path(), png_file)
    is_worse = _tell(run, ceilings, before, Report(is_markdown))
    for failure in failures:
        click.echo(f"not measured: {failure}", err=True)
    sys.exit(1 if failures or is_worse else 0)


def _choose_groups(rows: tuple[str, ...]) -> list[str]:
    try:
        return figures.choose(rows)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--rows") from error


def _read(reader: Any, path: Path, option: str) -> Any:
    try:
        return reader(path)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _list(found: list[Tunnel], groups: list[str]) -> None:
    for tunnel in found:
        click.echo(f"{tunnel.name}: {tunnel.version} {tunnel.binary}".rstrip())
    for group in groups:
        click.echo(f"\n{group}: {figures.GROUPS[group]}")
        for figure in figures.FIGURES:
            if figure.group == group:
                click.echo(f"  {figure.key:22} {figure.title}{figure.unit and f', {figure.unit}'}")


def _measure(groups: list[str], rounds: int, seconds: float) -> tuple[Run, list[str]]:
    """Returns the run, and what could not be measured."""
    from perf.run import Arena

    logs = inside.begin()
    try:
        arena = Arena.build(tunnels.handed_over(), logs, inside.say)
        run = arena.go(groups, rounds, seconds)
    except FirezoneError as error:
        raise click.ClickException(str(error)) from error
    if not arena.failures:
        shutil.rmtree(logs, ignore_errors=True)
    return run, [f"{failure} (logs: {logs})" for failure in arena.failures]


def _store(run: Run, ceilings: list[Result], json_file: Path, png_file: Path | None) -> None:
    results.write(run, json_file)
    click.echo(f"figures: {json_file}")
    if picture.can_draw():
        png_file = png_file or json_file.with_suffix(".png")
        picture.draw(run, ceilings, png_file)
        click.echo(f"picture: {png_file}")
    else:
        click.echo(f"no picture: {picture.MISSING}", err=True)


def _tell(run: Run, ceilings: list[Result], before: Run | None, report: Report) -> bool:
    """Prints everything; returns whether something is worse than before."""
    report.print_run(run, ceilings)
    report.print_scores(judge(run, ceilings))
    if before is None:
        return False
    for line in results.differences(before, run):
        click.echo(f"another machine than then: {line}", err=True)
    own = [name for name in (tunnels.OURS, tunnels.RELAYED) if run.of(name)]
    changes = compare(before, run, own, [tunnels.NEWEST, tunnels.DEBIANS, tunnels.VETH], [tunnels.COTURN])
    report.print_changes(changes, before)
    return any(change.is_regression for change in changes)


if __name__ == "__main__":
    main()
