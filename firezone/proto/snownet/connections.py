"""All connections of a node, by everything they are looked up by, and the deadlines they wait for.

Each lookup is one dictionary access, and a wake-up touches only what is due: thousands of idle connections cost nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from firezone.base.ids import ConnectionId, PeerRow, ReceiverIndex
from firezone.base.timing import Instant
from firezone.proto.ice.agent import IceAgent
from firezone.proto.noise.index import connection_of
from firezone.proto.snownet.connection import Connection

MIN_SWEEP = 256
"""Entries in the heap of deadlines before stale ones are looked for; doubling from there keeps it linear in connections."""


class Connections:
    """The table. A connection added under a known id must have been removed before."""

    def __init__(self) -> None:
        self.transactions: dict[bytes, IceAgent] = {}
        """Which agent a STUN answer is for; kept by the agents."""
        self._by_cid: dict[ConnectionId, Connection] = {}
        self._by_row: dict[PeerRow, Connection] = {}
        self._by_index: dict[int, Connection] = {}
        self._by_key: dict[bytes, Connection] = {}
        self._by_username: dict[str, Connection] = {}
        self._by_agent: dict[IceAgent, Connection] = {}
        self._indices: dict[ConnectionId, int] = {}

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._by_cid.values())

    def __len__(self) -> int:
        return len(self._by_cid)

    def add(self, connection: Connection, index: int) -> None:
        """Adds a connection whose receiver indices begin with these 24 bits."""
        self._by_cid[connection.cid] = connection
        self._by_row[connection.peer.row] = connection
        self._by_index[index] = connection
        self._indices[connection.cid] = index
        self._by_key[connection.terms.remote_public] = connection
        self._by_username[_username_of(connection)] = connection
        self._by_agent[connection.agent] = connection

    def remove(self, connection: Connection) -> None:
        """Removes a connection; another one that came to share its key or username stays."""
        del self._by_cid[connection.cid]
        del self._by_row[connection.peer.row]
        del self._by_index[self._indices.pop(connection.cid)]
        del self._by_agent[connection.agent]
        if self._by_key.get(connection.terms.remote_public) is connection:
            del self._by_key[connection.terms.remote_public]
        if self._by_username.get(_username_of(connection)) is connection:
            del self._by_username[_username_of(connection)]

    def get(self, cid: ConnectionId) -> Connection | None:
        return self._by_cid.get(cid)

    def by_row(self, row: PeerRow) -> Connection | None:
        return self._by_row.get(row)

    def by_receiver(self, index: ReceiverIndex) -> Connection | None:
        """Finds by receiver index, never by source address: two peers behind one NAT may follow each other on a port."""
        return self._by_index.get(connection_of(index))

    def by_remote_key(self, public: bytes) -> Connection | None:
        return self._by_key.get(public)

    def by_username(self, username: str) -> Connection | None:
        """Finds by USERNAME of a check: our fragment, a colon, the peer's."""
        return self._by_username.get(username)

    def by_transaction(self, transaction_id: bytes) -> Connection | None:
        """Finds by the transaction id of an answer."""
        agent = self.transactions.get(transaction_id)
        return None if agent is None else self._by_agent.get(agent)


class Deadlines:
    """When each connection wants to be woken.

    A deadline that moves back stays in the heap: the connection is woken too early once and then says when it really is due.
    So a busy connection, whose deadlines move with every packet, costs nothing here.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, Connection, str]] = []
        self._count = 0
        self._sweep_at = MIN_SWEEP

    def schedule(self, connection: Connection) -> None:
        """Makes sure that the connection is woken no later than it wants."""
        wanted = connection.poll_timeout()
        if wanted is None or (connection.scheduled_at is not None and connection.scheduled_at <= wanted[0]):
            return
        connection.scheduled_at = wanted[0]
        self._count += 1
        heapq.heappush(self._heap, (wanted[0], self._count, connection, wanted[1]))
        if len(self._heap) > self._sweep_at:
            self._sweep()

    def forget(self, connection: Connection) -> None:
        """Drops the deadline of a connection that is gone."""
        connection.scheduled_at = None

    def pop_due(self, now: Instant) -> list[Connection]:
        """Returns the connections that are due, each once; they must be scheduled again."""
        due = []
        while (top := self.peek()) is not None and top[0] <= now:
            connection = heapq.heappop(self._heap)[2]
            connection.scheduled_at = None
            due.append(connection)
        return due

    def peek(self) -> tuple[Instant, str] | None:
        """Returns the earliest deadline and its reason."""
        while self._heap:
            deadline, _, connection, reason = self._heap[0]
            if connection.scheduled_at == deadline:
                return deadline, reason
            heapq.heappop(self._heap)
        return None

    def _sweep(self) -> None:
        """Throws out what deadlines that moved forward, and connections that are gone, left behind."""
        self._heap = [entry for entry in self._heap if entry[2].scheduled_at == entry[0]]
        heapq.heapify(self._heap)
        self._sweep_at = max(MIN_SWEEP, 2 * len(self._heap))


def _username_of(connection: Connection) -> str:
    return f"{connection.terms.local.ufrag}:{connection.terms.remote.ufrag}"
