"""What a program could leave behind on a machine: processes, namespaces, interfaces, firewall rules, files.

Processes are known by a mark in their environment, which every descendant inherits, inside other PID namespaces too.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

MARK = "FIREZONE_TEST_MARK"
KINDS = ("net", "pid", "mnt", "user")
WATCHED = ("/run", "/run/netns", "/var/lib", "/etc", "/dev/shm")
"""Directories whose entries must be the same afterwards."""
_GONE_WITHIN_S = 10.0


@dataclass(slots=True)
class Watch:
    """Remembers the machine as it is, and everything that processes with its mark come to hold."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    namespaces: set[str] = field(default_factory=set)
    before: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.before = machine()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, MARK: self.mark}

    def processes(self) -> dict[int, str]:
        """Returns the marked processes that are alive, with their command lines, and notes the namespaces they are in."""
        wanted = f"{MARK}={self.mark}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    self.namespaces |= _namespaces_of(entry) - _namespaces_of(Path("/proc/self"))
            except OSError:
                continue
        return found

    def sample(self, seconds: float) -> None:
        """Waits, looking now and then."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.processes()
            time.sleep(min(0.1, left))

    def assert_nothing_left(self) -> None:
        """Asserts, after a moment for the kernel to tear down, that nothing of what the marked processes made is there."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == {}
        # A process that is ending shows no environment any more, but is in its namespaces until it has ended.
        while (kept := held(self.namespaces)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert kept == set()
        after = machine()
        new = {name: sorted(after[name] - self.before[name]) for name in after if after[name] - self.before[name]}
        assert new == {}, f"left on the machine: {new}"


def machine() -> dict[str, set[str]]:
    """Returns interfaces, mounts, firewall tables, routing rules and entries of some directories, as they are now."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=True).stdout)
    found = {"interfaces": {link["ifname"] for link in links}, "mounts": set(Path("/proc/self/mounts").read_text().splitlines())}
    for command in (["nft", "list", "tables"], ["ip", "rule"], ["ip", "-6", "rule"], ["ip", "netns"]):
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        found[" ".join(command)] = set(lines)
    for directory in WATCHED:
        found[directory] = set(os.listdir(directory)) if os.path.isdir(directory) else set()
    return found


def held(namespaces: set[str]) -> set[str]:
    """Returns those of the namespaces that a process is in or a mount keeps."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found |= namespaces & _namespaces_of(entry)
            except OSError:
                continue
    mounts = Path("/proc/self/mountinfo").read_text()
    return found | {name for name in namespaces if name in mounts}


def _namespaces_of(process: Path) -> set[str]:
    return {os.readlink(process / "ns" / kind) for kind in KINDS}
