"""Namespaces that nothing outlives: the lab runs inside fresh ones, and every network of it is held by a process only.

`enter` starts the lab anew under `unshare`: a new PID namespace whose first process it is, new mount and network namespaces, and
as an ordinary user a new user namespace. When the outer process dies, by any signal, the kernel kills the inner one, and with
the first process of a PID namespace everything in it; network namespaces without a process vanish with their devices.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from firezone.base.errors import ConfigError

INSIDE = "FIREZONE_LAB_INSIDE"
"""Set in the environment of the lab that runs in its own namespaces: the pipe whose other end the outer lab holds."""

SCRATCH = "FIREZONE_LAB_SCRATCH"
"""The directory that `enter` was given for what nobody has asked for."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_START_TIMEOUT_S = 5.0
_LIBC = ctypes.CDLL(None)

_PROBE = """
import fcntl, os, struct
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"probe", 0x5001))
"""


def die_with_parent() -> None:
    """Makes the kernel kill this process when its parent dies. For `preexec_fn`."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_without_lifeline() -> None:
    """Ends the inner lab at once when the outer one has died before the kernel knew that the two belong together.

    A parent that dies between fork and prctl sends no signal; but its end of the pipe is closed by then, which is seen here.
    """
    descriptor = int(os.environ[INSIDE])
    if select.select([descriptor], [], [], 0)[0]:
        os._exit(128 + signal.SIGKILL)


def unshare_command() -> list[str]:
    """Returns the command that runs another in fresh namespaces."""
    command = ["unshare", "--fork", "--kill-child=SIGKILL", "--pid", "--mount-proc", "--net"]
    return command if os.geteuid() == 0 else [*command, "--user", "--map-root-user"]


def complete_path() -> None:
    """Adds the directories of ip and nft to PATH, where an ordinary user of Debian does not have them."""
    known = os.environ.get("PATH", os.defpath).split(os.pathsep)
    os.environ["PATH"] = os.pathsep.join([*known, *(path for path in ("/usr/sbin", "/sbin") if path not in known)])


def what_is_missing() -> str | None:
    """Returns in one sentence why namespaces or TUN devices cannot be had here and what would allow them; None if they can."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return "unshare and nsenter are not installed; apt-get install util-linux would allow the full lab."
    if shutil.which("ip") is None or shutil.which("nft") is None:
        return "ip or nft is not installed; apt-get install iproute2 nftables would allow the full lab."
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun does not exist; 'modprobe tun', or --device /dev/net/tun for a container, would allow the full lab."
    done = subprocess.run([*unshare_command(), "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        how = "--privileged for a container, or kernel.unprivileged_userns_clone=1 for an ordinary user,"
        return f"namespaces are refused here ({done.stderr.strip()}); {how} would allow the full lab."
    done = subprocess.run([*unshare_command(), sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
        return f"TUN devices are refused here ({why}); read and write access to /dev/net/tun would allow the full lab."
    return None


def enter(
    arguments: list[str], module: str = "firezone.lab", environment: dict[str, str] | None = None, scratch: Path | None = None
) -> NoReturn:
    """Runs a module with these arguments in fresh namespaces and exits with its status. Signals end all of it.

    `scratch` is a directory nobody asked for, such as that of logs without `--logs`: a signal takes it along.

    The module calls `end_without_lifeline` first when it finds INSIDE in its environment.
    """
    command = [*unshare_command(), sys.executable, "-m", module, *arguments]
    lifeline, _held = os.pipe()
    inner = subprocess.Popen(
        command, env={**os.environ, **(environment or {}), INSIDE: str(lifeline), SCRATCH: str(scratch or "")},
        preexec_fn=die_with_parent, pass_fds=[lifeline],
    )  # fmt: skip

    # What unshare leaves when it is killed becomes our child, so that we can wait until the kernel has torn all of it down.
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def end(number: int, _: object) -> None:
        for again in _ENDING:
            signal.signal(again, signal.SIG_IGN)
        # Not Popen's own methods: the wait that this signal has interrupted holds their lock.
        with contextlib.suppress(ProcessLookupError):
            os.kill(inner.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        os.write(2, b"The lab was ended by a signal; nothing of it is left.\n")
        os._exit(128 + number)

    for number in _ENDING:
        signal.signal(number, end)
    sys.exit(inner.wait())


_OWN_ETC = """
here=$PWD
cd /etc
mount -t tmpfs -o mode=755 none /etc
cp -a . /etc/ 2>/dev/null || true
rm -f /etc/resolv.conf* /etc/nsswitch.conf
echo "nameserver $0" >/etc/resolv.conf
echo "hosts: files dns" >/etc/nsswitch.conf
cd "$here"
exec sleep infinity
"""
"""Standing in the old /etc while the new one is laid over it, in memory: nothing of it outlives the holder."""


@dataclass(slots=True)
class Namespace:
    """One network namespace, held by a sleeping process."""

    name: str
    holder: subprocess.Popen[bytes]
    has_etc: bool = False
    """Whether it has a copy of /etc of its own, where name servers may be set."""

    @classmethod
    def create(cls, name: str, *, name_server: str | None = None) -> Namespace:
        """Makes a namespace with nothing but loopback; with a name server, it has a copy of /etc of its own that names it alone.

        Raises: ConfigError when that is refused.
        """
        command = ["unshare", "--net", "sleep", "infinity"]
        if name_server is not None:
            command = ["unshare", "--net", "--mount", "sh", "-ec", _OWN_ETC, name_server]
        holder = subprocess.Popen(command, preexec_fn=die_with_parent)
        namespace = cls(name, holder, name_server is not None)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while holder.poll() is None and time.monotonic() < deadline:
            try:
                if Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n":
                    namespace.run("ip", "link", "set", "lo", "up")
                    return namespace
            except FileNotFoundError:
                break
            time.sleep(0.005)
        raise ConfigError(f"The network namespace {name} could not be made.")

    def command(self, *command: str) -> list[str]:
        """Returns the command line that runs `command` in this namespace."""
        process = f"/proc/{self.holder.pid}"
        own = [f"--mount={process}/ns/mnt", f"--wd={process}/cwd"] if self.has_etc else []
        return ["nsenter", f"--net={process}/ns/net", *own, *command]

    def run(self, *command: str, stdin: str = "") -> str:
        """Runs a command here and returns what it printed. Raises ConfigError with its own words when it fails."""
        done = subprocess.run(self.command(*command), capture_output=True, text=True, check=False, input=stdin)
        if done.returncode:
            raise ConfigError(f"{' '.join(command)} failed in {self.name}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def addresses(self) -> set[str]:
        """Returns the addresses of all its interfaces."""
        links = json.loads(self.run("ip", "-json", "address"))
        return {address["local"] for link in links for address in link["addr_info"] if "local" in address}

    def run_lines(self, text: str) -> None:
        """Runs one command per line; empty lines are skipped."""
        for line in text.splitlines():
            if line.strip():
                self.run(*line.split())

    def load_nft(self, rules: str) -> None:
        """Loads a rule set in the language of nft, all or nothing. Raises ConfigError with nft's words."""
        self.run("nft", "-f", "-", stdin=rules)

    def switch_on(self, sysctl: str) -> None:
        """Writes 1 to a file below /proc/sys; those of `net` belong to the namespace of whoever opens them."""
        self.run("sh", "-c", f"echo 1 >/proc/sys/{sysctl}")

    def switch_off(self, sysctl: str) -> None:
        """Writes 0 to a file below /proc/sys."""
        self.run("sh", "-c", f"echo 0 >/proc/sys/{sysctl}")

    def close(self) -> None:
        self.holder.kill()
        self.holder.wait()


class OwnNamespace(Namespace):
    """The namespace the lab itself runs in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_etc = False

    def command(self, *command: str) -> list[str]:
        return list(command)

    def close(self) -> None:
        """Nothing to do: it ends with this process."""
