"""ICE candidate lines as peers exchange them through the portal.

    candidate:<foundation> <component> <transport> <priority> <ip> <port> typ <kind>[ raddr <ip> rport <port>][ ufrag <ufrag>]

Sent strictly in this form, accepted with the other optional parts browsers and the original know, in their order; what follows
the recognised part is ignored. Priorities are computed by `proto.ice.preference`.

Source: RFC 8839 section 5.1; Firezone's is/str0m parser.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from enum import IntEnum
from hashlib import blake2s

from firezone.base.errors import WireError
from firezone.base.net import Endpoint

MAX_LINE_SIZE = 1024
"""Characters of a line we look at. A real one has less than 200."""
MAX_PRIORITY = (1 << 32) - 1


class CandidateKind(IntEnum):
    """How an address was learned."""

    HOST = 0
    SERVER_REFLEXIVE = 1
    PEER_REFLEXIVE = 2
    RELAY = 3

    @property
    def word(self) -> str:
        """The word of the candidate line."""
        return _WORDS[self]


_WORDS = {
    CandidateKind.HOST: "host",
    CandidateKind.SERVER_REFLEXIVE: "srflx",
    CandidateKind.PEER_REFLEXIVE: "prflx",
    CandidateKind.RELAY: "relay",
}
_KINDS = {word: kind for kind, word in _WORDS.items()}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One transport address by which a peer may be reached."""

    kind: CandidateKind
    endpoint: Endpoint
    """The address itself."""
    priority: int
    base: Endpoint
    """The local address checks are sent from; the address itself for host, relay and all remote candidates."""
    related: Endpoint | None = None
    """raddr and rport: where it was learned from; spoofed as 0.0.0.0:0 by Firezone."""
    ufrag: str | None = None
    """Username fragment it belongs to; a candidate of another one is not meant for us."""
    component: int = 1
    transport: str = "udp"
    foundation: str = ""

    @property
    def identity(self) -> tuple[CandidateKind, Endpoint, Endpoint, Endpoint | None]:
        """What an invalidation is matched by: priority, foundation and ufrag may differ."""
        return self.kind, self.endpoint, self.base, self.related

    def with_priority(self, priority: int) -> Candidate:
        return replace(self, priority=priority)


_LINE = re.compile(
    r"(?:a=)?candidate:(?P<foundation>\S+) (?P<component>\d{1,10}) (?P<transport>\S+) (?P<priority>\d{1,10})"
    r" (?P<ip>\S+) (?P<port>\d{1,5}) typ (?P<kind>\S+)"
    r"(?: tcptype \S+)?(?: raddr (?P<raddr>\S+) rport (?P<rport>\d{1,5})(?!\S))?"
    r"(?: generation \d+(?!\S))?(?: network-id \d+(?!\S))?(?: ufrag (?P<ufrag>\S+))?",
    re.ASCII,
)
_TRANSPORTS = {"udp", "tcp", "ssltcp", "tls"}


def decode_candidate(line: str) -> Candidate:
    """Decodes one candidate line.

    Returns: the candidate; its base is its own address, as befits a remote one.
    Raises:  WireError naming the field that is wrong; host names (mDNS too) are wrong, only address literals count.
    """
    match = _LINE.match(line) if len(line) <= MAX_LINE_SIZE else None
    if match is None:
        raise WireError("The text is not a candidate line.", field="candidate", offset=0)
    transport = match["transport"].lower()
    if transport not in _TRANSPORTS:
        raise WireError("The candidate's transport is unknown.", field="transport", offset=match.start("transport"))
    kind = _KINDS.get(match["kind"])
    if kind is None:
        raise WireError("The candidate's type is unknown.", field="typ", offset=match.start("kind"))
    priority = int(match["priority"])
    if priority > MAX_PRIORITY:
        raise WireError("The candidate's priority does not fit 32 bits.", field="priority", offset=match.start("priority"))
    endpoint = _decode_endpoint(match, "ip", "port")
    return Candidate(
        kind=kind,
        endpoint=endpoint,
        priority=priority,
        base=endpoint,
        related=_decode_endpoint(match, "raddr", "rport") if match["raddr"] is not None else None,
        ufrag=match["ufrag"],
        component=int(match["component"]),
        transport=transport,
        foundation=match["foundation"],
    )


def encode_candidate(candidate: Candidate) -> str:
    """Returns the line announced to the peer: no `a=`, related address spoofed, host candidates without one.

    Source: Firezone hides base addresses; the portal would otherwise see inside the peer's network.
    """
    parts = [
        f"candidate:{candidate.foundation or foundation_of(candidate)}",
        str(candidate.component),
        candidate.transport,
        str(candidate.priority),
        candidate.endpoint.host,
        str(candidate.endpoint.port),
        "typ",
        candidate.kind.word,
    ]
    if candidate.kind is not CandidateKind.HOST:
        parts += ["raddr", "0.0.0.0" if candidate.endpoint.is_ipv4 else "::", "rport", "0"]
    if candidate.ufrag is not None:
        parts += ["ufrag", candidate.ufrag]
    return " ".join(parts)


def foundation_of(candidate: Candidate) -> str:
    """Returns the opaque foundation the original writes: byte-reversed priority, then a hash of what the candidate is."""
    what = f"{candidate.kind.word} {candidate.transport} {candidate.base} {candidate.endpoint}"
    return candidate.priority.to_bytes(4, "little").hex() + format(
        int.from_bytes(blake2s(what.encode(), digest_size=8).digest(), "big"), "x"
    )


def _decode_endpoint(match: re.Match[str], host: str, port: str) -> Endpoint:
    number = int(match[port])
    if number > 65535:
        raise WireError(f"The candidate's {port} {number} is not a port.", field=port, offset=match.start(port))
    try:
        address = ipaddress.ip_address(match[host])
    except ValueError as error:
        raise WireError(f"The candidate's {host} is not an IP address.", field=host, offset=match.start(host)) from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise WireError(f"The candidate's {host} carries a zone.", field=host, offset=match.start(host))
    return Endpoint(address.packed, number)
