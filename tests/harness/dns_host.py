"""A machine whose DNS may be broken: mounts and network of its own, /etc/resolv.conf a file of the test, on demand a system bus
and systemd-resolved. The host's files and bus are out of reach for what runs inside; all of it ends with the test's process.

Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness.namespaces import hold, let_go, stop

if TYPE_CHECKING:
    from types import TracebackType

TOP = Path(__file__).parents[2]
LINK, FAR_END = "tun-firezone", "far"
"""A veth pair stands for the tunnel: the far end can be given to whoever answers on the sentinel."""
BUS_SOCKET = "/run/dbus/system_bus_socket"
BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>{kind}</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/>
</policy></busconfig>
"""
_SET_UP = f"""
mount --make-rprivate /
mount --bind "$1/etc" /etc
mount -t tmpfs none /run
mkdir -p /run/dbus /run/systemd/resolve
chown 991:991 /run/systemd/resolve
ip link set lo up
ip link add {LINK} type veth peer name {FAR_END}
ip address add 100.100.111.200/24 dev {LINK}
ip link set {LINK} up
ip link set {FAR_END} up
echo ready
exec cat
"""


class DnsHost:
    """The machine. `etc` is its /etc as seen from outside."""

    def __init__(self, directory: Path) -> None:
        self.etc = directory / "etc"
        self._directory = directory
        self._children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> DnsHost:
        self.etc.mkdir()
        for name in ("passwd", "group", "nsswitch.conf", "ld.so.cache"):
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), self.etc)
        for name, line in (("passwd", "systemd-resolve:x:991:991::/:/usr/sbin/nologin\n"), ("group", "systemd-resolve:x:991:\n")):
            lines = [one for one in (self.etc / name).read_text().splitlines(keepends=True) if "systemd-resolve" not in one]
            (self.etc / name).write_text("".join(lines) + line)
        (self.etc / "resolv.conf").write_bytes(b"nameserver 192.0.2.53\n")
        machine = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child")
        self._holder = hold(*machine, "sh", "-ec", _SET_UP, "sh", str(self._directory))
        [self._pid] = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for child in self._children:
            stop(child)
        let_go(self._holder)

    @property
    def pid(self) -> str:
        """Process whose /proc entry names the machine's namespaces."""
        return self._pid

    def path(self, inside: str) -> Path:
        """Returns where a file of the machine is seen from outside."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._enter(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
            env=_environment(),
        )
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}"
        return done

    def spawn(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Starts a command inside. Its standard output is a pipe; both end with the machine."""
        child = subprocess.Popen(
            self._enter(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=_environment() | variables
        )
        self._children.append(child)
        return child

    def client(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `python -m firezone.client`."""
        return self.run(sys.executable, "-m", "firezone.client", *arguments, check=check)

    def _enter(self, command: tuple[str, ...]) -> list[str]:
        return ["nsenter", f"--target={self._pid}", "--mount", "--net", "--", *command]


def start_bus(directory: Path, *, kind: str = "session") -> tuple[subprocess.Popen[str], str]:
    """Starts a bus whose socket is in the directory. Returns its process and address once it listens."""
    config = directory / "bus.conf"
    config.write_text(BUS_CONFIG.format(kind=kind, socket=directory / "bus"))
    bus = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"], stdout=subprocess.PIPE, text=True
    )
    assert bus.stdout is not None
    address = bus.stdout.readline().strip()
    assert address, "dbus-daemon did not start"
    return bus, address


def find_resolved(directory: Path) -> Path | None:
    """Returns a folder with systemd-resolved: the machine's, or the distribution's package unpacked, never installed."""
    if Path("/lib/systemd/systemd-resolved").exists() and shutil.which("resolvectl"):
        return Path("/")
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return None
    if subprocess.run(
        ["apt-get", "download", "-q", "systemd-resolved"], cwd=directory, capture_output=True, check=False
    ).returncode:
        return None
    [package] = directory.glob("systemd-resolved_*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(directory / "resolved")], check=True)
    found = directory / "resolved"
    libraries = subprocess.run(
        ["ldd", str(found / "lib/systemd/systemd-resolved")], capture_output=True, text=True, check=False
    ).stdout
    return None if "not found" in libraries else found


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if "DBUS" not in key} | {"PYTHONPATH": str(TOP)}
