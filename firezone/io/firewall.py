"""The gateway's part of the host's firewall: one nftables table that is ours, and a few rules in the chains of others.

The original leaves this to its start script with iptables. Here the program does it: packets from and to the tunnel are forwarded,
clients' traffic leaves with the gateway's own address, and of what arrives for the gateway's own tunnel address only DNS and echo
are let in, or every service that listens on all addresses of this host would be open to every client.

A table of ours is replaced whole, so starting twice doubles nothing. But an accept in one table does not overrule a drop in
another: where a base chain of others drops what it does not know (Docker and most host firewalls have such a chain), accept rules
for the tunnel are put at its head. They carry a comment by which they are found again: at the end and, if that never came, at the
next start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from firezone.base.errors import ConfigError
from firezone.base.net import TUNNEL_V4, TUNNEL_V6, Network
from firezone.io.nftables import address, field, list_ruleset, meta, run_nft

log = structlog.get_logger(__name__)

TABLE = "firezone_gateway"
COMMENT = "firezone gateway"
"""In front of the device's name, the comment of our rules in the chains of others."""
DNS_PORTS = (53, 53535)
"""Where clients may ask us: the port for resolvers, and the one that clients use for what they cannot answer themselves."""
_OWN: tuple[tuple[str, Network], ...] = (("ip", TUNNEL_V4), ("ip6", TUNNEL_V6))
"""Of these ranges a gateway host has its own tunnel address only."""
_PURPOSE = "clients' traffic cannot be masqueraded"
_FAMILIES = ("ip", "ip6", "inet")
_CHAINS = (
    ("forward", "filter", "forward", -10),
    ("input", "filter", "input", -10),
    ("postrouting", "nat", "postrouting", 100),
)
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/src_valid_mark",
    "net/ipv6/conf/all/forwarding",
)


def set_up_forwarding(device: str, *, outgoing: list[str], is_own_address_open: bool = False) -> None:
    """Switches forwarding on, installs the table, and lets the tunnel through the chains of others.

    `outgoing`: patterns of the interfaces whose traffic is masqueraded (`eth*`); an empty list means every other interface.
    `is_own_address_open`: clients reach every service of this host at its tunnel address.
    Raises: ConfigError when nftables is missing or refuses.
    """
    for name in _SYSCTLS:
        _switch_on(name)
    run_nft(
        [{"add": {"table": _table()}}, {"delete": {"table": _table()}}, *_commands(device, outgoing, is_own_address_open)], _PURPOSE
    )
    log.info("forwarding and masquerade set up", table=TABLE, device=device, outgoing=outgoing or "any")
    _sweep(device)
    hooks = ("forward",) if is_own_address_open else ("forward", "input")
    for chain in dropping_chains(list_ruleset(_PURPOSE), hooks):
        _let_through(chain, device)


def take_down_forwarding(device: str) -> None:
    """Removes the table and our rules in the chains of others. The sysctls stay: others may have come to rely on them."""
    try:
        _sweep(device)
        run_nft([{"add": {"table": _table()}}, {"delete": {"table": _table()}}], _PURPOSE)
    except ConfigError as error:
        log.warning("the firewall table could not be removed", table=TABLE, error=str(error))


