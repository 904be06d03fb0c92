"""Commands for nftables in its JSON form, and the pieces they are made of."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from firezone.base.errors import ConfigError

if TYPE_CHECKING:
    from firezone.base.net import Network


def is_installed() -> bool:
    return shutil.which("nft") is not None


def run_nft(commands: list[dict[str, Any]], purpose: str) -> str:
    """Runs the commands as one transaction and returns what they print. `purpose` says in errors what cannot be done.

    Raises: ConfigError.
    """
    program = shutil.which("nft")
    if program is None:
        raise ConfigError(f"nftables is not installed, so {purpose}: apt-get install nftables")
    done = subprocess.run(
        [program, "-j", "-f", "-"], input=json.dumps({"nftables": commands}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"nftables refuses, so {purpose}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def list_ruleset(purpose: str) -> list[dict[str, Any]]:
    """Returns everything there is. Raises ConfigError."""
    listed = json.loads(run_nft([{"list": {"ruleset": None}}], purpose) or "{}")
    return list(listed.get("nftables", []))


def meta(key: str, op: str, value: str) -> dict[str, Any]:
    """Returns a match on what the packet itself does not say, as its device."""
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": value}}


def field(protocol: str, name: str, value: Any) -> dict[str, Any]:
    """Returns a match on a header field."""
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": name}}, "right": value}}


def address(name: str, protocol: str, network: Network) -> dict[str, Any]:
    """Returns a match on a source or destination address within a network."""
    return field(protocol, name, {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}})
