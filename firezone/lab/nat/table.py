"""The translation table of a NAT for UDP, with the behaviours of RFC 4787: which outer address an inner one gets, who may answer.

Pure: endpoints and time in, endpoints out. `lab.nat_packets` rewrites packets by it, `lab.nat_process` reads and writes them.

    inside                      table                          outside
    192.168.1.2:52625  ─►  mapping (key by `mapping`)  ─►  203.0.113.9:52625
                       ◄─  let in (key by `filtering`) ◄─

Both behaviours are a choice of what of the remote endpoint counts: nothing, its address, or address and port. The key of a
mapping is the inner endpoint with what counts for `mapping`; a datagram from outside passes when something was sent to what counts
for `filtering` within the timeout.

Source: RFC 4787 (the requirements are quoted where they bind), RFC 5780 for the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from firezone.base.net import Endpoint
from firezone.base.rng import below
from firezone.base.timing import SECOND

if TYPE_CHECKING:
    from firezone.base.rng import Rng
    from firezone.base.timing import Instant

MIN_TIMEOUT = 120 * SECOND
"""REQ-5: a mapping must not expire in less than two minutes. Tests take less, which no NAT of the matrix does."""
LOWEST_PORT, HIGHEST_PORT = 1024, 65535
"""Outer ports that may be drawn. A preserved port may be any."""
MAX_MAPPINGS = 4096
"""Mappings at a time; a quarter of the ports, so that drawing a free one never takes long."""
MAX_CONTACTS = 256
"""Remotes remembered per mapping; when it is full the one unheard of for longest goes."""
_DRAWS = 64
"""With a quarter of the ports taken, 64 draws in vain happen once in 2^128."""

Key = tuple[bytes, int] | bytes | None


class Dependence(IntEnum):
    """How much of the remote endpoint counts."""

    ENDPOINT_INDEPENDENT = 0
    ADDRESS_DEPENDENT = 1
    ADDRESS_AND_PORT_DEPENDENT = 2

    def key(self, remote: Endpoint) -> Key:
        """Returns what counts of a remote endpoint."""
        if self is Dependence.ENDPOINT_INDEPENDENT:
            return None
        return remote.ip if self is Dependence.ADDRESS_DEPENDENT else (remote.ip, remote.port)

    def __str__(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What distinguishes one NAT from another."""

    mapping: Dependence = Dependence.ENDPOINT_INDEPENDENT
    filtering: Dependence = Dependence.ENDPOINT_INDEPENDENT
    is_preserving: bool = True
    """Whether the inner port is kept while it is free; else every mapping gets a random one."""
    is_hairpinning: bool = False
    """Whether two inner hosts reach each other by outer addresses (REQ-9: with the outer address as source)."""
    timeout: Instant = MIN_TIMEOUT
    """How long a mapping and a permission live without a datagram from inside."""
    refreshes_inbound: bool = False
    """Whether datagrams from outside keep a mapping alive as well (REQ-6: those from inside must, others may)."""
    only_port: int | None = None
    """The one remote port that is let out; None lets out all."""


@dataclass(slots=True, eq=False)
class Mapping:
    """One outer port and whom it stands for."""

    inner: Endpoint
    outer: Endpoint
    key: Key
    contacts: dict[Key, Instant] = field(default_factory=dict)
    """What was sent to, by what counts for filtering, with the instant until which it may answer; the freshest last."""

    def expires_at(self) -> Instant:
        return next(reversed(self.contacts.values()), 0)


