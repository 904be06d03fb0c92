"""The grants that are live, and the flows that wait for their gateway. Every change goes to the store at once.

Source: portal protocol sections 9.8, 9.12. Where nobody else sees it the newest rule: one grant per client, resource, gateway.
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass

from firezone.base.ids import ResourceId
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant
from firezone.proto.portal.model import Grant, Store
from firezone.wire.portal.client import FlowCreated
from firezone.wire.portal.gateway import AuthorizeFlow

ANSWER_TIMEOUT = 15 * SECOND
"""A gateway that has not answered by then is told of as offline; the client would ask again every 2 s in the meantime."""
RETRY_AFTER = SECOND
"""A gateway without relays gets them at once, and counts one when it has answered, which takes a round trip."""
MAX_PENDING = 256
"""Flows of one client waiting at once; the oldest is forgotten for a new one."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A flow between `authorize_flow` and `flow_authorized`."""

    client_connection: int
    gateway_connection: int
    resource_id: ResourceId
    order: AuthorizeFlow
    """What the gateway was told, in its words."""
    answer: FlowCreated
    """In the words of the client. Made when it was asked for: keys may change later, and then it must not be sent."""
    until: Instant
    retry_at: Instant | None = None
    """When the gateway is to be told again."""

    @property
    def deadlines(self) -> tuple[Instant, ...]:
        return (self.until,) if self.retry_at is None else (self.until, self.retry_at)


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
        self._of_client: dict[int, dict[str, None]] = {}
        """References of each client's connection, the oldest first."""

    def make_ref(self) -> str:
        """Returns a reference: unguessable, so that no gateway can answer for another."""
        return base64.urlsafe_b64encode(self._rng.bytes(24)).decode()

    def add(self, ref: str, pending: Pending) -> None:
        """Remembers a flow; the client's oldest gives way when there are too many of it."""
        of_client = self._of_client.setdefault(pending.client_connection, {})
        if len(of_client) >= MAX_PENDING:
            self._remove(next(iter(of_client)))
        self._pending[ref] = pending
        self._of_client.setdefault(pending.client_connection, {})[ref] = None

    def take(self, ref: str, gateway_connection: int) -> Pending | None:
        """Returns and forgets what `ref` stands for, if it was asked over this connection."""
        pending = self._pending.get(ref)
        if pending is None or pending.gateway_connection != gateway_connection:
            return None
        return self._remove(ref)

    def forget(self, connection: int) -> list[Pending]:
        """Forgets the flows of a connection that is gone. Returns those that waited for it as their gateway."""
        gone = {ref: p for ref, p in self._pending.items() if connection in (p.client_connection, p.gateway_connection)}
        for ref in gone:
            self._remove(ref)
        return [pending for pending in gone.values() if pending.gateway_connection == connection]

    def take_due(self, now: Instant) -> list[Pending]:
        due = [ref for ref, pending in self._pending.items() if now >= pending.until]
        return [self._remove(ref) for ref in due]

    def retry(self, gateway_connection: int, at: Instant) -> None:
        """Lets a gateway be told again of all it has not answered."""
        for ref, pending in self._pending.items():
            if pending.gateway_connection == gateway_connection:
                self._pending[ref] = dataclasses.replace(pending, retry_at=at)

    def take_retries(self, now: Instant) -> list[Pending]:
        """Returns what gateways are to be told again now. They stay pending."""
        due = {ref: pending for ref, pending in self._pending.items() if pending.retry_at is not None and now >= pending.retry_at}
        for ref, pending in due.items():
            self._pending[ref] = dataclasses.replace(pending, retry_at=None)
        return list(due.values())

    def _remove(self, ref: str) -> Pending:
        pending = self._pending.pop(ref)
        of_client = self._of_client[pending.client_connection]
        del of_client[ref]
        if not of_client:
            del self._of_client[pending.client_connection]
        return pending

    def next_deadline(self) -> Instant | None:
        return min((at for pending in self._pending.values() for at in pending.deadlines), default=None)