def dropping_chains(ruleset: list[dict[str, Any]], hooks: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the base chains of others at these hooks that drop what they do not know: by policy, or by their last rule.

    `ruleset` is what `nft -j list ruleset` says.
    """
    last = {}
    for rule in (item["rule"] for item in ruleset if "rule" in item):
        last[rule["family"], rule["table"], rule["chain"]] = rule
    found = []
    for chain in (item["chain"] for item in ruleset if "chain" in item):
        if chain.get("hook") not in hooks or chain.get("type") != "filter" or chain["family"] not in _FAMILIES:
            continue
        end = last.get((chain["family"], chain["table"], chain["name"]), {}).get("expr", [])
        drops = [part for part in end if "drop" in part or "reject" in part]
        always = all(set(part) <= {"drop", "reject", "counter", "log", "limit"} for part in end)
        if chain["table"] != TABLE and (chain.get("policy") == "drop" or (drops and always)):
            found.append(chain)
    return found


def _let_through(chain: dict[str, Any], device: str) -> None:
    """Puts accept rules at the head of a chain of others. One that refuses them costs a warning, not the gateway."""
    if chain["hook"] == "forward":
        rules = [[meta(key, "==", device)] for key in ("iifname", "oifname")]
    else:
        own = {"ip": [_OWN[0]], "ip6": [_OWN[1]], "inet": list(_OWN)}[chain["family"]]
        rules = [[meta("iifname", "==", device), address("daddr", *network)] for network in own]
    place = {"family": chain["family"], "table": chain["table"], "chain": chain["name"]}
    comment = f"{COMMENT} {device}"
    commands = [{"insert": {"rule": {**place, "expr": [*rule, {"accept": None}], "comment": comment}}} for rule in rules]
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    try:
        run_nft(commands, _PURPOSE)
    except ConfigError as error:
        log.warning("another firewall drops what it does not know and takes no rule of ours; let the tunnel pass there",
                    chain=where, device=device, error=str(error))  # fmt: skip
        return
    log.info("let the tunnel through another firewall", chain=where, device=device)


def _sweep(device: str) -> None:
    """Deletes our rules in the chains of others, also those of a gateway that was killed."""
    comment = f"{COMMENT} {device}"
    rules = [item["rule"] for item in list_ruleset(_PURPOSE) if "rule" in item and item["rule"].get("comment") == comment]
    if rules:
        names = ("family", "table", "chain", "handle")
        run_nft([{"delete": {"rule": {name: rule[name] for name in names}}} for rule in rules], _PURPOSE)


def _commands(device: str, outgoing: list[str], is_own_address_open: bool) -> list[dict[str, Any]]:
    commands: list[dict[str, Any]] = [{"add": {"table": _table()}}]
    for name, kind, hook, priority in _CHAINS:
        commands.append({
            "add": {"chain": {
                "family": "inet", "table": TABLE, "name": name, "type": kind, "hook": hook, "prio": priority, "policy": "accept",
            }},
        })  # fmt: skip
    for key in ("iifname", "oifname"):
        commands.append(_rule("forward", [meta(key, "==", device), {"accept": None}]))
    for protocol, network in _OWN:
        source = address("saddr", protocol, network)
        targets = [meta("oifname", "==", pattern) for pattern in outgoing] or [meta("oifname", "!=", device)]
        commands.extend(_rule("postrouting", [source, target, {"masquerade": None}]) for target in targets)
        if not is_own_address_open:
            arriving = [meta("iifname", "==", device), address("daddr", protocol, network)]
            commands.extend(_rule("input", [*arriving, *rest]) for rest in _own_address_rules(protocol))
    return commands


def _own_address_rules(protocol: str) -> list[list[dict[str, Any]]]:
    """What may arrive for our own tunnel address: answers to ourselves, DNS, echo. All else is refused with an ICMP error."""
    icmp = "icmp" if protocol == "ip" else "icmpv6"
    states = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}
    ports = [field(kind, "dport", {"set": list(DNS_PORTS)}) for kind in ("udp", "tcp")]
    accepted = [states, *ports, field(icmp, "type", "echo-request")]
    refusal = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
    return [*([match, {"accept": None}] for match in accepted), [refusal]]


def _table() -> dict[str, str]:
    return {"family": "inet", "name": TABLE}


def _rule(chain: str, expressions: list[dict[str, Any]]) -> dict[str, Any]:
    return {"add": {"rule": {"family": "inet", "table": TABLE, "chain": chain, "expr": expressions}}}


def _switch_on(name: str) -> None:
    path = Path("/proc/sys") / name
    try:
        if path.read_text().strip() != "1":
            path.write_text("1")
            log.info("switched on", sysctl=name.replace("/", "."))
    except OSError as error:
        log.warning("cannot be switched on; packets may not be forwarded", sysctl=name, error=error.strerror)