class NatTable:
    """The mappings of one outer address. Times never run backwards."""

    def __init__(self, outer_ip: bytes, behaviour: Behaviour, rng: Rng) -> None:
        self.outer_ip = outer_ip
        self.behaviour = behaviour
        self._rng = rng
        self._by_inner: dict[tuple[Endpoint, Key], Mapping] = {}
        self._by_port: dict[int, Mapping] = {}
        self._retired: set[int] = set()
        """Ports that the last rebinding has taken away: nobody gets them, or nothing would have changed."""

    def __len__(self) -> int:
        return len(self._by_port)

    def outgoing(self, inner: Endpoint, remote: Endpoint, now: Instant) -> Endpoint | None:
        """Returns the outer endpoint from which a datagram leaves, mapping it if need be; None when it may not leave."""
        if self.behaviour.only_port not in (None, remote.port):
            return None
        mapping = self._mapping_for(inner, self.behaviour.mapping.key(remote), now)
        if mapping is None:
            return None
        key = self.behaviour.filtering.key(remote)
        mapping.contacts.pop(key, None)
        mapping.contacts[key] = now + self.behaviour.timeout
        if len(mapping.contacts) > MAX_CONTACTS:
            del mapping.contacts[next(iter(mapping.contacts))]
        return mapping.outer

    def incoming(self, outer: Endpoint, remote: Endpoint, now: Instant) -> Endpoint | None:
        """Returns for whom a datagram from outside is; None when the filter stops it."""
        mapping = self._living(outer, now)
        if mapping is None:
            return None
        key = self.behaviour.filtering.key(remote)
        if mapping.contacts.get(key, now) <= now:
            return None
        if self.behaviour.refreshes_inbound:
            mapping.contacts.pop(key)
            mapping.contacts[key] = now + self.behaviour.timeout
        return mapping.inner

    def hairpin(self, inner: Endpoint, outer: Endpoint, now: Instant) -> tuple[Endpoint, Endpoint] | None:
        """Returns source and destination of a datagram from inside to one of our own outer endpoints; None when it is stopped.

        The source is an outer endpoint, and the filter of the destination counts as for a datagram from outside.

        Source: RFC 4787 section 6, REQ-9.
        """
        if not self.behaviour.is_hairpinning:
            return None
        source = self.outgoing(inner, outer, now)
        destination = None if source is None else self.incoming(outer, source, now)
        return None if source is None or destination is None else (source, destination)

    def inner_of(self, outer: Endpoint, now: Instant) -> Endpoint | None:
        """Returns whom an outer endpoint stands for, whoever asks. For ICMP errors, which come from anywhere (REQ-10)."""
        mapping = self._living(outer, now)
        return None if mapping is None else mapping.inner

    def outer_of(self, inner: Endpoint, remote: Endpoint, now: Instant) -> Endpoint | None:
        """Returns the outer endpoint a datagram to `remote` would leave from; None unless it exists already."""
        mapping = self._by_inner.get((inner, self.behaviour.mapping.key(remote)))
        return None if mapping is None or mapping.expires_at() <= now else mapping.outer

    def handle_timeout(self, now: Instant) -> None:
        """Forgets every mapping and permission whose time is over."""
        for mapping in list(self._by_port.values()):
            mapping.contacts = {key: end for key, end in mapping.contacts.items() if end > now}
            if not mapping.contacts:
                self._forget(mapping)

    def rebind(self) -> None:
        """Forgets everything, as a NAT that is restarted does; whoever sends on gets another outer port than before."""
        self._retired = set(self._by_port)
        self._by_port.clear()
        self._by_inner.clear()

    def _living(self, outer: Endpoint, now: Instant) -> Mapping | None:
        mapping = self._by_port.get(outer.port) if outer.ip == self.outer_ip else None
        return None if mapping is None or mapping.expires_at() <= now else mapping

    def _mapping_for(self, inner: Endpoint, key: Key, now: Instant) -> Mapping | None:
        mapping = self._by_inner.get((inner, key))
        if mapping is not None and mapping.expires_at() > now:
            return mapping
        if mapping is not None:
            self._forget(mapping)
        port = self._free_port(inner.port, now)
        if port is None:
            return None
        mapping = Mapping(inner, Endpoint(self.outer_ip, port), key)
        self._by_inner[inner, key] = self._by_port[port] = mapping
        return mapping

    def _free_port(self, wanted: int, now: Instant) -> int | None:
        """Returns an outer port nobody has. An outer port stands for one mapping alone, so answers are never ambiguous."""
        if len(self._by_port) >= MAX_MAPPINGS:
            self.handle_timeout(now)
            if len(self._by_port) >= MAX_MAPPINGS:
                return None
        if self.behaviour.is_preserving and self._is_free(wanted, now):
            return wanted
        for _ in range(_DRAWS):
            port = LOWEST_PORT + below(self._rng, HIGHEST_PORT - LOWEST_PORT + 1)
            # Drawing the inner port would preserve it by chance, and a peer that guesses would be lucky.
            if port != wanted and self._is_free(port, now):
                return port
        return None

    def _is_free(self, port: int, now: Instant) -> bool:
        mapping = self._by_port.get(port)
        if mapping is not None and mapping.expires_at() <= now:
            self._forget(mapping)
            mapping = None
        return mapping is None and port > 0 and port not in self._retired

    def _forget(self, mapping: Mapping) -> None:
        del self._by_port[mapping.outer.port]
        del self._by_inner[mapping.inner, mapping.key]
