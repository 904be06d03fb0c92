"""`./dev perf`: this tunnel beside no tunnel and every wireguard-go there is, interleaved, several rounds, medians with spread."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import click

from firezone.base.errors import FirezoneError
from firezone.cli.types import OutputFile, Seconds
from firezone.lab import namespaces
from perf.measure import FIGURES, Result, measure

RESULTS = Path(__file__).parent / "results"
OURS = "this tunnel"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 50), default=3, show_default=True, help="Rounds; contenders take turns in each.")
@click.option("--seconds", type=Seconds(1, 300), default=4.0, show_default=True, help="Length of each transfer.")
@click.option(
    "--json",
    "json_file",
    type=OutputFile(),
    help="Where to write the figures. [default: perf/results/]",
)
@click.option("--only", default="", metavar="TEXT", help="Run contenders with this in their names, and this tunnel.")
@click.option("--no-newest", is_flag=True, help="Do not build the newest wireguard-go from its Go module.")
def main(rounds: int, seconds: float, json_file: Path | None, only: str, no_newest: bool) -> None:
    """Compares tunnels on this machine: TCP both ways, round trips, CPU per gigabyte, datagrams per send.

    $WIREGUARD_GO may name further wireguard-go binaries, separated by colons. Ratios count; absolute figures differ from machine
    to machine and from hour to hour.
    """
    namespaces.complete_path()
    binaries = _binaries(no_newest)
    if namespaces.INSIDE not in os.environ:
        if (missing := namespaces.what_is_missing()) is not None:
            raise click.ClickException(missing)
        _enter(
            [
                "--rounds",
                str(rounds),
                "--seconds",
                str(seconds),
                "--only",
                only,
                "--no-newest",
                *(["--json", str(json_file)] if json_file else []),
            ],
            binaries,
        )
    namespaces.end_without_lifeline()
    _hide_run()
    try:
        results = _run(rounds, seconds, binaries, only)
    except FirezoneError as error:
        raise click.ClickException(str(error)) from error
    _print(results)
    _store(results, json_file, rounds, seconds)


def _run(rounds: int, seconds: float, binaries: dict[str, str], only: str) -> list[Result]:
    from firezone.lab.measure import start_iperf
    from firezone.lab.programs import Program, python
    from firezone.lab.stack import PORTAL_PORT, write_policy
    from firezone.lab.topology import PORTAL_ADDRESS, RESOURCE_PORT, Topology
    from perf.contenders import Contender, Firezone, Relayed, RelayedByCoturn, Veth, WireGuardGo, prepare

    logs = Path(os.environ[namespaces.SCRATCH])
    topology = Topology.build()
    topology.add_relay()
    prepare(topology)
    tokens = write_policy(logs, relays=["relay"])
    bind = f"{PORTAL_ADDRESS}:{PORTAL_PORT}"
    Program.start(
        "portal", topology.public, python("firezone.portal", "--config", str(logs / "policy.toml"), "--bind", bind), logs
    ).wait_for("listening")
    Program.start("resource", topology.resource, python("firezone.lab.web", str(RESOURCE_PORT)), logs).wait_for("listening")
    start_iperf(topology.resource, logs)
    contenders: list[Contender] = [Veth("veth, no tunnel", topology, logs), Firezone(OURS, topology, logs, tokens=tokens)]
    contenders.append(Relayed(f"{OURS}, relayed", topology, logs, tokens=tokens))
    if shutil.which("turnserver"):
        contenders.append(RelayedByCoturn(f"{OURS}, over coturn", topology, logs, tokens=tokens))
    contenders += [WireGuardGo(name, topology, logs, binary=binary) for name, binary in binaries.items()]
    chosen = [contender for contender in contenders if only in contender.name or contender.name == OURS]
    if only and not any(only in contender.name for contender in chosen):
        shutil.rmtree(logs, ignore_errors=True)
        raise click.BadParameter(f"{only!r} is in none of: {'; '.join(one.name for one in contenders)}.", param_hint="--only")
    contenders = chosen
    results = {contender.name: Result(contender.name) for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            click.echo(f"· round {number + 1} of {rounds}: {contender.name}", err=True)
            results[contender.name].rounds.append(measure(contender, seconds))
    shutil.rmtree(logs, ignore_errors=True)
    return list(results.values())


def _binaries(no_newest: bool) -> dict[str, str]:
    """Finds the wireguard-go binaries: Debian's, the newest, and those of $WIREGUARD_GO."""
    found: dict[str, str] = {}
    if program := shutil.which("wireguard-go"):
        found["wireguard-go, Debian's"] = program
    if not no_newest:
        from tests.interop.programs import BuildFailed, NotAvailable, wireguard

        try:
            found["wireguard-go, newest"] = str(wireguard("newest"))
        except (NotAvailable, BuildFailed) as error:
            click.echo(f"without the newest wireguard-go: {error}", err=True)
    for path in filter(None, os.environ.get("WIREGUARD_GO", "").split(":")):
        name, _, binary = path.rpartition("=")
        found.setdefault(name or f"wireguard-go, {binary}", binary)
    return found


