"""`./dev perf scale`: one flow to 100 000, on paper, in the kernels that look packets up, and through whole tunnels in turns."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.base.errors import FirezoneError
from firezone.cli.types import OutputFile, Seconds
from perf import inside, results, tunnels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from perf.results import Result

STEPS: tuple[int, ...] = (1, 10, 100, 1000, 10_000, 100_000)
QUICK_STEPS: tuple[int, ...] = (1, 1000)
QUICK_SECONDS = 0.3
COLUMNS = {
    "up_kpps": "up\n1000/s", "up_per_cpu": "up, 1000\nper CPU s", "down_kpps": "down\n1000/s",
    "down_per_cpu": "down, 1000\nper CPU s", "lost_percent": "lost at\n40 000/s, %", "client_mib": "client\nMiB",
    "gateway_mib": "gateway\nMiB",
}  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Rounds; contenders take turns in each.")
@click.option("--seconds", type=Seconds(0.1, 60), default=1.0, show_default=True, help="Length of each measurement.")
@click.option("--most", type=click.IntRange(1, 100_000), default=100_000, show_default=True, help="Flows to go up to.")
@click.option("--quick", is_flag=True, help="1 and 1000 flows, one short round.")
@click.option(
    "--only", multiple=True, metavar="WORD", default=("newest",), show_default=True,
    help="Contenders with this in their names, and this tunnel. Repeatable.",
)  # fmt: skip
@click.option("--no-newest", is_flag=True, help="Do not build the newest wireguard-go from its Go module.")
@click.option("--json", "json_file", type=OutputFile(), help="Where to write the figures. [default: perf/results/]")
def main(
    rounds: int, seconds: float, most: int, quick: bool, only: tuple[str, ...], no_newest: bool, json_file: Path | None
) -> None:
    """Measures what more flows cost, from one to 100 000.

    First the gateway's kernels for filters, routes and NAT: bytes of their tables on paper with the cache these fit in, and
    nanoseconds per packet. Then whole tunnels: UDP of 1200 bytes, every datagram of another flow than the one before.
    """
    if not inside.is_inside():
        inside.enter("perf.scale", inside.find(only, is_newest_built=not no_newest))
    rounds, seconds, steps = (1, min(seconds, QUICK_SECONDS), QUICK_STEPS) if quick else (rounds, seconds, STEPS)
    steps = tuple(step for step in steps if step <= most)
    logs = inside.begin()
    try:
        found = _run(steps, rounds, seconds, logs)
    except FirezoneError as error:
        raise click.ClickException(f"{error} Logs: {logs}") from error
    shutil.rmtree(logs, ignore_errors=True)
    kernels = _measure_kernels(steps)
    _print_kernels(kernels)
    _print_tunnels(found, rounds)
    path = json_file or results.default_path("scale-")
    results.write_document(path, {"rounds": rounds, "seconds": seconds, "kernels": kernels, "flows": {
        str(flows): [result.to_json() for result in found[flows]] for flows in steps
    }})  # fmt: skip
    click.echo(f"figures: {path}")


def _run(steps: Sequence[int], rounds: int, seconds: float, logs: Path) -> dict[int, list[Result]]:
    """Returns what every contender does with each number of flows."""
    from perf.results import Result
    from perf.run import Arena
    from perf.scale.flows import allow_sockets, through

    allow_sockets(max(steps))
    arena = Arena.build(tunnels.handed_over(), logs, inside.say)
    found = {flows: [Result(contender.name, contender.version) for contender in arena.contenders] for flows in steps}
    for number in range(rounds):
        for flows in steps:
            pairs = list(zip(arena.contenders, found[flows], strict=True))
            for contender, result in pairs if number % 2 == 0 else pairs[::-1]:
                inside.say(f"· round {number + 1} of {rounds}: {flows} flows, {contender.name}")
                result.rounds.append(through(contender, flows, seconds))
    return found


def _measure_kernels(steps: Sequence[int]) -> dict[str, dict[str, float | str]]:
    """Returns, by the number of flows, bytes on paper with their cache, and nanoseconds per packet."""
    from perf.scale.flows import PAPER_BYTES, cache_for, in_kernels

    found: dict[str, dict[str, float | str]] = {}
    for flows in steps:
        inside.say(f"· kernels: {flows} flows")
        paper = {f"{kind}, KiB": each * flows / 1024 for kind, each in PAPER_BYTES.items()}
        caches = {f"{kind}, fits in": cache_for(each * flows) for kind, each in PAPER_BYTES.items()}
        found[str(flows)] = {**paper, **caches, **in_kernels(flows)}
    return found


def _print_kernels(kernels: dict[str, dict[str, float | str]]) -> None:
    from rich.table import Table

    from perf.policy.kernels import NAMES, NETWORKS
    from perf.scale.flows import KERNEL_KEYS

    table = Table(title="a gateway's filters, routes and NAT: KiB on paper and the cache that holds them; nanoseconds per packet")
    for name in ("flows", NETWORKS, NAMES, *(key.replace(", ", "\n") for key in KERNEL_KEYS)):
        table.add_column(name, justify="right")
    for flows, row in kernels.items():
        paper = (f"{row[f'{kind}, KiB']:.1f} ({row[f'{kind}, fits in']})" for kind in (NETWORKS, NAMES))
        table.add_row(_spaced(int(flows)), *paper, *(f"{row[key]:.1f}" for key in KERNEL_KEYS))
    _console().print(table)


def _print_tunnels(found: dict[int, list[Result]], rounds: int) -> None:
    from rich.table import Table

    table = Table(title=f"UDP of 1200 bytes, flows in turn; medians of {rounds} rounds ± half of the range")
    for name in ("flows", "", *COLUMNS.values()):
        table.add_column(name, justify="right" if name else "left")
    for flows, contenders in found.items():
        for result in contenders:
            cells = [(result.median(key), result.spread(key)) for key in COLUMNS]
            texts = ("–" if median is None else f"{median:.1f} ± {spread:.1f}" for median, spread in cells)
            table.add_row(_spaced(flows), result.name, *texts)
    _console().print(table)


def _spaced(number: int) -> str:
    return f"{number:_}".replace("_", " ")


def _console() -> Console:
    from rich.console import Console

    return Console(width=140)


if __name__ == "__main__":
    main()
