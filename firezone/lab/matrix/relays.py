"""The matrix's relays: one per region, as the portal hands them out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.lab.nat.lab import attach_server
from firezone.lab.stack import start_relay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from firezone.lab.namespaces import Namespace
    from firezone.lab.nat.internet import Internet
    from firezone.lab.programs import Program

RELAYS = {"relay-west": ("198.51.100.11", "2001:db8:1::11"), "relay-east": ("198.51.100.139", "2001:db8:2::11")}
"""Addresses by name: one in each region."""


@dataclass(slots=True)
class Relays:
    """Running relays."""

    namespaces: list[Namespace] = field(default_factory=list)
    programs: dict[str, Program] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """Names of relays by address."""
        return {address: name for name, addresses in RELAYS.items() for address in addresses}

    @classmethod
    def start(cls, internet: Internet, logs: Path, api_url: str, tokens: Mapping[str, str]) -> Relays:
        """Starts one relay per region. Raises ConfigError, naming the one that did not start."""
        relays = cls()
        for name, addresses in RELAYS.items():
            namespace = attach_server(internet, name, *addresses)
            relays.namespaces.append(namespace)
            relays.programs[name] = start_relay(namespace, name, addresses, logs, tokens[name], api_url)
        return relays

    def close(self) -> None:
        for program in self.programs.values():
            program.stop()
        for namespace in self.namespaces:
            namespace.close()
