"""Every kind of network on one internet, each probed before it is used; what the matrix and its tests build on.

portal, relay-west, probe ──┐            ┌── relay-east
                            ├─ internet ─┤
clients, carrier ───────────┘            └── gateways ── resources

       region west                             region east
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.errors import ConfigError
from firezone.lab.namespaces import Namespace
from firezone.lab.nat.internet import Internet
from firezone.lab.nat.kinds import Kind, complaints
from firezone.lab.nat.probe import Finding
from firezone.lab.nat.surroundings import CARRIER_ADDRESS, Place, Places
from firezone.lab.programs import Program, python

if TYPE_CHECKING:
    from pathlib import Path

PROBE_ADDRESSES, PROBE_ADDRESS_V6 = ("198.51.100.21", "198.51.100.22"), "2001:db8:3::21"
_PROBE_TIMEOUT_S = 20.0

REGIONS = {
    "west": ["198.51.100.0/25", "203.0.113.0/26", f"{CARRIER_ADDRESS}/32", *(f"2001:db8:{n}::/64" for n in (1, 3, *range(10, 20)))],
    "east": ["198.51.100.128/25", "203.0.113.64/26", *(f"2001:db8:{n}::/64" for n in (2, *range(110, 120)))],
}
"""Networks by region: servers of west and clients, servers of east and gateways."""


@dataclass(slots=True)
class NatLab:
    """The internet with its probe, and the places that somebody has asked for."""

    internet: Internet
    logs: Path
    probe: Namespace
    prober: Program
    places: Places
    found: dict[tuple[str, Kind], tuple[Place, list[str]]] = field(default_factory=dict)
    """What was built, with the probe's complaints about it."""

    @classmethod
    def build(cls, logs: Path) -> NatLab:
        """Makes the internet and starts the probe's public side. Raises ConfigError, naming what failed."""
        internet = Internet.build()
        probe = attach_server(internet, "probe", *PROBE_ADDRESSES, PROBE_ADDRESS_V6)
        internet.start_delays(logs, REGIONS)
        prober = Program.start("probe", probe, _probe("serve"), logs)
        prober.wait_for("listening")
        return cls(internet, logs, probe, prober, Places(internet, logs))

    def place(self, side: str, kind: Kind) -> Place:
        """Returns the place of a kind on one side, built and probed when it is asked for first.

        Raises: ConfigError when the network is not what its kind says: what is measured there would mean nothing.
        """
        if (side, kind) not in self.found:
            place = self.places.build(side, kind)
            self.found[side, kind] = place, complaints(kind, self.classify(place.host))
        place, wrong = self.found[side, kind]
        if wrong:
            raise ConfigError(f"The {side}'s network is not {kind}: {'; '.join(wrong)}. Logs are in {self.logs}.")
        return place

    def classify(self, host: Namespace) -> Finding:
        """Lets the probe look at the network of a host. Raises ConfigError with its words when it fails."""
        command = host.command(*_probe("classify"))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PROBE_TIMEOUT_S)
        if done.returncode:
            raise ConfigError(f"The probe failed in {host.name}: {done.stderr.strip()}")
        return Finding(**json.loads(done.stdout))

    def close(self) -> None:
        for place, _ in self.found.values():
            place.close()
        self.places.close()
        self.prober.kill()
        self.probe.close()
        self.internet.close()


def attach_server(internet: Internet, name: str, *addresses: str) -> Namespace:
    """Returns a new namespace in the open with these addresses, IPv4 and IPv6."""
    namespace = Namespace.create(name)
    networks = [f"{address}/{128 if ':' in address else 32}" for address in addresses]
    internet.attach(namespace, name, *networks)
    for network in networks:
        namespace.run("ip", "addr", "add", network, "dev", "wan", *(["nodad"] if ":" in network else []))
    return namespace


def _probe(role: str) -> list[str]:
    return python("firezone.lab.nat.probe", role, *PROBE_ADDRESSES, "--ipv6", PROBE_ADDRESS_V6)
