"""The relays that are compared: ours, and coturn as Debian ships it, both with as many threads as they choose themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from firezone.base.secret import SecretText
from firezone.lab.programs import Program, python
from firezone.proto.relay.auth import Username
from perf.processes import cpu_seconds
from perf.relay.lanes import PUBLIC_ADDRESS, RELAY_ADDRESS, Lanes

if TYPE_CHECKING:
    import socket

OURS, COTURN = "this relay", "coturn"
SECRET = "a" * 64


@dataclass
class Contender:
    """A relay program and how to log in."""

    name: str
    port: int
    lanes: Lanes
    logs: Path
    programs: list[Program] = field(default_factory=list)

    has_ipv6: ClassVar[bool] = False

    def start(self) -> None:
        raise NotImplementedError

    def credentials(self, number: int) -> tuple[str, str]:
        """Returns username and password of one client."""
        raise NotImplementedError

    @property
    def program(self) -> Program:
        return self.programs[0]

    def cpu_seconds(self) -> float:
        """User and system time of all threads. What the kernel does for a sender until the datagram is in the relay's socket is the
        sender's, and what it does for the relay until the datagram is in the next socket is the relay's."""
        return cpu_seconds(self.program.process.pid)

    def stop(self) -> None:
        for program in self.programs:
            program.stop()
        self.programs.clear()

    def _start(self, name: str, command: list[str], ready: str) -> None:
        log = self.logs / f"{name}.log"
        since = log.stat().st_size if log.exists() else 0
        program = Program.start(name, self.lanes.relays, command, self.logs)
        self.programs.append(program)
        program.wait_for(ready, since=since)

    def connect(self) -> socket.socket:
        return self.lanes.client_socket(self.port)


class Ours(Contender):
    """The relay of this project."""

    has_ipv6 = True

    def start(self) -> None:
        command = python(
            "firezone.relay", f"--public-ip4-addr={PUBLIC_ADDRESS}", f"--listen-port={self.port}", "--lowest-port=49152",
            "--highest-port=57343", "--public-ip6-addr=2001:db8::1", f"--secret={SECRET}", "--health-check-addr=127.0.0.1:8080",
        )  # fmt: skip
        self._start("our-relay", command, "relay is up")

    def credentials(self, number: int) -> tuple[str, str]:
        user = Username.from_text(f"{int(time.time()) + 86_400}:{number}")
        assert user is not None
        return user.text, user.password(SecretText(SECRET))


class Coturn(Contender):
    """Debian's turnserver, UDP only, with a user of its own."""

    def start(self) -> None:
        command = [
            "turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp", "--log-file=stdout", "--simple-log",
            "--lt-cred-mech", "--user=perf:perf", "--realm=firezone", f"--listening-port={self.port}",
            f"--listening-ip={RELAY_ADDRESS}", f"--relay-ip={PUBLIC_ADDRESS}", "--min-port=57344", "--max-port=65535",
            "--channel-lifetime=3600", "--permission-lifetime=3600", f"--userdb={self.logs}/turndb",
            f"--pidfile={self.logs}/turnserver.pid",
        ]  # fmt: skip
        self._start("coturn", command, "SQLite DB connection success")

    def credentials(self, number: int) -> tuple[str, str]:
        return "perf", "perf"
