"""Guessed candidates: a peer behind a symmetric NAT whose port was forwarded by hand.

Its server-reflexive address has a port of the NAT's choosing; the forwarded one is that of a host candidate.
"""

from __future__ import annotations

from firezone.base.net import Endpoint
from firezone.proto.ice.preference import default_priority
from firezone.wire.candidate import Candidate, CandidateKind

MAX_GUESSES = 2
"""Per call: peers with many addresses would make us check their product. IPv4 only, for the same reason."""


def optimistic_candidates(known: list[Candidate], taken: set[Endpoint]) -> list[Candidate]:
    """Returns candidates nobody announced but that may work: reflexive address with a host's port, unless it is taken.

    Source: Firezone's `generate_optimistic_candidates`.
    """
    reflexive = [c for c in known if c.kind is CandidateKind.SERVER_REFLEXIVE and c.endpoint.is_ipv4]
    hosts = [c for c in known if c.kind is CandidateKind.HOST and c.endpoint.is_ipv4]
    guesses: list[Candidate] = []
    for outer in reflexive:
        for host in hosts:
            endpoint = Endpoint(outer.endpoint.ip, host.endpoint.port)
            if endpoint in taken or len(guesses) == MAX_GUESSES:
                continue
            taken = taken | {endpoint}
            priority = default_priority(CandidateKind.SERVER_REFLEXIVE, is_ipv4=True)
            guesses.append(Candidate(CandidateKind.SERVER_REFLEXIVE, endpoint, priority, host.endpoint, related=host.endpoint))
    return guesses
