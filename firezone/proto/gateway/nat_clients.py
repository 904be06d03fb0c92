"""Which number each client has in the compiled NAT, and on which peer row it is: kept in line by as few updates as will do."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.ids import NatClient
from firezone.proto.updates import NatAttached, NatDetached, NatRemoved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from firezone.base.ids import ConnectionId, PeerRow
    from firezone.proto.updates import TableUpdate


@dataclass(slots=True)
class NatClients:
    """Clients get a number with their first name and keep it until they are forgotten."""

    _numbers: dict[ConnectionId, NatClient] = field(default_factory=dict)
    _rows: dict[ConnectionId, PeerRow] = field(default_factory=dict)
    _on_row: dict[PeerRow, ConnectionId] = field(default_factory=dict)
    _free: list[NatClient] = field(default_factory=list)
    _next: int = 0

    def number_of(self, cid: ConnectionId) -> NatClient:
        """Returns the number of a client, a new one if it has none."""
        number = self._numbers.get(cid)
        if number is None:
            if self._free:
                number = heapq.heappop(self._free)
            else:
                number, self._next = NatClient(self._next), self._next + 1
            self._numbers[cid] = number
        return number

    def place(self, cid: ConnectionId, row: PeerRow | None) -> Iterator[TableUpdate]:
        """Brings the row of a client in line; None: it has no connection. A client without a number needs none."""
        known = self._rows.get(cid)
        if cid not in self._numbers or known == row:
            return
        if known is not None:
            del self._rows[cid]
            if self._on_row[known] == cid:  # Else another client has taken the row over.
                del self._on_row[known]
                yield NatDetached(known)
        if row is not None:
            self._rows[cid], self._on_row[row] = row, cid
            yield NatAttached(row, self._numbers[cid])

    def remove(self, cid: ConnectionId) -> Iterator[TableUpdate]:
        """Forgets a client."""
        yield from self.place(cid, None)
        number = self._numbers.pop(cid, None)
        if number is not None:
            heapq.heappush(self._free, number)
            yield NatRemoved(number)
