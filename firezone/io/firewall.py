"""The gateway's forwarding and masquerade: one nftables table that is ours, set up at start and taken down at the end.

The original leaves this to its start script with iptables. Here the program does it: packets from and to the tunnel are forwarded,
and clients' traffic leaves with the gateway's own address. A table of ours is replaced whole, so starting twice doubles nothing;
rules of others are never touched. That has a price: an accept in one table does not overrule a drop in another, so a host whose
own firewall drops what it forwards (Docker sets such a policy) must let the tunnel through there. The start says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import structlog

from firezone.base.errors import ConfigError
from firezone.base.net import TUNNEL_V4, TUNNEL_V6

log = structlog.get_logger(__name__)

TABLE = "firezone_gateway"
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/src_valid_mark",
    "net/ipv6/conf/all/forwarding",
)


def set_up_forwarding(device: str, *, outgoing: list[str]) -> None:
    """Switches forwarding on and installs the table.

    `outgoing`: patterns of the interfaces whose traffic is masqueraded (`eth*`); an empty list means every other interface.
    Raises: ConfigError when nftables is missing or refuses.
    """
    for name in _SYSCTLS:
        _switch_on(name)
    _nft([{"add": {"table": _table()}}, {"delete": {"table": _table()}}, *_commands(device, outgoing)])
    log.info("forwarding and masquerade set up", table=TABLE, device=device, outgoing=outgoing or "any")
    for chain in _dropping_chains():
        log.warning("another firewall drops what it does not know; let packets from and to the tunnel pass there too",
                    chain=chain, device=device)  # fmt: skip


def take_down_forwarding() -> None:
    """Removes the table. The sysctls stay: others may have come to rely on them."""
    try:
        _nft([{"add": {"table": _table()}}, {"delete": {"table": _table()}}])
    except ConfigError as error:
        log.warning("the firewall table could not be removed", table=TABLE, error=str(error))


def _commands(device: str, outgoing: list[str]) -> list[dict[str, Any]]:
    commands: list[dict[str, Any]] = [{"add": {"table": _table()}}]
    for name, kind, hook, priority in (("forward", "filter", "forward", -10), ("postrouting", "nat", "postrouting", 100)):
        commands.append({
            "add": {"chain": {
                "family": "inet", "table": TABLE, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept",
            }},
        })  # fmt: skip
    for key in ("iifname", "oifname"):
        commands.append(_rule("forward", [_match(key, "==", device), {"accept": None}]))
    for protocol, network in (("ip", TUNNEL_V4), ("ip6", TUNNEL_V6)):
        source = {
            "match": {
                "op": "==",
                "left": {"payload": {"protocol": protocol, "field": "saddr"}},
                "right": {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}},
            }
        }
        targets = [_match("oifname", "==", pattern) for pattern in outgoing] or [_match("oifname", "!=", device)]
        commands.extend(_rule("postrouting", [source, target, {"masquerade": None}]) for target in targets)
    return commands


def _table() -> dict[str, str]:
    return {"family": "inet", "name": TABLE}


def _rule(chain: str, expressions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"add": {"rule": {"family": "inet", "table": TABLE, "chain": chain, "expr": expressions}}}


def _match(key: str, op: str, value: str) -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": value}}


def _dropping_chains() -> list[str]:
    """Returns the forward chains of others whose policy is to drop, as `family table chain`."""
    listed = json.loads(_nft([{"list": {"chains": None}}]) or "{}").get("nftables", [])
    chains = [item["chain"] for item in listed if "chain" in item]
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if (chain.get("hook"), chain.get("policy")) == ("forward", "drop") and chain["family"] in ("ip", "ip6", "inet")
    ]


def _nft(commands: list[dict[str, Any]]) -> str:
    """Runs the commands and returns what they print. Raises ConfigError."""
    program = shutil.which("nft")
    if program is None:
        raise ConfigError("nftables is not installed, so clients' traffic cannot be masqueraded: apt-get install nftables")
    done = subprocess.run(
        [program, "-j", "-f", "-"], input=json.dumps({"nftables": commands}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"nftables refused the gateway's table: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _switch_on(name: str) -> None:
    path = Path("/proc/sys") / name
    try:
        if path.read_text().strip() != "1":
            path.write_text("1")
            log.info("switched on", sysctl=name.replace("/", "."))
    except OSError as error:
        log.warning("cannot be switched on; packets may not be forwarded", sysctl=name, error=error.strerror)
