"""Where port 53 is taken by another program, questions to our addresses are led to the port that we got instead.

A name server of the host that listens on all addresses (dnsmasq, unbound) also listens on the sentinels, and the kernel gives the
port to nobody else. One nftables table that is ours changes the destination port of what is meant for a sentinel; it exists only
while it is needed. A table that a killed client left is removed at the next start.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import structlog

from firezone.base.errors import ConfigError
from firezone.io.nftables import field, is_installed, list_ruleset, run_nft

log = structlog.get_logger(__name__)

TABLE = "firezone_client"
DNS_PORT = 53
_PURPOSE = "questions to the tunnel's name servers cannot be led around the program that holds port 53"
_PRIORITY_DNAT = -100
_HOOKS = ("output", "prerouting")
"""Programs of this host, and containers behind it."""

Redirect = tuple[str, str, int]
"""Address, udp or tcp, and the port that is listened on in place of 53."""


def set_redirects(redirects: list[Redirect]) -> None:
    """Leads port 53 of these addresses, and of no others, elsewhere. Raises ConfigError."""
    commands = _removal()
    if redirects:
        commands.append({"add": {"table": _table()}})
        for hook in _HOOKS:
            chain = {**_place(hook), "name": hook, "type": "nat", "hook": hook, "prio": _PRIORITY_DNAT, "policy": "accept"}
            commands.append({"add": {"chain": {name: value for name, value in chain.items() if name != "chain"}}})
            commands += [_rule(hook, *redirect) for redirect in redirects]
    run_nft(commands, _PURPOSE)


def clear_redirects() -> None:
    """Removes the table if there is one; never raises, and needs nftables only where it was used."""
    if not is_installed():
        return
    try:
        if any(item.get("table", {}).get("name") == TABLE for item in list_ruleset(_PURPOSE)):
            run_nft(_removal(), _PURPOSE)
    except ConfigError as error:
        log.debug("the firewall table could not be removed", table=TABLE, error=str(error))


def _removal() -> list[dict[str, Any]]:
    """Adding first makes the removal of a table that is not there no error."""
    return [{"add": {"table": _table()}}, {"delete": {"table": _table()}}]


def _rule(hook: str, host: str, kind: str, port: int) -> dict[str, Any]:
    family = "ip" if ipaddress.ip_address(host).version == 4 else "ip6"
    lead = {"dnat": {"family": family, "addr": host, "port": port}}
    return {"add": {"rule": {**_place(hook), "expr": [field(family, "daddr", host), field(kind, "dport", DNS_PORT), lead]}}}


def _place(hook: str) -> dict[str, Any]:
    return {"family": "inet", "table": TABLE, "chain": hook}


def _table() -> dict[str, str]:
    return {"family": "inet", "name": TABLE}
