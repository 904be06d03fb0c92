"""What is compared: no tunnel at all, this tunnel, and every user-space WireGuard that can be had; all over the lab's topology.

Each contender makes the resource reachable from the client's namespace through the same router and gateway, with the same inner
MTU, and takes everything back when it stops.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from firezone.base.limits import MAX_PACKET_SIZE
from firezone.base.net import Endpoint
from firezone.base.secret import SecretText
from firezone.lab.programs import Program
from firezone.lab.stack import API_URL, start_relay, start_tunnel
from firezone.lab.topology import GATEWAY_ADDRESS, RELAY_ADDRESSES, RESOURCE_NETWORK, Topology
from firezone.proto.portal.model import OnlineRelay
from firezone.proto.portal.relays import relay_id_of, turn_entries
from firezone.wire.portal.shared import PublicKey
from perf.processes import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.lab.namespaces import Namespace

WIREGUARD_PORT = 51820
POLICY_NOTICED_S = 4.0
"""The portal looks at its file every second and tells devices after another of quiet."""
_MARK = "\n# relays of the comparison\n"
OTHER_END = {"gateway": "client", "client": "gateway"}
_INNER = {"client": "10.99.0.1/24", "gateway": "10.99.0.2/24"}


@dataclass
class Contender:
    """One way from the client to the resource."""

    name: str
    topology: Topology
    logs: Path
    version: str = ""
    programs: dict[str, Program] = field(default_factory=dict)
    """What carries the packets, in the order of starting, by its part: client, gateway, relay."""

    can_renew: ClassVar[bool] = False

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for program in reversed(self.programs.values()):
            program.stop()
        self.programs.clear()

    def renew(self) -> None:
        """Makes the client forget its connection to the gateway, so that the next packet needs a new one."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        return [program.process.pid for program in self.programs.values()]

    def cpu_seconds(self) -> dict[str, float]:
        """CPU of the processes that carry the packets, by their part."""
        return {part: cpu_seconds(program.process.pid) for part, program in self.programs.items()}

    def datagrams_per_send(self) -> float | None:
        """Only known of this tunnel, and only once it has stopped."""
        return None


class Veth(Contender):
    """The topology without a tunnel: what the machine's kernel gives."""

    def start(self) -> None:
        mtu = str(MAX_PACKET_SIZE)
        self.topology.client.run(
            "ip", "route", "add", RESOURCE_NETWORK, "via", "192.168.50.1", "mtu", "lock", mtu, "advmss", "1240"
        )
        self.topology.router.run("ip", "route", "add", RESOURCE_NETWORK, "via", GATEWAY_ADDRESS)

    def stop(self) -> None:
        self.topology.client.run("ip", "route", "del", RESOURCE_NETWORK)
        self.topology.router.run("ip", "route", "del", RESOURCE_NETWORK)


@dataclass
class Firezone(Contender):
    """This tunnel: the real gateway and client programs."""

    tokens: dict[str, str] = field(default_factory=dict)

    can_renew = True

    def start(self) -> None:
        for role in ("gateway", "client"):
            since = (self.logs / f"{role}.log").stat().st_size if (self.logs / f"{role}.log").exists() else 0
            (self.logs / f"{role}.counters.json").unlink(missing_ok=True)
            program = start_tunnel(role, self.topology, self.logs, self.tokens[role])
            self.programs[role] = program
            program.wait_for("tunnel configured", since=since)

    def renew(self) -> None:
        client = self.programs["client"]
        since = client.log.stat().st_size
        client.process.send_signal(signal.SIGHUP)
        client.wait_for("joined the portal", since=since)

    def datagrams_per_send(self) -> float | None:
        import json

        counters = [json.loads((self.logs / f"{role}.counters.json").read_text())["udp"] for role in ("client", "gateway")]
        calls = sum(counter["send_calls"] for counter in counters)
        return round(sum(counter["sent"] for counter in counters) / calls, 1) if calls else None


@dataclass
class Relayed(Firezone):
    """This tunnel with direct paths blocked, over our relay."""

    def start(self) -> None:
        assert self.topology.relay is not None
        self.topology.block_direct()
        self.programs["relay"] = start_relay(
            self.topology.relay, "relay", RELAY_ADDRESSES, self.logs, self.tokens["relay"], API_URL
        )
        super().start()

    def stop(self) -> None:
        super().stop()
        self.topology.open_direct()


