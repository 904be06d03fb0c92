"""The lab's programs: started in their namespaces, watched, and quoted when they fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firezone.base.errors import ConfigError
from firezone.lab.namespaces import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.lab.namespaces import Namespace

READY_TIMEOUT_S = 20.0
_POLL_S = 0.02


@dataclass(slots=True)
class Program:
    """One running program with its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started_with: tuple[Namespace, list[str], dict[str, str]]

    @classmethod
    def start(
        cls, name: str, namespace: Namespace, command: list[str], logs: Path, environment: dict[str, str] | None = None
    ) -> Program:
        """Starts a command in a namespace with both outputs appended to `<name>.log`."""
        log = logs / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                namespace.command(*command), stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}, preexec_fn=die_with_parent,
            )  # fmt: skip
        return cls(name, process, log, (namespace, command, environment or {}))

    def restart(self) -> Program:
        """Starts the same program anew, into the same log."""
        namespace, command, environment = self.started_with
        return Program.start(self.name, namespace, command, self.log.parent, environment)

    def wait_for(self, pattern: str, *, timeout: float = READY_TIMEOUT_S, since: int = 0) -> str:
        """Waits until the log has a match behind byte `since` and returns it.

        Raises: ConfigError with the log's last lines when the program ends or takes too long.
        """
        found = wait_until(lambda: self._search(pattern, since), timeout=timeout)
        if found is None:
            state = f"ended with status {self.process.poll()}" if self.process.poll() is not None else f"took over {timeout:.0f} s"
            raise ConfigError(f"The {self.name} {state} without saying {pattern!r}. {self.quote()}")
        return str(found)

    def quote(self, lines: int = 5) -> str:
        """Returns where the log is and what it says last."""
        last = self.log.read_text(errors="replace").splitlines()[-lines:]
        return f"Its log is {self.log}; it ends with:\n  " + "\n  ".join(last or ["(nothing)"])

    def cpu_seconds(self) -> float:
        """Returns user and system time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Returns the resident memory in MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self, timeout: float = 5.0) -> None:
        """Ends the program orderly, or not when it takes too long."""
        end(self.process, timeout)

    def kill(self) -> None:
        """Ends the program as a crash would."""
        self.process.kill()
        self.process.wait()

    def _search(self, pattern: str, since: int) -> str | None:
        text = self.log.read_bytes()[since:].decode(errors="replace") if self.log.exists() else ""
        match = re.search(pattern, text)
        if match is None and self.process.poll() is not None:
            raise ConfigError(f"The {self.name} ended with status {self.process.poll()}. {self.quote()}")
        return match[0] if match else None


def end(process: subprocess.Popen[bytes], timeout: float = 5.0) -> None:
    """Ends a process orderly, or not when it takes too long."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], Any], *, timeout: float) -> Any:
    """Returns the first true value of `condition`, or None after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(_POLL_S)
    return None


def python(module: str, *arguments: str) -> list[str]:
    """Returns the command line of one of our programs."""
    return [sys.executable, "-m", module, *arguments]


def read_records(log: Path) -> list[dict[str, Any]]:
    """Returns the JSON lines of a log file; other lines are skipped."""
    records = []
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{"):
            records.append(json.loads(line))
    return records
