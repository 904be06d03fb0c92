"""The compiled tables of one tunnel and their only writer (decision D8).

Sessions, paths and channels are the exception: the node that negotiates them writes them through `SessionStore` and
`ChannelGate`, so that key material crosses nothing but one call. Every route and filter comes from a `TableUpdate` applied here.
"""

from __future__ import annotations

from typing import assert_never

from firezone.kernels.channel import ChannelTable
from firezone.kernels.filter import FilterTable
from firezone.kernels.route import RouteTable
from firezone.kernels.session import SessionTable
from firezone.proto.updates import PeerFilterRemoved, PeerFilterSet, RouteRemoved, RouteSet, TableUpdate

NO_PEER_YET = -1
"""The route's peer value that punts a packet, so that somebody asks for access."""


class Tables:
    """Sessions, channels, routes and filters as the stages read them. A role without a use for one leaves it empty."""

    def __init__(self) -> None:
        self.sessions = SessionTable()
        self.channels = ChannelTable()
        self.routes = RouteTable()
        self.filters = FilterTable()

    def apply(self, update: TableUpdate) -> None:
        """Makes one change visible to the next batch."""
        match update:
            case RouteSet(network, peer):
                self.routes.set(network, NO_PEER_YET if peer is None else peer)
            case RouteRemoved(network):
                self.routes.remove(network)
            case PeerFilterSet(peer, remote, local, rules):
                flat = None if rules is None else [(r.network, r.permit_all, r.tcp, r.udp, r.icmp) for r in rules]
                self.filters.set_peer(peer, remote, local, flat)
            case PeerFilterRemoved(peer):
                self.filters.remove_peer(peer)
            case _:
                assert_never(update)
