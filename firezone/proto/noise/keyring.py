"""The live sessions of one peer: which may be opened, which one is sent on, and when each of them ends."""

from __future__ import annotations

from dataclasses import dataclass

from firezone.base.ids import PeerRow, ReceiverIndex, SessionSlot
from firezone.base.timing import Instant
from firezone.proto.noise.handshake import SessionKeys
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.noise.timers import PeerTiming

MAX_SESSIONS = 8
"""Sessions kept per peer: each handshake adds one and each lives 180 s."""


@dataclass(slots=True)
class LiveSession:
    """One session as the handshake side sees it; its keys are in the store alone."""

    slot: SessionSlot
    index: ReceiverIndex
    is_initiator: bool
    established_at: Instant
    sendable_until: Instant
    reject_at: Instant
    is_confirmed: bool
    """The peer has proven that it has the keys, so it may be sent on."""
    has_sent_data: bool = False
    has_received_data: bool = False

    def renewal(self, timing: PeerTiming) -> tuple[Instant, str] | None:
        """Returns when the initiator renews this session, by what went over it."""
        if not self.is_initiator:
            return None
        if self.has_sent_data:
            return self.established_at + timing.rekey_after, "renew session"
        if self.has_received_data:
            return self.established_at + timing.rekey_on_receive_after, "renew session"
        return None


class Keyring:
    """Up to eight sessions of one peer in a store."""

    def __init__(self, store: SessionStore, row: PeerRow, timing: PeerTiming) -> None:
        self._store = store
        self._row = row
        self._timing = timing
        self._sessions: dict[SessionSlot, LiveSession] = {}
        self.current: LiveSession | None = None
        """The session established last among the confirmed ones. An older one is never taken again."""

    def add(
        self, keys: SessionKeys, local: ReceiverIndex, remote: ReceiverIndex, *, is_initiator: bool, now: Instant
    ) -> LiveSession:
        """Installs the keys of a handshake. The initiator's session is sent on at once."""
        self._make_room()
        reject_at = now + self._timing.reject_after
        slot = self._store.install(self._row, local, remote, keys.send, keys.receive, reject_at)
        sendable_until = now + self._timing.initiator_stops_after if is_initiator else reject_at
        session = LiveSession(slot, local, is_initiator, now, sendable_until, reject_at, is_confirmed=False)
        self._sessions[slot] = session
        if is_initiator:
            self.confirm(session)
        return session

    def confirm(self, session: LiveSession) -> None:
        """Notes that the peer has the keys of a session; the newest such one becomes the one to send on."""
        session.is_confirmed = True
        if self.current is None or session.established_at >= self.current.established_at:
            self.current = session
            self._store.use_for_sending(self._row, session.slot, session.sendable_until)

    def find(self, slot: SessionSlot) -> LiveSession | None:
        """Returns the session in a slot, unless it is gone."""
        return self._sessions.get(slot)

    def sendable(self, now: Instant) -> LiveSession | None:
        """Returns the session to send on."""
        return self.current if self.current is not None and now < self.current.sendable_until else None

    def unconfirmed_since(self) -> Instant | None:
        """Returns when the newest session was established that waits for its first message, None without one."""
        waiting = [session.established_at for session in self._sessions.values() if not session.is_confirmed]
        return max(waiting, default=None)

    def has_index(self, index: ReceiverIndex) -> bool:
        """Tells whether a live session is found by this index."""
        return any(session.index == index for session in self._sessions.values())

    def drop_rejected(self, now: Instant) -> LiveSession | None:
        """Removes the sessions that are past their age and returns the one we sent on, if it was among them."""
        was = self.current
        for session in [session for session in self._sessions.values() if now >= session.reject_at]:
            self._remove(session)
        return was if self.current is None else None

    def next_reject_at(self) -> Instant | None:
        """Returns when the next session is dropped."""
        return min((session.reject_at for session in self._sessions.values()), default=None)

    def clear(self) -> None:
        """Removes all sessions; the store wipes their keys."""
        for session in list(self._sessions.values()):
            self._remove(session)

    def __len__(self) -> int:
        return len(self._sessions)

    def _make_room(self) -> None:
        """Removes the oldest session that is not sent on, so that a peer which only starts handshakes costs itself alone."""
        if len(self._sessions) >= MAX_SESSIONS:
            self._remove(next(session for session in self._sessions.values() if session is not self.current))

    def _remove(self, session: LiveSession) -> None:
        del self._sessions[session.slot]
        if self.current is session:
            self.current = None
        self._store.remove(session.slot)
