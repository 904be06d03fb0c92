"""The running lab: topology, portal, gateway, client and the resource behind them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.errors import ConfigError
from firezone.lab.access import POLICY, start_surroundings
from firezone.lab.paths import join, last_end
from firezone.lab.programs import Program, python, read_records
from firezone.lab.topology import (
    PORTAL_ADDRESS,
    RELAY_ADDRESSES,
    RESOURCE_NETWORK,
    RESOURCE_NETWORK_V6,
    RESOURCE_PORT,
    SPARE_RELAY_ADDRESSES,
    Topology,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from firezone.lab.namespaces import Namespace

PORTAL_PORT = 8081
LOGS = {"client": "firezone-headless-client.latest", "gateway": "firezone-gateway.latest"}
RELAY_NAMES = {**dict.fromkeys(RELAY_ADDRESSES, "relay"), **dict.fromkeys(SPARE_RELAY_ADDRESSES, "relay-2")}
API_URL = f"ws://{PORTAL_ADDRESS}:{PORTAL_PORT}"


@dataclass(slots=True)
class Stack:
    """Everything that runs; `close` ends it in reverse."""

    topology: Topology
    logs: Path
    portal: Program
    web: Program
    gateway: Program
    client: Program
    relay: Program | None = None
    spare_relay: Program | None = None
    tokens: dict[str, str] = field(default_factory=dict)
    others: list[Program] = field(default_factory=list)
    """What stands around: name servers, a web server out there."""

    @classmethod
    def start(
        cls,
        logs: Path,
        progress: Callable[[str], None],
        *,
        is_relayed: bool = False,
        has_spare_relay: bool = False,
        has_names: bool = False,
    ) -> Stack:
        """Builds the networks and starts the programs until the client's tunnel is configured.

        `is_relayed` leaves no way between client and gateway but a relay. `has_spare_relay` prepares a second one, which
        `start_spare_relay` starts. `has_names` adds the resources and name servers of `lab.access`.

        Raises: ConfigError, naming the program, its log and its last words.
        """
        progress("networks and namespaces")
        topology = Topology.build(is_relayed=is_relayed, has_spare_relay=has_spare_relay)
        progress("portal")
        tokens = write_policy(logs, relays=[*(["relay"] if is_relayed else []), *(["relay-2"] if has_spare_relay else [])])
        if has_names:
            with (logs / "policy.toml").open("a", encoding="utf-8") as policy:
                policy.write(POLICY)
        portal = Program.start(
            "portal", topology.public,
            python("firezone.portal", "--config", str(logs / "policy.toml"), "--bind", f"{PORTAL_ADDRESS}:{PORTAL_PORT}"), logs,
        )  # fmt: skip
        portal.wait_for("listening")
        relay = None
        if topology.relay is not None:
            progress("relay")
            relay = start_relay(topology.relay, "relay", RELAY_ADDRESSES, logs, tokens["relay"], API_URL)
        web = Program.start("resource", topology.resource, python("firezone.lab.web", str(RESOURCE_PORT)), logs)
        web.wait_for("listening")
        others = start_surroundings(topology, logs) if has_names else []
        progress("gateway")
        gateway = start_tunnel("gateway", topology, logs, tokens["gateway"])
        gateway.wait_for("tunnel configured")
        progress("client")
        client = start_tunnel("client", topology, logs, tokens["client"], is_internet_active=has_names)
        client.wait_for("tunnel configured")
        return cls(topology, logs, portal, web, gateway, client, relay, tokens=tokens, others=others)

    def start_spare_relay(self) -> None:
        """Starts the second relay, and waits until it has joined the portal. Raises ConfigError when it does not."""
        assert self.topology.spare_relay is not None
        self.spare_relay = start_relay(
            self.topology.spare_relay, "relay-2", SPARE_RELAY_ADDRESSES, self.logs, self.tokens["relay-2"], API_URL
        )

    def restart_tunnels(self) -> None:
        """Ends client and gateway and starts them anew, as at first. Raises ConfigError when one does not come up."""
        for name in ("client", "gateway"):
            getattr(self, name).stop()
        for name in ("gateway", "client"):
            since = getattr(self, name).log.stat().st_size
            program = getattr(self, name).restart()
            program.wait_for("tunnel configured", since=since)
            setattr(self, name, program)

    def path(self) -> str:
        """Returns the path that the client's newest connection takes."""
        client, gateway = (last_end(self.logs / LOGS[name]) for name in ("client", "gateway"))
        if client is None or gateway is None:
            return "unknown"
        own = {"client": self.topology.client.addresses(), "gateway": self.topology.gateway.addresses()}
        found = join(client, gateway, own, RELAY_NAMES)
        if found.via:
            return f"relayed via {' and '.join(found.via)} (client {found.client}, gateway {found.gateway})"
        return f"direct, over {client.endpoint} (client {found.client}, gateway {found.gateway})"

    def counters(self, name: str) -> dict[str, object]:
        """Returns the counters a stopped program has left."""
        found: dict[str, object] = json.loads((self.logs / f"{name}.counters.json").read_text())
        return found

    def complaints(self) -> list[str]:
        """Returns what the logs of client and gateway hold at ERROR."""
        return complaints(self.logs)

    def close(self) -> None:
        for program in (self.client, self.gateway, self.web, self.relay, self.spare_relay, *self.others, self.portal):
            if program is not None and program.process.poll() is None:
                program.stop()
        self.topology.close()


