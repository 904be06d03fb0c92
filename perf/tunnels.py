"""Which contenders there can be on this machine, found before the namespaces are entered: the newest is built from the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import firezone
from perf.programs import BuildFailed, NotAvailable, wireguard

if TYPE_CHECKING:
    from collections.abc import Callable

VETH, OURS, RELAYED, COTURN = "veth, no tunnel", "this tunnel", "this tunnel, relayed", "this tunnel, over coturn"
NEWEST, DEBIANS, BORINGTUN = "wireguard-go, newest", "wireguard-go, Debian's", "boringtun"
HANDED_OVER = "FIREZONE_PERF_TUNNELS"
"""The environment variable by which the process inside the namespaces learns what was found outside."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A contender by name, its version, and its program when it is not ours."""

    name: str
    version: str
    binary: str = ""


def find(tell: Callable[[str], None], *, is_newest_built: bool = True) -> list[Tunnel]:
    """Returns everything that can be compared here, in the order of the table; says what is left out and why."""
    own = f"{firezone.__version__}{_commit()}"
    tunnels = [Tunnel(VETH, os.uname().release), Tunnel(OURS, own), Tunnel(RELAYED, own)]
    if program := shutil.which("turnserver"):
        tunnels.append(Tunnel(COTURN, f"coturn {_version(program)}"))
    else:
        tell("without coturn: it is not installed")
    names = {"newest": NEWEST, "debian": DEBIANS, "boringtun": BORINGTUN}
    for which, name in names.items():
        if which == "newest" and not is_newest_built:
            continue
        try:
            binary = str(wireguard(which))
        except (NotAvailable, BuildFailed) as error:
            tell(f"without {name}: {error}")
        else:
            tunnels.append(Tunnel(name, _version(binary), binary))
    return tunnels + _named(tunnels, tell)


def choose(tunnels: list[Tunnel], words: tuple[str, ...]) -> list[Tunnel]:
    """Returns this tunnel, and those with one of the words in their names; all without a word.

    Raises: ValueError for a word that is in no name.
    """
    for word in words:
        if not any(word in tunnel.name for tunnel in tunnels):
            raise ValueError(f"{word!r} is in none of: {'; '.join(tunnel.name for tunnel in tunnels)}.")
    return [one for one in tunnels if not words or one.name == OURS or any(word in one.name for word in words)]


def hand_over(tunnels: list[Tunnel]) -> dict[str, str]:
    """Returns the environment in which `handed_over` finds them again."""
    return {HANDED_OVER: json.dumps([asdict(tunnel) for tunnel in tunnels])}


def handed_over() -> list[Tunnel]:
    return [Tunnel(**value) for value in json.loads(os.environ[HANDED_OVER])]


def _named(found: list[Tunnel], tell: Callable[[str], None]) -> list[Tunnel]:
    """Returns those of $WIREGUARD_GO that are not there already."""
    more: list[Tunnel] = []
    for path in filter(None, os.environ.get("WIREGUARD_GO", "").split(":")):
        if shutil.which(path) is None:
            tell(f"without {path} of $WIREGUARD_GO: it is no program")
        elif not any(Path(path).resolve() == Path(one.binary).resolve() for one in [*found, *more]):
            more.append(Tunnel(f"wireguard-go, {path}", _version(path), path))
    return more


def _version(program: str) -> str:
    """Returns what a program says of its version, in few words."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10)
    lines = (done.stdout + done.stderr).split("\n")
    return lines[0].strip().rpartition(" ")[2]


def _commit() -> str:
    """Returns the commit of this checkout, marked when files differ from it; nothing outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""