@dataclass
class RelayedByCoturn(Firezone):
    """This tunnel with direct paths blocked, over coturn.

    coturn knows no credentials derived from a secret the way Firezone does it: once both devices have logged in, it is given
    their users, and only then does the policy name it. A new login would have keys that coturn does not know.
    """

    can_renew = False

    def start(self) -> None:
        assert self.topology.relay is not None
        self.topology.block_direct()
        super().start()
        users, secret = self.logs / "coturn.db", SecretText("5d" * 32)
        users.unlink(missing_ok=True)
        endpoints = tuple(Endpoint.from_text(address, 3478) for address in RELAY_ADDRESSES)
        relay = OnlineRelay(relay_id_of(secret), "coturn", endpoints, secret, None)
        for key in self._public_keys():
            entry = turn_entries([relay], key, None)[0]
            _output("turnadmin", "-a", "-b", str(users), "-r", "firezone", "-u", entry.username, "-p", entry.password.reveal())
        listening = [option for address in RELAY_ADDRESSES for option in ("-L", address)]
        self.programs["relay"] = Program.start(
            "coturn", self.topology.relay,
            ["turnserver", "-n", "--lt-cred-mech", "-r", "firezone", "-b", str(users), *listening, "--no-cli", "--no-tls",
             "--no-dtls", "--no-multicast-peers", "--log-file", "stdout", "--pidfile", str(self.logs / "coturn.pid"),
             "--allow-loopback-peers"],
            self.logs,
        )  # fmt: skip
        addresses = f'ipv4 = "{RELAY_ADDRESSES[0]}"\nipv6 = "{RELAY_ADDRESSES[1]}"'
        self._set_policy(f'[[relay]]\nname = "coturn"\n{addresses}\nsecret = "{secret.reveal()}"\n')
        time.sleep(POLICY_NOTICED_S)

    def stop(self) -> None:
        self._set_policy("")
        super().stop()
        self.topology.open_direct()

    def _public_keys(self) -> list[PublicKey]:
        """Reads the keys of client and gateway from a copy of the portal's state, which it keeps to itself."""
        with tempfile.TemporaryDirectory() as directory:
            for state in ("policy.db", "policy.db-wal"):
                shutil.copy(self.logs / state, directory)
            with contextlib.closing(sqlite3.connect(Path(directory, "policy.db"))) as copy:
                return [PublicKey(bytes(row[0])) for row in copy.execute("SELECT public_key FROM device WHERE name LIKE 'lab %'")]

    def _set_policy(self, more: str) -> None:
        policy = self.logs / "policy.toml"
        policy.write_text(policy.read_text().partition(_MARK)[0] + _MARK + more)


@dataclass
class WireGuard(Contender):
    """A program of plain WireGuard on both ends: wireguard-go, or another that takes the same arguments."""

    binary: str = "wireguard-go"
    options: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)

    can_renew = True

    def start(self) -> None:
        self.keys = {role: _output("wg", "genkey") for role in OTHER_END}
        for role in OTHER_END:
            namespace, device = self._end(role)
            self.programs[role] = Program.start(
                f"wireguard-{role}", namespace, [self.binary, "-f", *self.options, device], self.logs,
                {"LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"},
            )  # fmt: skip
            _wait_for_link(device)
            with _file_of(self.keys[role]) as key:
                namespace.run("wg", "set", device, "listen-port", str(WIREGUARD_PORT), "private-key", key)
            self._add_peer(role)
            namespace.run("ip", "addr", "add", _INNER[role], "dev", device)
            namespace.run("ip", "link", "set", device, "mtu", str(MAX_PACKET_SIZE), "up")
        self.topology.client.run("ip", "route", "add", RESOURCE_NETWORK, "dev", "wg-client")

    def renew(self) -> None:
        namespace, device = self._end("client")
        namespace.run("wg", "set", device, "peer", self.public_key("gateway"), "remove")
        self._add_peer("client")

    def admit(self, keys: list[bytes]) -> None:
        """Makes the gateway know more clients, each by its public key; they get an inner address each."""
        namespace, device = self._end("gateway")
        addresses = (f"10.98.{number >> 8}.{number & 255}/32" for number in range(len(keys)))
        peers = [
            word for key, address in zip(keys, addresses, strict=True) for word in ("peer", _text_of(key), "allowed-ips", address)
        ]
        namespace.run("wg", "set", device, *peers)

    def _add_peer(self, role: str) -> None:
        namespace, device = self._end(role)
        endpoint = ["endpoint", f"{GATEWAY_ADDRESS}:{WIREGUARD_PORT}"] if role == "client" else []
        allowed = f"10.99.0.0/24,{RESOURCE_NETWORK}" if role == "client" else "10.99.0.0/24"
        namespace.run("wg", "set", device, "peer", self.public_key(OTHER_END[role]), *endpoint, "allowed-ips", allowed)

    def public_key(self, role: str) -> str:
        return _output("wg", "pubkey", given=self.keys[role])

    def _end(self, role: str) -> tuple[Namespace, str]:
        """Returns where an end runs and its device: not one name for both, since it names a control socket that they share."""
        return (self.topology.client if role == "client" else self.topology.gateway), f"wg-{role}"


def prepare(topology: Topology) -> None:
    """Lets the gateway's namespace forward and the resource answer, as the gateway program would."""
    topology.gateway.switch_on("net/ipv4/ip_forward")
    topology.resource.run("ip", "route", "add", "default", "via", "10.20.0.1")


def _wait_for_link(device: str) -> None:
    """Waits until a device can be configured. Not by `wg`, which deletes a socket that is bound and not yet listening."""
    from firezone.base.errors import ConfigError
    from firezone.lab.programs import wait_until

    def listens() -> bool:
        with socket.socket(socket.AF_UNIX) as control:
            return control.connect_ex(f"/var/run/wireguard/{device}.sock") == 0

    if wait_until(listens, timeout=10) is None:
        raise ConfigError("The program did not make its WireGuard interface.")


def _text_of(key: bytes) -> str:
    return b64encode(key).decode()


@contextlib.contextmanager
def _file_of(text: str) -> Iterator[str]:
    """Gives the name of a file with this text, for a program that reads keys from nowhere else."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        yield file.name


def _output(*command: str, given: str = "") -> str:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout.strip()
