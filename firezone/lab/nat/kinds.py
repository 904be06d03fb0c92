"""The kinds of network a peer of the matrix sits behind, what the probe must find there, and the best path a pair allows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from firezone.lab.nat.table import Behaviour, Dependence

if TYPE_CHECKING:
    from firezone.lab.nat.probe import Finding

RELAY_PORT = 3478
_ANY, _ADDRESS, _PORT = Dependence


class Kind(StrEnum):
    """A column or row of the matrix, by the name it has on the command line."""

    NONE = "none"
    FULL_CONE = "full-cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"
    UDP_BLOCKED = "udp-blocked"
    IPV6_ONLY = "ipv6-only"
    BROKEN_IPV6 = "broken-ipv6"
    DOUBLE_HAIRPIN = "double-hairpin"


class Ipv6(StrEnum):
    """What becomes of IPv6, in the probe's words."""

    NONE = "none"
    SILENT = "silent"
    """Addresses and routes are there, packets vanish."""
    WORKS = "works"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands between a peer and the internet."""

    nats: tuple[Behaviour, ...] = ()
    """From the peer outwards. The outer one of two is shared by all peers of that kind, on both sides."""
    has_ipv4: bool = True
    ipv6: Ipv6 = Ipv6.NONE

    @property
    def mapping(self) -> Dependence:
        """The whole chain maps as its most dependent member does."""
        return max((nat.mapping for nat in self.nats), default=_ANY)

    @property
    def filtering(self) -> Dependence:
        return max((nat.filtering for nat in self.nats), default=_ANY)

    @property
    def only_port(self) -> int | None:
        return next((nat.only_port for nat in self.nats if nat.only_port is not None), None)


SURROUNDINGS = {
    Kind.NONE: Surroundings(),
    Kind.FULL_CONE: Surroundings((Behaviour(_ANY, _ANY),)),
    Kind.ADDRESS_RESTRICTED: Surroundings((Behaviour(_ANY, _ADDRESS),)),
    Kind.PORT_RESTRICTED: Surroundings((Behaviour(_ANY, _PORT),)),
    # Random ports, for one that preserves them gives every peer the announced one while nobody else has it.
    Kind.SYMMETRIC: Surroundings((Behaviour(_PORT, _PORT, is_preserving=False),)),
    Kind.UDP_BLOCKED: Surroundings((Behaviour(_ANY, _PORT, only_port=RELAY_PORT),)),
    Kind.IPV6_ONLY: Surroundings(has_ipv4=False, ipv6=Ipv6.WORKS),
    Kind.BROKEN_IPV6: Surroundings(ipv6=Ipv6.SILENT),
    Kind.DOUBLE_HAIRPIN: Surroundings((Behaviour(_ANY, _PORT), Behaviour(_ANY, _ANY, is_preserving=False, is_hairpinning=True))),
}


def complaints(kind: Kind, finding: Finding) -> list[str]:
    """Returns in what a probed network is not what its kind says; empty when it is."""
    around = SURROUNDINGS[kind]
    wanted: dict[str, object] = {"ipv4": "works" if around.has_ipv4 else "none", "ipv6": str(around.ipv6)}
    if around.has_ipv4:
        wanted |= {"is_translated": bool(around.nats), "mapping": str(around.mapping), "filtering": str(around.filtering)}
        wanted["answers_other_port"] = around.only_port is None
    if around.nats:
        wanted["is_preserving"] = all(nat.is_preserving for nat in around.nats)
        wanted["is_hairpinning"] = around.nats[-1].is_hairpinning
    return [
        f"{name.replace('_', ' ')}: {getattr(finding, name)} instead of {value}"
        for name, value in wanted.items()
        if getattr(finding, name) != value
    ]


class Way(IntEnum):
    """How good a path is; less is better."""

    HOST = 0
    """Both ends are reached at their own addresses."""
    REFLEXIVE = 1
    """Direct, but at least one end is reached at an address its NAT has lent it."""
    RELAYED = 2

    def __str__(self) -> str:
        return self.name.lower()


def best_possible(client: Kind, gateway: Kind) -> Way:
    """Returns the best path that ICE with the original's rules can find between two kinds.

    IPv6 is never translated here: where it works on both sides, both ends are reached at their own addresses. Where only one family
    works on each side and they differ, only a relay has both.

    Over IPv4, let a peer be *predictable* when its NAT maps endpoint-independently: then the address a relay told it is the one
    from which everybody hears it (RFC 4787 REQ-1). A datagram of A reaches B when

    1. it is sent to an address that stands for B whoever asks, so B must be predictable: what an address-dependent NAT has lent for
       the relay lets nobody in but the relay; and
    2. B's filter lets it in. B has sent checks to what A announced. From a predictable A the datagram comes from just there and
       passes any filter (hole punching, RFC 5128 section 3.3). From another it comes from the announced address, but from another
       port (our NATs have one address, REQ-2): endpoint-independent and address-dependent filters pass it, others do not.

    One such direction is enough: the receiver learns the sender's address as peer-reflexive, and its answers go back through the
    mapping that the datagram itself has made. Guessing ports is out: the original's optimistic candidates (the peer's reflexive
    address with its host port) hit only a forwarded or preserved port, and the symmetric kind preserves none.

    Two peers behind the same outer NAT see each other at its outer addresses and need it to hairpin (REQ-9); their private
    addresses lie behind different inner NATs and lead nowhere.

    Where UDP goes to the relays' port alone, nothing direct is left. Relayed always remains: every kind reaches port 3478 of a
    relay in some family, and relays lend addresses of both. The original's relay passes only peers with a channel, bound to
    announced addresses, so a peer that is not predictable cannot reach the other's relayed address from its own sockets, and one
    whose UDP is blocked cannot send to it at all; such pairs are joined by two relayed addresses, possibly of one relay. All of
    this is one way here: relayed.
    """
    a, b = SURROUNDINGS[client], SURROUNDINGS[gateway]
    if Ipv6.WORKS is a.ipv6 is b.ipv6:
        return Way.HOST
    if not (a.has_ipv4 and b.has_ipv4) or a.only_port is not None or b.only_port is not None:
        return Way.RELAYED
    if len(a.nats) > 1 and len(b.nats) > 1 and not a.nats[-1].is_hairpinning:
        return Way.RELAYED
    if not (_reaches(a, b) or _reaches(b, a)):
        return Way.RELAYED
    return Way.REFLEXIVE if a.nats or b.nats else Way.HOST


def _reaches(sender: Surroundings, receiver: Surroundings) -> bool:
    """Whether datagrams of one come through to the other, who has sent to every address the sender announced."""
    if receiver.mapping is not _ANY:
        return False
    return sender.mapping is _ANY or receiver.filtering is not _PORT
