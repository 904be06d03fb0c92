"""The grants that are live, and the flows that wait for their gateway. Every change goes to the store at once.

Source: portal protocol sections 9.8, 9.12. Where nobody else sees it the newest rule: one grant per client, resource, gateway.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

from firezone.base.ids import ResourceId
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant
from firezone.proto.portal.model import Grant, Store
from firezone.wire.portal.client import FlowCreated

ANSWER_TIMEOUT = 15 * SECOND
"""A gateway that has not answered by then is told of as offline; the client would ask again every 2 s in the meantime."""
MAX_PENDING = 256
"""Flows of one client waiting at once; the oldest is forgotten for a new one."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A flow between `authorize_flow` and `flow_authorized`."""

    client_connection: int
    gateway_connection: int
    resource_id: ResourceId
    answer: FlowCreated
    """Made when it was asked for: keys may change later, and then it must not be sent."""
    until: Instant


class Grants:
    """The live grants by client, resource and gateway."""

    def __init__(self, store: Store, loaded: list[Grant]) -> None:
        self._store = store
        self._grants = {grant.key: grant for grant in loaded}

    def put(self, grant: Grant) -> None:
        if self._grants.get(grant.key) != grant:
            self._grants[grant.key] = grant
            self._store.put_grant(grant)

    def remove(self, grant: Grant) -> None:
        if self._grants.pop(grant.key, None) is not None:
            self._store.remove_grant(grant)

    def all(self) -> list[Grant]:
        return list(self._grants.values())

    def of_gateway(self, gateway_id: str) -> list[Grant]:
        return [grant for grant in self._grants.values() if grant.gateway_id == gateway_id]


class PendingFlows:
    """What gateways have been asked, by the reference they answer with."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._pending: dict[str, Pending] = {}

    def add(self, pending: Pending) -> str:
        """Returns the reference: unguessable, so that no gateway can answer for another."""
        of_client = [ref for ref, other in self._pending.items() if other.client_connection == pending.client_connection]
        if len(of_client) >= MAX_PENDING:
            del self._pending[of_client[0]]
        ref = base64.urlsafe_b64encode(self._rng.bytes(24)).decode()
        self._pending[ref] = pending
        return ref

    def take(self, ref: str, gateway_connection: int) -> Pending | None:
        """Returns and forgets what `ref` stands for, if it was asked over this connection."""
        pending = self._pending.get(ref)
        if pending is None or pending.gateway_connection != gateway_connection:
            return None
        return self._pending.pop(ref)

    def forget(self, connection: int) -> list[Pending]:
        """Forgets the flows of a connection that is gone. Returns those that waited for it as their gateway."""
        gone = {ref: p for ref, p in self._pending.items() if connection in (p.client_connection, p.gateway_connection)}
        for ref in gone:
            del self._pending[ref]
        return [pending for pending in gone.values() if pending.gateway_connection == connection]

    def take_due(self, now: Instant) -> list[Pending]:
        due = [ref for ref, pending in self._pending.items() if now >= pending.until]
        return [self._pending.pop(ref) for ref in due]

    def next_deadline(self) -> Instant | None:
        return min((pending.until for pending in self._pending.values()), default=None)
