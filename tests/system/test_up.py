"""`lab up` under a real terminal: Ctrl-C belongs to what runs in its shell, and leaving the shell ends all of it."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.harness.leftovers import Watch

pytestmark = pytest.mark.root

STEP_S = 30.0


class Terminal:
    """A program under a pseudo-terminal."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def read_until(self, part: str) -> None:
        """Reads until the part has come behind everything read before."""
        start, deadline = len(self.text), time.monotonic() + STEP_S
        while part not in self.text[start:]:
            assert time.monotonic() < deadline, f"no {part!r} in: {self.text}"
            if select.select([self.descriptor], [], [], 0.1)[0]:
                self.text += os.read(self.descriptor, 4096).decode(errors="replace")

    def status(self) -> int:
        """Waits for the end and returns the exit status."""
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline:
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.descriptor, 4096).decode(errors="replace")
                except OSError:
                    break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self.descriptor)


def test_ctrl_c_in_the_shell_ends_its_command_and_not_the_lab(tmp_path: Path) -> None:
    watch = Watch()
    environment = {**watch.environment, "SHELL": "/bin/bash", "PS1": "ready> "}
    terminal = Terminal([sys.executable, "-m", "firezone.lab", "up", "--logs", str(tmp_path)], environment)
    try:
        terminal.read_until("Leave with exit")
        terminal.type("sleep 60 & wait; sleep 60; echo not''this\n")
        time.sleep(0.5)
        terminal.type(chr(3))
        terminal.type("\n")
        terminal.type("ip -br address show tun-firezone; echo al''ive\n")
        terminal.read_until("alive")
        assert "fd00:2021:1111:" in terminal.text
        watch.processes()
        terminal.type("exit\n")
        assert terminal.status() == 0
    finally:
        terminal.close()
        if watch.processes():
            os.kill(terminal.pid, signal.SIGKILL)
    watch.assert_nothing_left()
