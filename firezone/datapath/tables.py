"""The compiled tables of one tunnel and their only writer (decision D8).

Sessions, paths and channels are the exception: the node that negotiates them writes them through `SessionStore` and
`ChannelGate`, so that key material crosses nothing but one call. Every route and filter comes from a `TableUpdate` applied here.
"""

from __future__ import annotations

import hashlib
from typing import assert_never

from firezone.base.net import Network
from firezone.kernels.channel import ChannelTable
from firezone.kernels.filter import FilterTable
from firezone.kernels.nat import NatTable
from firezone.kernels.route import RouteTable
from firezone.kernels.session import SessionTable
from firezone.proto.updates import (
    NatAttached,
    NatDetached,
    NatRemoved,
    OwnAddressesSet,
    PeerFilterRemoved,
    PeerFilterSet,
    PeerRemoteAdded,
    PeerRulesAdded,
    RouteRemoved,
    RouteSet,
    Rule,
    TableUpdate,
    TranslationsRemoved,
    TranslationsSet,
)

NatUpdate = NatAttached | NatDetached | TranslationsSet | TranslationsRemoved | NatRemoved | OwnAddressesSet
FlatRule = tuple[Network, bool, tuple[tuple[int, int], ...], tuple[tuple[int, int], ...], bool]

NO_PEER_YET = -1
"""The route's peer value that punts a packet, so that somebody asks for access."""


class Tables:
    """Sessions, channels, routes, filters and NAT as the stages read them. A role without a use for one leaves it empty."""

    def __init__(self, seed: bytes = bytes(48)) -> None:
        """`seed`: 48 secret random bytes, so that nobody outside can choose flows that make look-ups slow."""
        of_memos = hashlib.blake2b(seed, digest_size=48, person=b"memos").digest()
        self.sessions = SessionTable()
        self.channels = ChannelTable()
        self.routes = RouteTable(of_memos[:16])
        self.filters = FilterTable(of_memos[16:])
        self.nat = NatTable(seed)

    def apply(self, update: TableUpdate) -> None:
        """Makes one change visible to the next batch."""
        match update:
            case RouteSet(network, peer):
                self.routes.set(network, NO_PEER_YET if peer is None else peer)
            case RouteRemoved(network):
                self.routes.remove(network)
            case PeerFilterSet(peer, remote, local, rules):
                self.filters.set_peer(peer, remote, local, None if rules is None else _flat(rules))
            case PeerRulesAdded(peer, rules):
                self.filters.add_rules(peer, _flat(rules))
            case PeerRemoteAdded(peer, remote):
                self.filters.add_remote(peer, remote)
            case PeerFilterRemoved(peer):
                self.filters.remove_peer(peer)
            case _:
                self._apply_nat(update)

    def _apply_nat(self, update: NatUpdate) -> None:
        nat = self.nat
        match update:
            case TranslationsSet(client, translations):
                for proxy, real in translations:
                    nat.set_translation(client, proxy.packed, None if real is None else real.packed)
            case TranslationsRemoved(client, proxies):
                for proxy in proxies:
                    nat.remove_translation(client, proxy.packed)
            case NatAttached(peer, client):
                nat.attach(peer, client)
            case NatDetached(peer):
                nat.detach(peer)
            case NatRemoved(client):
                nat.remove_client(client)
            case OwnAddressesSet(ipv4, ipv6):
                nat.set_own(ipv4.packed, ipv6.packed)
            case _:
                assert_never(update)


def _flat(rules: tuple[Rule, ...]) -> list[FlatRule]:
    return [(rule.network, rule.permit_all, rule.tcp, rule.udp, rule.icmp) for rule in rules]
