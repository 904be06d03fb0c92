"""Routes and admission by scanning lists of networks."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from firezone.kernels.types import Reason
from tests.harness.twins import ip

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firezone.base.net import Network
    from firezone.proto.updates import PeerFilterSet, Rule


@dataclass(frozen=True)
class Side:
    """What admission looks at: our address and port."""

    address: bytes
    port: int


def longest_match(networks: Iterable[Network], address: bytes) -> Network | None:
    """The narrowest of the networks that holds the address."""
    value = ipaddress.ip_address(address)
    matches = [network for network in networks if value in network]
    return max(matches, key=lambda network: network.prefixlen, default=None)


def from_tunnel(wanted: PeerFilterSet | None, parsed: ip.Parsed) -> Reason:
    if wanted is None:
        return Reason.NOT_PERMITTED
    source, destination = addresses(parsed)
    if wanted.rules is not None and parsed.flags & ip.ICMP_ERROR:
        return Reason.NOT_PERMITTED
    if longest_match(wanted.remote, source) is None:
        return Reason.REFUSED_SOURCE
    if wanted.local is not None and longest_match(wanted.local, destination) is None:
        return Reason.REFUSED_DESTINATION
    if not _permitted(wanted.rules, Side(destination, parsed.destination_port), parsed):
        return Reason.REFUSED_DESTINATION
    return Reason.NONE


def to_tunnel(wanted: PeerFilterSet | None, parsed: ip.Parsed) -> Reason:
    if wanted is None:
        return Reason.NOT_PERMITTED
    source, destination = addresses(parsed)
    if longest_match(wanted.remote, destination) is None:
        return Reason.FOREIGN_DESTINATION
    if wanted.local is not None and longest_match(wanted.local, source) is None:
        return Reason.FOREIGN_SOURCE
    if parsed.flags & ip.ICMP_ERROR:
        return Reason.NONE
    return Reason.NONE if _permitted(wanted.rules, Side(source, parsed.source_port), parsed) else Reason.NOT_PERMITTED


def addresses(parsed: ip.Parsed) -> tuple[bytes, bytes]:
    start, size = (12, 4) if parsed.version == 4 else (8, 16)
    return parsed.packet[start : start + size], parsed.packet[start + size : start + 2 * size]


def _permitted(rules: Sequence[Rule] | None, ours: Side, parsed: ip.Parsed) -> bool:
    if rules is None:
        return True
    network = longest_match((rule.network for rule in rules), ours.address)
    if network is None:
        return False
    rule = [rule for rule in rules if rule.network == network][-1]
    if rule.permit_all:
        return True
    if parsed.flags & ip.ICMP:
        return rule.icmp
    ranges = {ip.TCP: rule.tcp, ip.UDP: rule.udp}.get(parsed.protocol, ())
    return any(first <= ours.port <= last for first, last in ranges)
