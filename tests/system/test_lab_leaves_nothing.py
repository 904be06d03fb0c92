"""However the demo ends, nothing of it is left: no process, no interface, no namespace, no firewall table."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.harness.lab import ROOT

pytestmark = pytest.mark.root

MARK = "FIREZONE_LEAVES_NOTHING"
SETTLE_S = 3.0


def marked_processes(value: str) -> list[int]:
    """Returns the processes that carry our mark in their environment, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if f"{MARK}={value}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def host_state() -> tuple[str, ...]:
    """Returns what the demo could leave on the host: links, rules, firewall, mounts."""
    commands = (["ip", "-o", "link"], ["ip", "rule"], ["nft", "list", "ruleset"], ["cat", "/proc/self/mounts"], ["ip", "netns"])
    return tuple(subprocess.run(command, capture_output=True, text=True, check=False).stdout for command in commands)


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGKILL, False), (signal.SIGHUP, False)],
    ids=["ctrl-c", "sigterm", "sigkill", "sighup"],
)
def test_nothing_is_left_when_the_demo_is_ended_at_a_random_moment(number: signal.Signals, to_group: bool, tmp_path: Path) -> None:
    before = host_state()
    value = f"{os.getpid()}-{random.randrange(1 << 32)}"
    demo = subprocess.Popen(
        [sys.executable, "-m", "firezone.lab", "demo", "--seconds", "2", "--logs", str(tmp_path)],
        cwd=ROOT, env={**os.environ, MARK: value}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    moment = random.uniform(0.2, 6.0)
    time.sleep(moment)
    if to_group:
        os.killpg(demo.pid, number)
    else:
        demo.send_signal(number)
    demo.wait(timeout=10)
    deadline = time.monotonic() + SETTLE_S
    while (left := marked_processes(value)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == [], f"ended after {moment:.2f} s, these processes are left: {left}"
    assert host_state() == before


def test_nothing_is_left_when_the_demo_ends_by_itself(tmp_path: Path) -> None:
    before = host_state()
    value = f"{os.getpid()}-end"
    done = subprocess.run(
        [sys.executable, "-m", "firezone.lab", "demo", "--seconds", "1", "--logs", str(tmp_path)],
        cwd=ROOT, env={**os.environ, MARK: value}, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    assert marked_processes(value) == []
    assert host_state() == before
