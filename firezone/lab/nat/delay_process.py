"""`python -m firezone.lab.nat.delay_process REGION=NETWORK...`: delays what is routed into a TUN device; see `lab.nat.delay`."""

from __future__ import annotations

import ipaddress
import sys

import click

from firezone.base.errors import ConfigError
from firezone.base.timing import MILLISECOND
from firezone.lab.nat.delay import FAR, NEAR, DelayQueue
from firezone.lab.nat.pump import attach, pump


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("regions", nargs=-1, required=True, metavar="REGION=NETWORK...")
@click.option("--device", default="delay0", show_default=True, help="TUN device to work on; it must exist.")
@click.option("--near", type=click.FloatRange(0), default=NEAR / MILLISECOND, show_default=True, help="ms one way within a region.")
@click.option("--far", type=click.FloatRange(0), default=FAR / MILLISECOND, show_default=True, help="ms one way between regions.")
def main(regions: tuple[str, ...], device: str, near: float, far: float) -> None:
    """Delays packets until it is killed."""
    networks = {ipaddress.ip_network(network): region for region, _, network in (word.partition("=") for word in regions)}
    try:
        fd = attach(device)
    except ConfigError as error:
        sys.exit(str(error))
    click.echo(f"delaying between {len(set(networks.values()))} regions")
    pump(fd, DelayQueue(networks, round(near * MILLISECOND), round(far * MILLISECOND)))


if __name__ == "__main__":
    main()
