"""What machines want of the compiled tables. `datapath/tables.py` is the only one that applies them (decision D8)."""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.ids import NatClient, PeerRow
from firezone.base.net import Address, Network


@dataclass(frozen=True, slots=True)
class RouteSet:
    """Packets from TUN to `network` go to `peer`; None punts them with reason NO_PEER. Longest prefix wins."""

    network: Network
    peer: PeerRow | None


@dataclass(frozen=True, slots=True)
class RouteRemoved:
    """Packets from TUN to `network` fall to a shorter prefix, or are dropped with reason NO_ROUTE."""

    network: Network


@dataclass(frozen=True, slots=True)
class Rule:
    """What is permitted towards (and back from) addresses of `network` on our side. All flags off: nothing is.

    Rules of one peer are looked up by longest prefix; whoever makes them merges wider networks into narrower ones.
    """

    network: Network
    permit_all: bool = False
    tcp: tuple[tuple[int, int], ...] = ()
    """Inclusive port ranges."""
    udp: tuple[tuple[int, int], ...] = ()
    icmp: bool = False


@dataclass(frozen=True, slots=True)
class PeerFilterSet:
    """Replaces the whole filter of one peer.

    Out of the tunnel: ICMP errors are NOT_PERMITTED where there are `rules`; source in `remote`, else REFUSED_SOURCE;
    destination in `local` (when given), else REFUSED_DESTINATION; destination and its port permitted by `rules` (when given),
    else REFUSED_DESTINATION.
    Into the tunnel: destination in `remote`, else FOREIGN_DESTINATION; source in `local` (when given), else FOREIGN_SOURCE;
    source and its port permitted by `rules` (when given), else NOT_PERMITTED; ICMP errors pass the rules unseen.
    """

    peer: PeerRow
    remote: tuple[Network, ...]
    """Addresses the far side may have."""
    local: tuple[Network, ...] | None = None
    """Addresses our side may have; None: any."""
    rules: tuple[Rule, ...] | None = None
    """What the far side may reach on our side; None: anything."""


@dataclass(frozen=True, slots=True)
class PeerFilterRemoved:
    """The peer is gone; packets of its row are dropped."""

    peer: PeerRow


@dataclass(frozen=True, slots=True)
class PeerRulesAdded:
    """Adds rules to the filter of a peer that has one with rules; a rule replaces one of the same network."""

    peer: PeerRow
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class PeerRemoteAdded:
    """Adds networks to the addresses that the far side of a peer with a filter may have."""

    peer: PeerRow
    remote: tuple[Network, ...]


@dataclass(frozen=True, slots=True)
class NatAttached:
    """Packets of `peer` are translated as those of `client` from now on, a number that outlives the row."""

    peer: PeerRow
    client: NatClient


@dataclass(frozen=True, slots=True)
class NatDetached:
    """Packets of `peer` are no client's any more; the client keeps its sessions."""

    peer: PeerRow


@dataclass(frozen=True, slots=True)
class TranslationsSet:
    """New flows of `client` to a proxy IP go to the address beside it; None: nowhere, which punts them with NO_TRANSLATION."""

    client: NatClient
    translations: tuple[tuple[Address, Address | None], ...]


@dataclass(frozen=True, slots=True)
class TranslationsRemoved:
    """These proxy IPs lead nowhere any more, and what goes on over them ends."""

    client: NatClient
    proxies: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class NatRemoved:
    """The client is gone; its number may be given to another."""

    client: NatClient


@dataclass(frozen=True, slots=True)
class OwnAddressesSet:
    """Our tunnel addresses: what comes from them is not a resource's."""

    ipv4: Address
    ipv6: Address


TableUpdate = (
    RouteSet
    | RouteRemoved
    | PeerFilterSet
    | PeerFilterRemoved
    | PeerRulesAdded
    | PeerRemoteAdded
    | NatAttached
    | NatDetached
    | TranslationsSet
    | TranslationsRemoved
    | NatRemoved
    | OwnAddressesSet
)
