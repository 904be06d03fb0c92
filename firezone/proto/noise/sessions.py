"""Where established sessions live: the seam between the handshake machines and the compiled session table.

`kernels.session.SessionTable` is the store of programs; `tests/harness/sessions.py` is its slow twin.
"""

from __future__ import annotations

from typing import Protocol

from firezone.base.ids import PeerRow, SessionSlot
from firezone.base.net import Endpoint
from firezone.base.timing import Instant


class SessionStore(Protocol):
    """Keys, counters, replay windows and paths of all peers.

    `seal` and `open` are the slow path and are *not* part of the activity that the store reports: who calls them knows.
    """

    def add_peer(self) -> PeerRow:
        """Returns the row of a new peer, without sessions and without a path."""
        ...

    def remove_peer(self, peer: PeerRow) -> None:
        """Forgets the peer, its path and its sessions; their keys are wiped."""
        ...

    def install(
        self,
        peer: PeerRow,
        local_index: int,
        remote_index: int,
        send_key: bytes,
        receive_key: bytes,
        reject_after: Instant,
    ) -> SessionSlot:
        """Makes a session that can be opened until `reject_after`. It is not sent on before `use_for_sending`."""
        ...

    def remove(self, session: SessionSlot) -> None:
        """Forgets one session and wipes its keys; a peer that sent on it sends on none."""
        ...

    def use_for_sending(self, peer: PeerRow, session: SessionSlot | None, until: Instant) -> None:
        """Makes this the session the peer's packets are sealed with; past `until` they are punted with NO_PATH."""
        ...

    def set_path(self, peer: PeerRow, local: Endpoint | None, remote: Endpoint | None, channel: int = 0) -> None:
        """Says where the peer's datagrams go; without `remote` the peer has no path."""
        ...

    def seal(self, session: SessionSlot, packet: bytes) -> bytes:
        """Returns the whole data message for a packet; an empty one is a keepalive.

        Raises: NoSession when the slot holds none, LocalError when its counters are used up.
        """
        ...

    def open(self, datagram: bytes, now: Instant) -> tuple[SessionSlot, PeerRow, bytes]:
        """Authenticates a data message and marks its counter as seen.

        Raises: NoSession for an unknown index, RemoteError for a bad tag, a replay or an expired session.
        """
        ...