def start_relay(namespace: Namespace, name: str, addresses: Sequence[str], logs: Path, token: str, api_url: str) -> Program:
    """Starts a relay with an IPv4 and an IPv6 address. Raises ConfigError unless it joins the portal."""
    environment = {
        "FIREZONE_API_URL": api_url,
        "FIREZONE_TOKEN": token,
        "FIREZONE_NAME": name,
        "PUBLIC_IP4_ADDR": addresses[0],
        "PUBLIC_IP6_ADDR": addresses[1],
        "RUST_LOG": os.environ.get("RUST_LOG", "info"),
        "FIREZONE_COUNTERS_FILE": str(logs / f"{name}.counters.json"),
    }
    relay = Program.start(name, namespace, python("firezone.relay"), logs, environment)
    relay.wait_for("joined the portal")
    return relay


def complaints(logs: Path) -> list[str]:
    """Returns what the logs of a client and a gateway hold at ERROR."""
    found = []
    for base in LOGS.values():
        if (log := logs / base).exists():
            found += [f"{log.stem}: {r['message']}" for r in read_records(log) if r["severity"] == "ERROR"]
    return found


def start_tunnel(name: str, topology: Topology, logs: Path, token: str, *, is_internet_active: bool = False) -> Program:
    """Starts the client or the gateway of the demo."""
    namespace = topology.client if name == "client" else topology.gateway
    return start_tunnel_in(namespace, name, logs, token, API_URL, is_internet_active=is_internet_active)


def start_tunnel_in(
    namespace: Namespace, name: str, logs: Path, token: str, api_url: str, *, is_internet_active: bool = False
) -> Program:
    """Starts a client or a gateway in any namespace from which the portal is reached."""
    environment = {
        "FIREZONE_API_URL": api_url,
        "FIREZONE_TOKEN": token,
        "FIREZONE_ID": f"lab-{name}",
        "FIREZONE_NAME": f"lab {name}",
        "LOG_DIR": str(logs),
        "RUST_LOG": os.environ.get("RUST_LOG", "info"),
        "FIREZONE_COUNTERS_FILE": str(logs / f"{name}.counters.json"),
        # Namespaces without files of their own share those of the machine, whose DNS is none of the lab's business.
        "FIREZONE_DNS_CONTROL": "etc-resolv-conf" if namespace.has_etc else "disabled",
    }
    if is_internet_active:
        environment["FIREZONE_ACTIVATE_INTERNET_RESOURCE"] = "true"
    return Program.start(name, namespace, python(f"firezone.{name}"), logs, environment)


def write_policy(directory: Path, bind: str = f"{PORTAL_ADDRESS}:{PORTAL_PORT}", relays: Sequence[str] = ()) -> dict[str, str]:
    """Lets `firezone.portal` write the policy and tokens of the lab; returns the tokens by role, and by name those of relays."""
    config = directory / "policy.toml"
    command = python(
        "firezone.portal", "init", "--config", str(config), "--site", "Lab", "--bind", bind,
        "--resource", f"Site={RESOURCE_NETWORK}", "--resource", f"Site v6={RESOURCE_NETWORK_V6}",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"The portal's policy could not be made: {done.stderr.strip() or done.stdout.strip()}")
    for name in relays:
        _add_relay_token(directory, config, name)
    return {role: (directory / f"{role}.token").read_text().strip() for role in ("gateway", "client", *relays)}


def _add_relay_token(directory: Path, config: Path, name: str) -> None:
    command = python("firezone.portal", "token", "relay", "--name", name, "--out", str(directory / f"{name}.token"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"A relay's token could not be made: {done.stderr.strip() or done.stdout.strip()}")
    with config.open("a", encoding="utf-8") as policy:
        policy.write(f"\n{done.stdout}")
