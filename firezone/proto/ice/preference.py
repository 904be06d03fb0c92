"""Priorities of candidates and pairs, and which addresses may be candidates at all.

Source: RFC 8445 sections 5.1.2, 6.1.2.3; Firezone's choice of preferences (relay is 2, not 0; IPv6 before IPv4).
"""

from __future__ import annotations

import ipaddress

from firezone.base.net import TUNNEL_V4, TUNNEL_V6, Endpoint
from firezone.wire.candidate import CandidateKind

TYPE_PREFERENCE = {
    CandidateKind.HOST: 126,
    CandidateKind.PEER_REFLEXIVE: 110,
    CandidateKind.SERVER_REFLEXIVE: 100,
    CandidateKind.RELAY: 2,
}

_HIGHEST_LOCAL_PREFERENCE = {
    CandidateKind.HOST: 65535,
    CandidateKind.PEER_REFLEXIVE: 49151,
    CandidateKind.SERVER_REFLEXIVE: 32767,
    CandidateKind.RELAY: 16383,
}

CROSS_FAMILY_MALUS = 1000
"""Taken from a relayed address of another family than the one spoken with its relay: keeps a path in one family end to end."""

_DEFAULT_LOCAL_PREFERENCE = 65535
_COMPONENT = 255
"""256 minus the component id, which is always 1."""


def candidate_priority(kind: CandidateKind, local_preference: int) -> int:
    """Returns the priority of a candidate (RFC 8445 section 5.1.2.1)."""
    return TYPE_PREFERENCE[kind] << 24 | local_preference << 8 | _COMPONENT


def local_preference(kind: CandidateKind, *, is_ipv4: bool, earlier: int, crosses_family: bool = False) -> int:
    """Returns the preference of a candidate added to an agent that already has `earlier` ones of its kind and family."""
    malus = CROSS_FAMILY_MALUS if crosses_family else 0
    return max(0, _HIGHEST_LOCAL_PREFERENCE[kind] - is_ipv4 - 2 * earlier - malus)


def default_priority(kind: CandidateKind, *, is_ipv4: bool) -> int:
    """Returns the priority of a candidate that is announced without being added to an agent."""
    return candidate_priority(kind, _DEFAULT_LOCAL_PREFERENCE - is_ipv4)


def check_priority(priority: int) -> int:
    """Returns what PRIORITY of a check says: the sender's candidate as if it were peer-reflexive (RFC 8445 section 7.1.1)."""
    return TYPE_PREFERENCE[CandidateKind.PEER_REFLEXIVE] << 24 | priority & 0x00FFFF00 | _COMPONENT


def pair_priority(controlling: int, controlled: int) -> int:
    """Returns the priority of a pair of candidates with these priorities (RFC 8445 section 6.1.2.3)."""
    return (min(controlling, controlled) << 32) + 2 * max(controlling, controlled) + (controlling > controlled)


def is_usable(endpoint: Endpoint) -> bool:
    """Tells whether an address may be a candidate: a unicast address that means the same host to any sender.

    IPv6 link-local addresses need a zone, which no candidate can carry.
    """
    address = ipaddress.ip_address(endpoint.ip)
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return False
    return endpoint.ip != b"\xff\xff\xff\xff" and endpoint.port != 0


def is_own(endpoint: Endpoint) -> bool:
    """Tells whether an address lies in the tunnel: datagrams to it would be routed into the tunnel that carries them."""
    address = ipaddress.ip_address(endpoint.ip)
    return address in (TUNNEL_V4 if isinstance(address, ipaddress.IPv4Address) else TUNNEL_V6)