def _enter(arguments: list[str], binaries: dict[str, str]) -> NoReturn:
    found = ":".join(f"{name}={path}" for name, path in binaries.items())
    scratch = Path(tempfile.mkdtemp(prefix="firezone-perf-"))
    namespaces.enter(arguments, "perf", {"WIREGUARD_GO": found}, scratch)


def _hide_run() -> None:
    """Gives this mount namespace a /run of its own: wireguard-go leaves its control socket there when it is killed."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)


def _print(results: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="one topology, inner MTU 1280, single TCP stream; medians ± spread")
    for column in ("", "up Gbit/s", "down Gbit/s", "resent/GB", "UDP lost %", "RTT p50 ms", "RTT p99 ms", "CPU s/GB", "per send"):
        table.add_column(column, justify="left" if not column else "right")
    for result in results:
        cells = []
        for figure in FIGURES:
            median = result.median(figure)
            cells.append("–" if median is None else f"{median:.2f} ± {result.spread(figure):.2f}")
        table.add_row(result.name, *cells)
    console = Console(width=140)
    console.print(table)
    for line in _ratios(results):
        console.print(line)


def _ratios(results: list[Result]) -> list[str]:
    ours = next(result for result in results if result.name == OURS)
    lines = []
    for other in results:
        if other is ours:
            continue
        parts = []
        for figure, word in (("up_gbps", "up"), ("down_gbps", "down"), ("cpu_s_per_gb", "CPU per GB"), ("rtt_p50_ms", "RTT p50")):
            mine, theirs = ours.median(figure), other.median(figure)
            if mine is not None and theirs:
                parts.append(f"{word} {mine / theirs:.2f} times")
        lines.append(f"{OURS} against {other.name}: " + ", ".join(parts))
    return lines


def _store(results: list[Result], json_file: Path | None, rounds: int, seconds: float) -> None:
    now = datetime.datetime.now(datetime.UTC)
    path = json_file or RESULTS / f"{now:%Y-%m-%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    value: dict[str, Any] = {
        "time": now.isoformat(timespec="seconds"),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "rounds": rounds,
        "seconds": seconds,
        "results": [result.to_json() for result in results],
    }
    path.write_text(json.dumps(value, indent=1))
    click.echo(f"figures: {path}")
    if (picture := _draw(results, path.with_suffix(".png"))) is not None:
        click.echo(f"picture: {picture}")


def _draw(results: list[Result], path: Path) -> Path | None:
    try:
        import matplotlib as mpl
    except ImportError:
        return None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    names = [result.name for result in results]
    for axis, keys, title in (
        (axes[0], ("up_gbps", "down_gbps"), "TCP, Gbit/s"),
        (axes[1], ("cpu_s_per_gb",), "CPU seconds per GB"),
    ):
        height = 0.8 / len(keys)
        for number, key in enumerate(keys):
            axis.barh(
                [place + number * height for place in range(len(names))], [result.median(key) or 0 for result in results], height,
                label=key.split("_")[0],
            )  # fmt: skip
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_title(title)
        if len(keys) > 1:
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
