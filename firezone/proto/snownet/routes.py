"""From a nominated pair to the datagrams that leave: straight from a socket of ours, or through the relay that lent the address.

Keeps the compiled path in line: channels are bound, expire and are lost behind the back of ICE, which knows addresses only.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.ids import PeerRow, RelayId
from firezone.base.net import Endpoint, Transmit
from firezone.base.timing import Instant
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.snownet.events import Outbox
from firezone.proto.snownet.relays import RelayBook

MAX_AWAITING = 8192
"""Channels asked for by checks and not granted yet, for all relays; twice what one relay grants. The oldest are forgotten."""


@dataclass(frozen=True, slots=True)
class Path:
    """How to reach the peer."""

    local: Endpoint
    """Address the datagrams leave from; of a relayed path the one that a relay lent us."""
    remote: Endpoint
    is_relayed: bool = False
    """Whether they leave as channel data to that relay."""


class Routes:
    """Sends for all connections of a node."""

    def __init__(self, relays: RelayBook, store: SessionStore, outbox: Outbox) -> None:
        self._relays = relays
        self._store = store
        self._outbox = outbox
        self._relayed: dict[Path, dict[PeerRow, None]] = {}
        """Who is sent to over each relayed path: one peer, for a moment two."""
        self._awaiting: dict[tuple[Endpoint, Endpoint], dict[PeerRow, None]] = {}

    def path_to(self, local: Endpoint, remote: Endpoint) -> Path:
        """Returns the path that a pair stands for at this moment."""
        return Path(local, remote, self._relays.lending(local) is not None)

    def lender_of(self, path: Path) -> RelayId | None:
        """Returns the relay that sends for us on this path."""
        return self._relays.lender_of(path.local) if path.is_relayed else None

    def send(
        self,
        local: Endpoint,
        remote: Endpoint,
        payload: bytes,
        now: Instant,
        *,
        is_relayed: bool = False,
        row: PeerRow | None = None,
    ) -> int:
        """Sends one datagram and returns its size. Over a relay it is lost while there is no channel, which is asked for then.

        `is_relayed` tells that `local` was lent to us: if it is not any more, nothing can be sent from it. `row` is whose check it
        is, who is named by `take_awaiting` once the channel is granted.
        """
        allocation = self._relays.lending(local)
        if allocation is not None:
            if row is not None and not allocation.has_channel(remote):
                self._await(local, remote, row)
            transmit = allocation.encapsulate(remote, payload, now)
        else:
            transmit = None if is_relayed else Transmit(local, remote, payload)
        if transmit is None:
            return 0
        self._outbox.transmits.append(transmit)
        return len(transmit.payload)

    def take_awaiting(self, local: Endpoint, remote: Endpoint) -> list[PeerRow]:
        """Returns whose checks between a lent address and a peer were sent before there was a channel, and forgets it."""
        return list(self._awaiting.pop((local, remote), ()))

    def take(self, row: PeerRow, path: Path, former: Path | None, now: Instant) -> None:
        """Makes this the path of a peer's data."""
        self.leave(row, former)
        if path.is_relayed:
            self._relayed.setdefault(path, {})[row] = None
        self._write(row, path, now)

    def leave(self, row: PeerRow, path: Path | None) -> None:
        """Is told that a peer is not sent to over this path any more."""
        rows = self._relayed.get(path) if path is not None else None
        if rows is not None and path is not None:
            rows.pop(row, None)
            if not rows:
                del self._relayed[path]

    def refresh(self, path: Path, now: Instant) -> None:
        """Is told that the channel of a relayed path is another one or gone."""
        for row in self._relayed.get(path, ()):
            self._write(row, path, now)

    def note_sent(self, path: Path, now: Instant) -> None:
        """Is told that the compiled path sent data over this path."""
        allocation = self._relays.lending(path.local) if path.is_relayed else None
        if allocation is not None:
            allocation.note_sent(now)

    def _await(self, local: Endpoint, remote: Endpoint, row: PeerRow) -> None:
        self._awaiting.setdefault((local, remote), {})[row] = None
        if len(self._awaiting) > MAX_AWAITING:
            del self._awaiting[next(iter(self._awaiting))]

    def _write(self, row: PeerRow, path: Path, now: Instant) -> None:
        """Without a channel the peer has no path: its packets come to the machine one by one, which asks for a channel."""
        if not path.is_relayed:
            self._store.set_path(row, path.local, path.remote)
            return
        allocation = self._relays.lending(path.local)
        number = None if allocation is None else allocation.channel_to(path.remote, now)
        if allocation is None or number is None:
            self._store.set_path(row, None, None)
        else:
            self._store.set_path(row, None, allocation.active_server, number)
