"""One WireGuard peer: its handshakes in both roles, its timers and the packets that wait for a session (paper 5 and 6).

The fast path seals and opens data in the `SessionStore` without us and reports by `on_activity`; whatever it punts comes here.
The caller sends what `poll_transmit` gives over the peer's path, wakes us at `poll_timeout`, and finds the peer of a datagram:
by `wire.wireguard.receiver_index`, or for an initiation by `cookie.receive_initiation`.

An *attempt* is the wish for a new session. It usually has an initiation of ours in flight. When the peer's own initiation
crosses ours, ours is not sent again (two peers would go on replacing each other's sessions), but the wish stays, so that
losing both answers does not leave both sides waiting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from firezone.base.errors import NoSession, RemoteError, WireError
from firezone.base.ids import PeerRow, ReceiverIndex, SessionSlot
from firezone.base.rng import Rng, below
from firezone.base.timing import Instant, UnixTime, earliest
from firezone.proto.noise.cookie import CookieDemand, RateLimiter, ReceivedCookie, receive_initiation
from firezone.proto.noise.handshake import (
    PendingInitiation,
    ReceivedInitiation,
    RemoteKeys,
    StaticKeys,
    initiate,
    sign,
    tai64n,
)
from firezone.proto.noise.index import IndexSequence
from firezone.proto.noise.keyring import Keyring, LiveSession
from firezone.proto.noise.plaintext import cut_to_packet
from firezone.proto.noise.sessions import SessionStore
from firezone.proto.noise.timers import FIREZONE, PeerTiming, TrafficTimers
from firezone.wire.wireguard import CookieReply, Data, Initiation, Response, decode

MAX_QUEUED_PACKETS = 256
"""Packets that wait for a session, at most 320 KiB; the newest are dropped beyond it (baseline's figure)."""
MAX_QUEUED_TRANSMITS = 512
"""Datagrams that wait to be polled: a flushed queue and the handshake before it, twice. The oldest are dropped beyond it."""


@dataclass(frozen=True, slots=True)
class Established:
    """A handshake was completed: by us as initiator, or answered by us as responder."""

    is_first: bool
    """No handshake of this peer was completed before."""
    session: SessionSlot
    is_initiator: bool


@dataclass(frozen=True, slots=True)
class Expired:
    """The peer is unreachable: sessions and queue are gone. A later packet or `initiate` starts anew."""

    reason: str


@dataclass(slots=True)
class _Attempt:
    """The wish for a new session."""

    started_at: Instant
    """When its first initiation was sent, or when the peer's crossed it."""
    retry_at: Instant
    """When the next initiation is due, jitter included."""
    is_in_flight: bool
    """An initiation of ours is unanswered; otherwise a session of the peer's making waits for its first message."""


@dataclass(slots=True)
class _Sent:
    """An initiation of ours with the time it left."""

    pending: PendingInitiation
    at: Instant


class Peer:
    """The WireGuard state towards one remote static key."""

    def __init__(
        self,
        *,
        static: StaticKeys,
        remote_public: bytes,
        preshared_key: bytes | None,
        indices: IndexSequence,
        row: PeerRow,
        store: SessionStore,
        limiter: RateLimiter,
        rng: Rng,
        now: Instant,
        timing: PeerTiming = FIREZONE,
    ) -> None:
        """Builds a peer without sessions. Raises RemoteError when the remote key is a point of small order."""
        self._static = static
        self._remote = RemoteKeys(static, remote_public, preshared_key)
        self._indices = indices
        self._store = store
        self._limiter = limiter
        self._rng = rng
        self._timing = timing
        self._keyring = Keyring(store, row, timing)
        self._traffic = TrafficTimers(timing)
        self._cookie = ReceivedCookie()

        self._attempt: _Attempt | None = None
        self._rekey_at: Instant | None = None
        self._latest: _Sent | None = None
        self._previous: _Sent | None = None
        self._fresh_since: Instant | None = now
        self._last_stamp_sent: UnixTime = 0
        self._last_stamp_received = b""

        self._queue: deque[bytes] = deque()
        self._transmits: deque[bytes] = deque(maxlen=MAX_QUEUED_TRANSMITS)
        self._events: deque[Established | Expired] = deque()
        self._has_handshaken = False

        self.row = row
        self.last_handshake_at: Instant | None = None
        """When the newest session was established."""
        self.last_rtt_ns: int | None = None
        """Time from our last answered initiation to its response."""
        self.sent_bytes = self.received_bytes = 0
        """Of packets, without overhead; the caller adds what the fast path reports."""
        self.dropped_packets = 0
        """Packets that found the queue full or were given up with it."""

    # inputs

    def handle_message(self, datagram: bytes, source_ip: bytes, now: Instant, utc: UnixTime) -> bytes | None:
        """Takes a datagram of this peer: a handshake message, a cookie reply or, on the slow path, data.

        `source_ip` is where it came from; for a relayed one, the address behind the relay.
        Returns:   the IP packet of a data message, None otherwise.
        Raises:    RemoteError when the datagram is refused; nothing has changed then.
        """
        try:
            message = decode(datagram)
        except WireError as error:
            raise RemoteError(str(error)) from error
        match message:
            case Initiation():
                self._judge_initiation(datagram, source_ip, now)
            case Response():
                self._judge_response(message, datagram, source_ip, now)
            case CookieReply():
                self._cookie.accept(message, self._remote, now)
            case Data():
                return self._open_data(datagram, now)
        return None

    def handle_initiation(self, received: ReceivedInitiation, now: Instant) -> None:
        """Answers an initiation that `receive_initiation` admitted and that carries this peer's static key.

        Raises: RemoteError when it is forged or replayed; nothing has changed then.
        """
        if received.remote_public != self.remote_public:
            raise RemoteError("An initiation was handed to a peer with another static key.")
        stamp, authentic = received.open_timestamp(self._remote)
        if stamp <= self._last_stamp_received:
            raise RemoteError("An initiation's timestamp is not newer than the last one accepted: it is replayed.")
        index = self._next_index()
        response, keys = authentic.answer(self._remote, index, self._rng)
        self._last_stamp_received = stamp
        self._yield_to_peer(now)
        session = self._keyring.add(keys, index, received.message.sender, is_initiator=False, now=now)
        self._traffic.on_received()
        self._send_handshake(response, now)
        self._note_established(session, now)

    def encapsulate(self, packet: bytes, now: Instant, utc: UnixTime) -> None:
        """Seals a packet, or queues it and asks for a session when there is none to send on."""
        if (session := self._keyring.sendable(now)) is not None:
            self._seal(session, packet, now)
            return
        if len(self._queue) < MAX_QUEUED_PACKETS:
            self._queue.append(packet)
        else:
            self.dropped_packets += 1
        self._want_session(now, utc)

    def on_activity(self, session: SessionSlot, sent: int, received: int, keepalives: int, now: Instant) -> None:
        """Notes what the fast path did on a session: data messages sent and received, and keepalives received.

        The order within one report is unknown. Received data counts as later, which at worst costs one keepalive.
        """
        live = self._keyring.find(session)
        if live is None:
            return
        if sent:
            live.has_sent_data = True
            self._traffic.on_data_sent(now)
        if received or keepalives:
            self._note_received(live, has_data=received > 0, now=now)

    def initiate(self, now: Instant, utc: UnixTime) -> None:
        """Starts a handshake without delay, unless one of ours is in flight."""
        if not self.is_handshake_in_flight:
            self._start_attempt(now, utc)

    def handle_timeout(self, now: Instant, utc: UnixTime) -> None:
        """Does everything that is due."""
        if self._fresh_since is not None and now >= self._fresh_since + self._timing.expire_after:
            self._expire("no new session for too long")
            return
        self._forget_unanswered(now)
        self._drop_rejected(now)
        if self._attempt is not None:
            self._continue_attempt(self._attempt, now, utc)
        else:
            self._maybe_rekey(now, utc)
        self._maybe_keepalive(now, utc)

    def close(self) -> None:
        """Forgets all keys and everything queued. The peer's row belongs to the caller."""
        self._wipe()
        self._fresh_since = None
        self._transmits.clear()
        self._events.clear()

    # outputs

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when `handle_timeout` has something to do next, and what."""
        timing = self._timing
        return earliest(
            *self._session_deadlines(),
            _deadline(self._traffic.keepalive_at, "send keepalive"),
            _deadline(self._keyring.next_reject_at(), "drop session"),
            *(_deadline(sent.at + timing.rekey_attempt, "forget initiation") for sent in self._unanswered()),
            None if self._fresh_since is None else (self._fresh_since + timing.expire_after, "expire peer"),
        )

    def poll_transmit(self) -> bytes | None:
        """Returns the next datagram for the peer's path."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Established | Expired | None:
        """Returns the next event."""
        return self._events.popleft() if self._events else None

    # queries

    @property
    def remote_public(self) -> bytes:
        """The peer's static key."""
        return self._remote.public

    @property
    def is_handshake_in_flight(self) -> bool:
        """An initiation of ours waits for its answer and is sent again if none comes."""
        return self._attempt is not None and self._attempt.is_in_flight

    @property
    def has_session(self) -> bool:
        """A session that may be sent on exists; whether it is young enough is decided when sending."""
        return self._keyring.current is not None

    @property
    def queued_packets(self) -> int:
        """Packets that wait for a session."""
        return len(self._queue)

    def __repr__(self) -> str:
        return f"Peer(remote_public={self.remote_public.hex()[:8]}…, row={self.row}, sessions={len(self._keyring)})"

    # handshake messages

    def _judge_initiation(self, datagram: bytes, source_ip: bytes, now: Instant) -> None:
        received = receive_initiation(self._static, self._limiter, datagram, source_ip, now)
        if isinstance(received, CookieDemand):
            self._transmits.append(received.reply)
        else:
            self.handle_initiation(received, now)

    def _judge_response(self, response: Response, datagram: bytes, source_ip: bytes, now: Instant) -> None:
        if (reply := self._limiter.admit(datagram, source_ip, now)) is not None:
            self._transmits.append(reply)
            return
        sent = self._find_sent(response.receiver)
        keys = sent.pending.accept(response, self._static, self._remote)
        self._forget_sent(sent)
        self.last_rtt_ns = now - sent.at
        session = self._keyring.add(keys, sent.pending.index, response.sender, is_initiator=True, now=now)
        self._traffic.on_received()
        self._end_attempt()
        self._note_established(session, now)
        self._send_keepalive(session)
        self._flush_queue(session, now)

    def _unanswered(self) -> list[_Sent]:
        return [sent for sent in (self._latest, self._previous) if sent is not None]

    def _find_sent(self, index: ReceiverIndex) -> _Sent:
        for sent in self._unanswered():
            if sent.pending.index == index:
                return sent
        raise RemoteError("A handshake response answers none of our initiations.")

    def _forget_sent(self, sent: _Sent) -> None:
        if sent is self._latest:
            self._latest = None
        else:
            self._previous = None

    def _yield_to_peer(self, now: Instant) -> None:
        """Leaves the handshake to the peer that has just started one of its own; ours stays answerable."""
        if self._latest is not None:
            self._previous, self._latest = self._latest, None
        self._rekey_at = None
        if self._attempt is not None:
            self._attempt = _Attempt(now, self._retry_at(now), is_in_flight=False)

    def _note_established(self, session: LiveSession, now: Instant) -> None:
        self.last_handshake_at = self._fresh_since = now
        self._events.append(Established(not self._has_handshaken, session.slot, session.is_initiator))
        self._has_handshaken = True

    def _send_initiation(self, now: Instant, utc: UnixTime) -> None:
        """Sends an initiation with a new ephemeral key, index and stamp; the one before stays answerable."""
        # Two initiations at the same instant, or a wall clock set back, must not look like a replay.
        self._last_stamp_sent = max(utc, self._last_stamp_sent + 1)
        message, pending = initiate(self._static, self._remote, self._next_index(), tai64n(self._last_stamp_sent), self._rng)
        if self._latest is not None:
            self._previous = self._latest
        self._latest = _Sent(pending, now)
        self._send_handshake(message, now)

    def _send_handshake(self, message: Initiation | Response, now: Instant) -> None:
        datagram = sign(message, self._remote.mac1_key, self._cookie.current(now))
        self._cookie.remember_sent(message, datagram)
        self._transmits.append(datagram)
        self._traffic.on_other_sent()

    def _next_index(self) -> ReceiverIndex:
        """Returns an index that nothing alive is found by: after 256 handshakes they come round again."""
        in_use = [sent.pending.index for sent in self._unanswered()]
        while True:
            index = self._indices.next()
            if index not in in_use and not self._keyring.has_index(index):
                return index

    # attempts and timers

    def _want_session(self, now: Instant, utc: UnixTime) -> None:
        """Asks for a session, unless that is under way; one that the peer is about to confirm is waited for."""
        if self._attempt is not None:
            return
        waiting_since = self._keyring.unconfirmed_since()
        if waiting_since is not None and now < waiting_since + self._timing.rekey_timeout:
            self._rekey_at = None
            self._attempt = _Attempt(now, self._retry_at(waiting_since), is_in_flight=False)
        else:
            self._start_attempt(now, utc)

    def _start_attempt(self, now: Instant, utc: UnixTime) -> None:
        self._rekey_at = None
        self._attempt = _Attempt(now, self._retry_at(now), is_in_flight=True)
        self._send_initiation(now, utc)

    def _continue_attempt(self, attempt: _Attempt, now: Instant, utc: UnixTime) -> None:
        if now >= attempt.started_at + self._timing.rekey_attempt:
            self._expire("handshake not answered")
        elif now >= attempt.retry_at:
            attempt.retry_at = self._retry_at(now)
            attempt.is_in_flight = True
            self._send_initiation(now, utc)

    def _end_attempt(self) -> None:
        self._attempt = self._rekey_at = None

    def _retry_at(self, sent_at: Instant) -> Instant:
        return sent_at + self._timing.rekey_timeout + self._jitter()

    def _jitter(self) -> int:
        return below(self._rng, self._timing.max_jitter + 1)

    def _maybe_rekey(self, now: Instant, utc: UnixTime) -> None:
        if self._rekey_at is None and any(deadline is not None and now >= deadline[0] for deadline in self._rekey_causes()):
            self._rekey_at = now + self._jitter()
        if self._rekey_at is not None and now >= self._rekey_at:
            self._want_session(now, utc)

    def _rekey_causes(self) -> tuple[tuple[Instant, str] | None, ...]:
        current = self._keyring.current
        return (
            None if current is None else current.renewal(self._timing),
            _deadline(self._traffic.no_answer_at, "no answer to data"),
        )

    def _session_deadlines(self) -> tuple[tuple[Instant, str] | None, ...]:
        """Returns the deadlines that lead to a new session: those of the attempt, else what would start one."""
        if (attempt := self._attempt) is not None:
            give_up = attempt.started_at + self._timing.rekey_attempt
            return (attempt.retry_at, "send initiation again"), (give_up, "give up handshake")
        if self._rekey_at is not None:
            return ((self._rekey_at, "send initiation"),)
        return self._rekey_causes()

    def _drop_rejected(self, now: Instant) -> None:
        dropped = self._keyring.drop_rejected(now)
        if dropped is not None and dropped.is_initiator and self._attempt is None and self._rekey_at is None:
            self._rekey_at = now + self._jitter()

    def _forget_unanswered(self, now: Instant) -> None:
        """Drops initiations that are too old to be answered, and their ephemeral keys with them."""
        if self._previous is not None and now >= self._previous.at + self._timing.rekey_attempt:
            self._previous = None
        if self._latest is not None and now >= self._latest.at + self._timing.rekey_attempt:
            self._latest = None

    def _maybe_keepalive(self, now: Instant, utc: UnixTime) -> None:
        due = self._traffic.keepalive_at
        if due is None or now < due:
            return
        if (session := self._keyring.sendable(now)) is not None:
            self._send_keepalive(session)
        else:
            self._traffic.on_other_sent()
            self._want_session(now, utc)

    def _expire(self, reason: str) -> None:
        self._wipe()
        self._fresh_since = None
        self._events.append(Expired(reason))

    def _wipe(self) -> None:
        self._keyring.clear()
        self.dropped_packets += len(self._queue)
        self._queue.clear()
        self._latest = self._previous = None
        self._traffic.clear()
        self._end_attempt()

    # data

    def _seal(self, session: LiveSession, packet: bytes, now: Instant) -> None:
        self._transmits.append(self._store.seal(session.slot, packet))
        session.has_sent_data = True
        self.sent_bytes += len(packet)
        self._traffic.on_data_sent(now)

    def _send_keepalive(self, session: LiveSession) -> None:
        self._transmits.append(self._store.seal(session.slot, b""))
        self._traffic.on_other_sent()

    def _flush_queue(self, session: LiveSession, now: Instant) -> None:
        while self._queue:
            self._seal(session, self._queue.popleft(), now)

    def _open_data(self, datagram: bytes, now: Instant) -> bytes | None:
        try:
            slot, _, plaintext = self._store.open(datagram, now)
        except NoSession as error:
            raise RemoteError("A data message is for no session of ours.") from error
        live = self._keyring.find(slot)
        if live is None:
            raise RemoteError("A data message was handed to a peer that it is not for.")
        self._note_received(live, has_data=bool(plaintext), now=now)
        if not plaintext:
            return None
        packet = cut_to_packet(plaintext)
        self.received_bytes += len(packet)
        return packet

    def _note_received(self, session: LiveSession, *, has_data: bool, now: Instant) -> None:
        if has_data:
            session.has_received_data = True
            self._traffic.on_data_received(now)
        else:
            self._traffic.on_received()
        if not session.is_confirmed:
            self._confirm(session, now)

    def _confirm(self, session: LiveSession, now: Instant) -> None:
        """Starts sending on a session that we answered, now that the peer has shown to have its keys."""
        self._keyring.confirm(session)
        attempt = self._attempt
        if attempt is not None and (not attempt.is_in_flight or session.established_at >= attempt.started_at):
            self._end_attempt()
        if (sendable := self._keyring.sendable(now)) is not None:
            self._flush_queue(sendable, now)


def _deadline(at: Instant | None, reason: str) -> tuple[Instant, str] | None:
    return None if at is None else (at, reason)
