"""Network namespaces for tests: unnamed, held by processes of ours, gone when the test process is gone, however it ends.

    with Namespace() as left, Namespace() as right:
        connect(left, right, "outer", ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.2/24", "2001:db8::2/64"])
        left.run("ping", "-c1", "192.0.2.2")

Needs root.
"""

from __future__ import annotations

import ctypes
import itertools
import signal
import subprocess
from types import TracebackType
from typing import IO

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
_LINKS = itertools.count()


class Namespace:
    """One network namespace with loopback up."""

    def __enter__(self) -> Namespace:
        # `cat` holds the namespace until its standard input is closed, which the kernel does even after SIGKILL of ours.
        self._holder = hold("unshare", "--net", "sh", "-c", "echo ready; exec cat")
        self._children: list[subprocess.Popen[str]] = []
        self.run("ip", "link", "set", "lo", "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for child in self._children:
            stop(child)
        let_go(self._holder)

    @property
    def pid(self) -> int:
        """Process whose /proc entry names the namespace."""
        return self._holder.pid

    def run(self, *command: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs a command inside and returns what it said. Raises CalledProcessError with that text when it fails."""
        done = subprocess.run(
            self._enter(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
        return done

    def spawn(self, *command: str, env: dict[str, str] | None = None, stdout: int | IO[str] | None = None) -> subprocess.Popen[str]:
        """Starts a command inside; it is stopped with the namespace, and killed when this process dies."""
        child = subprocess.Popen(
            self._enter(command),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            env=env,
            text=True,
            preexec_fn=_start_afresh,
        )
        self._children.append(child)
        return child

    def _enter(self, command: tuple[str, ...]) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]


def hold(*command: str) -> subprocess.Popen[str]:
    """Starts what holds a namespace: a command that says `ready` and then waits for its standard input to end."""
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    return holder


def let_go(holder: subprocess.Popen[str]) -> None:
    """Ends what `hold` has started."""
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.stdout is not None
    holder.stdout.close()
    holder.wait()


def connect(left: Namespace, right: Namespace, name: str, left_addresses: list[str], right_addresses: list[str]) -> None:
    """Lays a veth pair of this name between two namespaces and gives it addresses with prefix lengths."""
    # Made with unique names on the left side: both ends must not meet a name that is taken where they are made.
    near, far = f"n{next(_LINKS)}", f"f{next(_LINKS)}"
    left.run("ip", "link", "add", near, "type", "veth", "peer", "name", far)
    left.run("ip", "link", "set", far, "netns", str(right.pid))
    for side, link, addresses in ((left, near, left_addresses), (right, far, right_addresses)):
        side.run("ip", "link", "set", link, "name", name)
        configure(side, name, addresses)


def configure(namespace: Namespace, link: str, addresses: list[str]) -> None:
    """Gives a link its addresses and puts it up. IPv6 addresses are usable at once."""
    for address in addresses:
        extra = ["nodad"] if ":" in address else []
        namespace.run("ip", "address", "add", address, "dev", link, *extra)
    namespace.run("ip", "link", "set", link, "up")


def stop(child: subprocess.Popen[str], timeout: float = 5.0) -> None:
    """Ends a process that we started: politely, then not."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _start_afresh() -> None:
    """Dies with its parent, and heeds the signals that a shell or nohup has made our children ignore."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _die_with_parent()


def _die_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
