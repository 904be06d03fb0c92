"""What one client may reach: the rules of its resources, merged so that the longest prefix alone decides.

Overlapping resources are a union: every rule also holds what all wider networks of the same client permit.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.base.net import TUNNEL_V4, TUNNEL_V6, Network, covers
from firezone.proto.updates import Rule
from firezone.wire.ip import ICMP, ICMPV6, TCP, UDP, IpHeader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firezone.base.net import Address
    from firezone.wire.portal.shared import Filter

INTERNET: tuple[Network, ...] = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
CLOSED: tuple[Network, ...] = (TUNNEL_V4, TUNNEL_V6, ipaddress.ip_network("224.0.0.0/4"), ipaddress.ip_network("ff00::/8"))
"""Nobody reaches these through a gateway, whatever covers them: other clients, and multicast."""
NOT_INTERNET: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10", "240.0.0.0/4",
        "::1/128", "::ffff:0:0/96", "fc00::/7", "fe80::/10",
    )
)  # fmt: skip
"""What the Internet resource leaves out: or it would open the gateway's own network. Other resources may cover them."""


@dataclass(frozen=True, slots=True)
class Grant:
    """One resource as far as filters care."""

    network: Network
    filters: tuple[Filter, ...]
    """Empty: everything."""
    is_internet: bool = False


def build_rules(grants: Iterable[Grant], own: Iterable[Address]) -> tuple[Rule, ...]:
    """Returns one rule per network, wider grants merged in.

    The closed ranges are closed, whatever covers them, so that clients cannot reach each other through a gateway; the gateway's
    own tunnel addresses (`own`) are open. Of the ranges that are no Internet the Internet resource opens nothing.
    """
    grants = list(grants)
    networks = dict.fromkeys(grant.network for grant in grants)
    if any(grant.is_internet for grant in grants):
        networks |= dict.fromkeys(NOT_INTERNET)
    rules = {
        network: merge_filters(network, [grant.filters for grant in grants if _applies(grant, network)]) for network in networks
    }
    for closed in CLOSED:
        rules = {network: rule for network, rule in rules.items() if not covers(closed, network)}
        rules[closed] = Rule(closed)
    for address in own:
        host = ipaddress.ip_network(address)
        rules[host] = Rule(host, permit_all=True)
    return tuple(rules.values())


def permits(rules: Iterable[Rule], address: Address, protocol: int, port: int | None) -> bool:
    """Judges one packet as the compiled filter does: the longest prefix that contains the address decides."""
    matching = [rule for rule in rules if address in rule.network]
    if not matching:
        return False
    rule = max(matching, key=lambda rule: rule.network.prefixlen)
    if rule.permit_all:
        return True
    if protocol == TCP:
        return _contains(rule.tcp, port)
    if protocol == UDP:
        return _contains(rule.udp, port)
    return rule.icmp and protocol in (ICMP, ICMPV6)


def permits_outbound(rules: Iterable[Rule], header: IpHeader) -> bool:
    """Judges a packet on its way from the client to a resource. Clients have no business to send ICMP errors."""
    return not header.is_icmp_error and permits(rules, header.destination, header.protocol, header.destination_port)


def is_no_internet(address: Address) -> bool:
    """Whether the Internet resource leaves an address out. Tunnel addresses are left out for another reason."""
    return any(address in network for network in NOT_INTERNET) and not any(address in network for network in CLOSED)


def _applies(grant: Grant, network: Network) -> bool:
    """Whether a grant has a say in what is permitted towards a whole network."""
    if grant.is_internet and any(covers(special, network) for special in NOT_INTERNET):
        return False
    return covers(grant.network, network)


def merge_filters(network: Network, lists: list[tuple[Filter, ...]]) -> Rule:
    """Returns the rule that permits what any of the lists permits; an empty one permits everything."""
    if any(not filters for filters in lists):
        return Rule(network, permit_all=True)
    filters = [item for items in lists for item in items]
    return Rule(
        network,
        tcp=_ranges(filters, "tcp"),
        udp=_ranges(filters, "udp"),
        icmp=any(item.protocol == "icmp" for item in filters),
    )


def _ranges(filters: list[Filter], protocol: str) -> tuple[tuple[int, int], ...]:
    """Returns the sorted, merged port ranges of one protocol. A range that ends before it starts permits nothing."""
    wanted = sorted(
        (item.port_range_start, item.port_range_end)
        for item in filters
        if item.protocol == protocol and item.port_range_start <= item.port_range_end
    )
    merged: list[tuple[int, int]] = []
    for start, end in wanted:
        if merged and start <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return tuple(merged)


def _contains(ranges: Iterable[tuple[int, int]], port: int | None) -> bool:
    return port is not None and any(start <= port <= end for start, end in ranges)
