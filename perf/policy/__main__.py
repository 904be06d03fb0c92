"""`./dev perf policy`: what clients, resources and flows cost a gateway, in its kernels and in its machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from perf.policy.gateway import Crowd
from perf.policy.kernels import BACK, NAMES, NETWORKS, OUT, SET_UPS, Gateway, new_sessions_per_second
from perf.results import default_path, write_document

if TYPE_CHECKING:
    from perf.policy.kernels import SetUp

KERNELS = tuple((kind, direction) for kind in (NETWORKS, NAMES) for direction in (OUT, BACK))
Nanoseconds = dict["SetUp", dict[tuple[str, str], float]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--clients", type=click.IntRange(100, 100_000), default=10_000, show_default=True, help="Clients of the whole gateway."
)
@click.option(
    "--passes", type=click.IntRange(1, 100), default=5, show_default=True, help="Times each batch is timed; the best counts."
)
@click.option("--quick", is_flag=True, help="The smallest and the largest tables once and 200 clients, in half a minute.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the figures. [default: perf/results/]",
)
def main(clients: int, passes: int, quick: bool, json_file: Path | None) -> None:
    """Measures what policy costs a gateway.

    First the kernels for filters, routes and NAT, in nanoseconds per packet, as clients, resources and flows grow. Then a whole
    gateway with thousands of real clients in this process: memory of each, CPU from a grant to its first packet, and an edit of
    the policy that touches all of them while packets flow. Needs no root.
    """
    set_ups = (SET_UPS[0], SET_UPS[3], SET_UPS[-1]) if quick else SET_UPS
    clients, passes = (200, 2) if quick else (clients, passes)
    found: Nanoseconds = {}
    for set_up in set_ups:
        click.echo(f"· kernels: {set_up.clients} clients, {set_up.resources} resources, {set_up.flows} flows", err=True)
        found[set_up] = {}
        for kind in (NETWORKS, NAMES):
            gateway = Gateway(set_up, kind)
            found[set_up] |= {(kind, direction): gateway.nanoseconds(direction, passes) for direction in (OUT, BACK)}
    sessions = new_sessions_per_second()
    machine = _measure_machine(clients)
    _print(found, sessions, machine, clients)
    _store(found, sessions, machine, json_file)


def _measure_machine(clients: int) -> dict[str, float]:
    crowd = Crowd(lambda line: click.echo(f"{line} of {clients}", err=True) if crowd.count % 1024 < 32 else None)
    crowd.grow(clients // 4)
    cpu = crowd.grow(clients // 4)
    memory = crowd.memory_per_client(clients - crowd.count)
    seconds, sent, lost = crowd.edit_policy()
    return {"client_cpu_s": cpu, "client_bytes": memory, "edit_s": seconds, "edit_packets": sent, "edit_lost": lost}


def _print(found: Nanoseconds, sessions: float, machine: dict[str, float], clients: int) -> None:
    console = Console(width=132)
    table = Table(title="filters, routes and NAT: nanoseconds per packet (millions of packets per CPU second)")
    for column in ("clients", "resources", "flows in turn", *(f"{kind}\n{direction}" for kind, direction in KERNELS)):
        table.add_column(column, justify="right")
    for set_up, cells in found.items():
        sizes = (f"{number:_}".replace("_", " ") for number in (set_up.clients, set_up.resources, set_up.flows))
        table.add_row(*sizes, *(f"{cells[key]:.1f} ({1e3 / cells[key]:.1f})" for key in KERNELS))
    console.print(table)
    smallest, *_, largest = found.values()
    few = [cells for set_up, cells in found.items() if set_up.flows == min(one.flows for one in found)][-1]
    for kind, direction in KERNELS:
        base = smallest[kind, direction]
        console.print(
            f"{kind}, {direction}: largest tables against smallest, few flows {few[kind, direction] / base:.2f} times, "
            f"all flows {largest[kind, direction] / base:.2f} times"
        )
    console.print(f"new NAT sessions: {sessions:,.0f} per second".replace(",", " "))
    console.print(f"first-time clients, grant to first packet: {1 / machine['client_cpu_s']:.0f} per CPU second of the gateway")
    console.print(f"memory per idle connected client: {machine['client_bytes'] / 1024:.1f} KiB")
    console.print(
        f"an edit that touches {clients} clients: applied in {machine['edit_s']:.2f} s, "
        f"{machine['edit_packets']} packets sent meanwhile, {machine['edit_lost']} lost"
    )


def _store(found: Nanoseconds, sessions: float, machine: dict[str, float], json_file: Path | None) -> None:
    path = json_file or default_path("policy-")
    kernels = [
        {"clients": set_up.clients, "resources": set_up.resources, "flows": set_up.flows,
         "nanoseconds": {f"{kind} {direction}": value for (kind, direction), value in cells.items()}}
        for set_up, cells in found.items()
    ]  # fmt: skip
    write_document(path, {"kernels": kernels, "new_sessions_per_s": sessions, "gateway": machine})
    click.echo(f"figures: {path}")


if __name__ == "__main__":
    main()
