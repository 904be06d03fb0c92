"""`python -m firezone.lab.nat.process`: a NAT for UDP in a router's namespace; `lab.surroundings` routes packets to it.

SIGUSR1 makes it forget every mapping, as a router does that was restarted: the same sockets get other outer ports.
"""

from __future__ import annotations

import ipaddress
import signal
import sys

import click

from firezone.base.errors import ConfigError
from firezone.base.timing import seconds
from firezone.io.entropy import SystemRng
from firezone.lab.nat.packets import UdpNat
from firezone.lab.nat.pump import attach, pump
from firezone.lab.nat.table import Behaviour, Dependence, NatTable

_DEPENDENCE = click.Choice([str(member) for member in Dependence])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--device", default="nat0", show_default=True, help="TUN device to work on; it must exist.")
@click.option("--outer", type=ipaddress.IPv4Address, required=True, help="The NAT's outer address.")
@click.option("--inside", type=ipaddress.IPv4Network, required=True, help="The network behind the NAT.")
@click.option("--mapping", type=_DEPENDENCE, required=True)
@click.option("--filtering", type=_DEPENDENCE, required=True)
@click.option("--preserve/--no-preserve", default=True, help="Keep the inner port while it is free.")
@click.option("--hairpin", is_flag=True, help="Let inner hosts reach each other by outer addresses.")
@click.option("--only-port", type=click.IntRange(1, 65535), help="Let nothing out but to this port.")
@click.option("--timeout", type=click.FloatRange(0.1), default=120.0, show_default=True, help="Seconds a mapping lives.")
def main(
    device: str, outer: ipaddress.IPv4Address, inside: ipaddress.IPv4Network, mapping: str, filtering: str,
    preserve: bool, hairpin: bool, only_port: int | None, timeout: float,
) -> None:  # fmt: skip
    """Translates what the kernel routes into the device, until it is killed."""
    behaviour = Behaviour(
        _dependence(mapping), _dependence(filtering), is_preserving=preserve, is_hairpinning=hairpin, timeout=seconds(timeout),
        only_port=only_port,
    )  # fmt: skip
    table = NatTable(outer.packed, behaviour, SystemRng())
    try:
        fd = attach(device)
    except ConfigError as error:
        sys.exit(str(error))
    nat = UdpNat(table, inside)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(nat, "is_rebinding", True))
    click.echo(f"translating {inside} to {outer}")
    pump(fd, nat)


def _dependence(name: str) -> Dependence:
    return next(member for member in Dependence if str(member) == name)


if __name__ == "__main__":
    main()
