"""One whole comparison, inside the namespaces: everything the contenders share, and the contenders in turns."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from firezone.base.errors import FirezoneError
from firezone.lab.measure import start_iperf
from firezone.lab.programs import Program, python
from firezone.lab.stack import PORTAL_PORT, write_policy
from firezone.lab.topology import PORTAL_ADDRESS, RESOURCE_PORT, Topology
from perf.contenders import Contender, Firezone, Relayed, RelayedByCoturn, Veth, WireGuard, prepare
from perf.measure import Bench, measure
from perf.results import Result, Run
from perf.tunnels import COTURN, OURS, RELAYED, VETH

if TYPE_CHECKING:
    from collections.abc import Callable

    from perf.tunnels import Tunnel

OWN = {OURS: Firezone, RELAYED: Relayed, COTURN: RelayedByCoturn}


@dataclass
class Arena:
    """The topology, the portal and the resource, and every contender that is to run in them."""

    contenders: list[Contender]
    tell: Callable[[str], None]
    failures: list[str] = field(default_factory=list)
    """What could not be measured."""

    @classmethod
    def build(cls, tunnels: list[Tunnel], logs: Path, tell: Callable[[str], None]) -> Arena:
        """Makes the networks and starts what all contenders use. Raises ConfigError, naming what failed."""
        topology = Topology.build()
        topology.add_relay()
        prepare(topology)
        tokens = write_policy(logs, relays=["relay"])
        bind = f"{PORTAL_ADDRESS}:{PORTAL_PORT}"
        portal = python("firezone.portal", "--config", str(logs / "policy.toml"), "--bind", bind)
        Program.start("portal", topology.public, portal, logs).wait_for("listening")
        Program.start("resource", topology.resource, python("firezone.lab.web", str(RESOURCE_PORT)), logs).wait_for("listening")
        start_iperf(topology.resource, logs)
        return cls([_contender(tunnel, topology, logs, tokens) for tunnel in tunnels], tell)

    def go(self, groups: list[str], rounds: int, seconds: float) -> Run:
        """Measures these groups of every contender in every round; who goes first changes from round to round.

        One that fails is told about and left out from then on.
        """
        results = {contender.name: Result(contender.name, contender.version) for contender in self.contenders}
        for number in range(rounds):
            for contender in self.contenders if number % 2 == 0 else self.contenders[::-1]:
                self.tell(f"· round {number + 1} of {rounds}: {contender.name}")
                try:
                    results[contender.name].rounds.append(measure(Bench(contender, seconds, self.tell), groups))
                except (FirezoneError, OSError, subprocess.SubprocessError) as error:
                    self.failures.append(f"{contender.name}: {error}")
                    self.tell(f"left out from here on: {self.failures[-1]}")
                    self.contenders = [one for one in self.contenders if one is not contender]
        return Run([result for result in results.values() if result.rounds], rounds, seconds)


def _contender(tunnel: Tunnel, topology: Topology, logs: Path, tokens: dict[str, str]) -> Contender:
    if tunnel.name == VETH:
        return Veth(tunnel.name, topology, logs, tunnel.version)
    if (own := OWN.get(tunnel.name)) is not None:
        return own(tunnel.name, topology, logs, tunnel.version, tokens=tokens)
    options = ["--disable-drop-privileges"] if "boringtun" in Path(tunnel.binary).name else []
    return WireGuard(tunnel.name, topology, logs, tunnel.version, binary=tunnel.binary, options=options)
