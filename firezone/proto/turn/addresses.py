"""What one relay told us of addresses: where we send from, what it sees of that, what it lends us. One of each kind and family."""

from __future__ import annotations

from firezone.base.net import Endpoint
from firezone.proto.ice.candidates import relay_candidate
from firezone.proto.ice.preference import is_usable
from firezone.proto.turn.events import CandidateFound, CandidateLost
from firezone.wire.candidate import Candidate, CandidateKind


class Addresses:
    """The addresses of one allocation, as candidates."""

    def __init__(self) -> None:
        self._own: dict[tuple[CandidateKind, bool], Candidate] = {}
        """Host and server-reflexive ones by family: is it IPv4?"""
        self._lent: dict[bool, CandidateFound] = {}

    def find(self, candidate: Candidate) -> list[CandidateFound]:
        """Takes an address of ours. A changed one is announced in addition to the former, which may still work.

        Returns: what is news.
        """
        key = candidate.kind, candidate.endpoint.is_ipv4
        if not is_usable(candidate.endpoint) or self._own.get(key) == candidate:
            return []
        self._own[key] = candidate
        return [CandidateFound(candidate)]

    def lend(self, endpoint: Endpoint, *, crosses_family: bool) -> list[CandidateFound]:
        """Takes a lent address; of each family only the first counts. Returns what is news."""
        if endpoint.is_ipv4 in self._lent:
            return []
        self._lent[endpoint.is_ipv4] = CandidateFound(relay_candidate(endpoint), crosses_family)
        return [self._lent[endpoint.is_ipv4]]

    def forget_lent(self) -> list[CandidateLost]:
        """Gives all lent addresses up. Returns what is to be told."""
        lost = [CandidateLost(found.candidate) for found in self._lent.values()]
        self._lent.clear()
        return lost

    def all(self) -> list[CandidateFound]:
        """Returns everything known: own and seen addresses, then lent ones."""
        return [CandidateFound(candidate) for candidate in self._own.values()] + list(self._lent.values())

    def lent_to(self, peer: Endpoint) -> Endpoint | None:
        """Returns the lent address that a peer is spoken to from: that of its family."""
        found = self._lent.get(peer.is_ipv4)
        return None if found is None else found.candidate.endpoint
