"""What an agent knows of one side's candidates: live ones, and discarded ones that must stay dead until announced again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from firezone.base.net import Endpoint
from firezone.proto.ice.preference import candidate_priority, local_preference
from firezone.wire.candidate import Candidate, CandidateKind

MAX_CANDIDATES = 200
"""Of one side. Twice the pairs an agent keeps; a peer that announces more gains nothing by it."""
MAX_REFLEXIVE = 100
"""Reflexive addresses announced to a peer: as many as it could pair with."""


@dataclass(slots=True)
class Entry:
    """A candidate and whether it was invalidated."""

    candidate: Candidate
    is_discarded: bool = False


class CandidateSet:
    """An ordered, bounded list of entries."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def live(self) -> list[Candidate]:
        """Returns the candidates that are not discarded, in the order they came."""
        return [entry.candidate for entry in self._entries if not entry.is_discarded]

    def is_empty(self) -> bool:
        """Tells whether there never was a candidate; a discarded one counts, it says that signalling works."""
        return not self._entries

    def add(self, candidate: Candidate, is_used: Callable[[Candidate], bool]) -> bool:
        """Appends a candidate; a full set gives up its oldest one that is not used. Returns whether there was room.

        A NAT that changes its port now and then would fill any set with peer-reflexive addresses in the course of weeks.
        """
        if len(self._entries) >= MAX_CANDIDATES:
            unused = next((entry for entry in self._entries if not is_used(entry.candidate)), None)
            if unused is None:
                return False
            self._entries.remove(unused)
        self._entries.append(Entry(candidate))
        return True

    def find(self, candidate: Candidate) -> Entry | None:
        """Returns the entry an invalidation or repetition of `candidate` means: equal in all but priority and ufrag."""
        return next((entry for entry in self._entries if entry.candidate.identity == candidate.identity), None)

    def find_equal(self, candidate: Candidate) -> Entry | None:
        """Returns the entry with the same address and base, a live one before a discarded one."""
        equal = [
            entry
            for entry in self._entries
            if entry.candidate.endpoint == candidate.endpoint and entry.candidate.base == candidate.base
        ]
        return next((entry for entry in equal if not entry.is_discarded), equal[0] if equal else None)

    def at(self, endpoint: Endpoint) -> list[Entry]:
        """Returns every entry with this address, best first."""
        found = [entry for entry in self._entries if entry.candidate.endpoint == endpoint]
        return sorted(found, key=lambda entry: -entry.candidate.priority)

    def live_at(self, endpoint: Endpoint) -> Candidate | None:
        """Returns the best live candidate with this address."""
        return next((entry.candidate for entry in self.at(endpoint) if not entry.is_discarded), None)

    def prioritise(self, candidate: Candidate, *, crosses_family: bool = False) -> Candidate:
        """Returns the candidate with the priority it gets here: later ones of a kind and family rank lower."""
        is_ipv4 = candidate.endpoint.is_ipv4
        earlier = sum(
            entry.candidate.kind is candidate.kind and entry.candidate.endpoint.is_ipv4 == is_ipv4 for entry in self._entries
        )
        preference = local_preference(candidate.kind, is_ipv4=is_ipv4, earlier=earlier, crosses_family=crosses_family)
        return candidate.with_priority(candidate_priority(candidate.kind, preference))


class ReflexiveSet:
    """Our server-reflexive candidates, in the order they came: announced and never paired."""

    def __init__(self) -> None:
        self._candidates: dict[tuple[Endpoint, Endpoint], Candidate] = {}

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    def add(self, candidate: Candidate) -> Candidate | None:
        """Returns what to announce, with its priority; None if the candidate adds nothing.

        Without a NAT it is the host candidate, and the peer gains nothing by hearing of one address twice.
        """
        known = {endpoint for endpoint, _ in self._candidates}
        if candidate.endpoint in known or candidate.endpoint == candidate.base or len(known) >= MAX_REFLEXIVE:
            return None
        is_ipv4 = candidate.endpoint.is_ipv4
        earlier = sum(endpoint.is_ipv4 == is_ipv4 for endpoint in known)
        preference = local_preference(candidate.kind, is_ipv4=is_ipv4, earlier=earlier)
        announced = candidate.with_priority(candidate_priority(candidate.kind, preference))
        self._candidates[candidate.endpoint, candidate.base] = announced
        return announced

    def remove(self, candidate: Candidate) -> Candidate | None:
        """Forgets a candidate. Returns it as announced; None if it was not known."""
        return self._candidates.pop((candidate.endpoint, candidate.base), None)


def host_candidate(endpoint: Endpoint) -> Candidate:
    """Builds a candidate from an address of ours; the agent gives it its priority."""
    return Candidate(CandidateKind.HOST, endpoint, 0, endpoint)


def relay_candidate(allocated: Endpoint) -> Candidate:
    """Builds a candidate from an address a relay lent us; checks leave from it, wrapped in channel data."""
    return Candidate(CandidateKind.RELAY, allocated, 0, allocated)


def reflexive_candidate(mapped: Endpoint, base: Endpoint) -> Candidate:
    """Builds a candidate from what a STUN server saw of `base`.

    Raises: ValueError if the families differ.
    """
    if mapped.is_ipv4 != base.is_ipv4:
        raise ValueError("A server-reflexive address is of the family of its base.")
    return Candidate(CandidateKind.SERVER_REFLEXIVE, mapped, 0, base, related=base)
