"""The life of a device's channel at the portal: connect, join, heartbeat, lose it, try again. Pure: frames and time in and out.

Whoever owns the WebSocket (`firezone.loop.portal_connection`) obeys `poll_event`: `Connect` opens one, `Drop` forgets or closes
it. It reports what happens with the attempt number of its `Connect`, so that news of an older socket is recognised and ignored.

Source: portal protocol sections 3, 4 and 11.3.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

import msgspec

from firezone.base.errors import PortalError, WireError
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant, UnixTime, earliest
from firezone.proto.phoenix.retry import STABLE_AFTER, RetrySchedule, UpgradeRejected, parse_retry_after
from firezone.wire.phoenix import (
    HEARTBEAT,
    HEARTBEAT_TOPIC,
    PHX_JOIN,
    UNMATCHED_TOPIC,
    ChannelClosed,
    ChannelError,
    Disconnected,
    Push,
    ReplyError,
    ReplyOk,
    TruncatedFrame,
    decode_inbound,
    encode_frame,
)

CONNECT_TIMEOUT = 15 * SECOND
"""For TCP, TLS and upgrade together: a portal that accepts and says nothing must not hold us for ever."""
HURRY_AFTER = SECOND
"""An attempt older than this has lost its packets if it could have succeeded by now, and TCP repeats them ever more slowly."""
PATIENCE = 60 * SECOND
"""So long into an outage a user's packets make us try at once. Later, and for a portal that is down for all, only the growing
pauses do."""
JOIN_TIMEOUT = 5 * SECOND
HEARTBEAT_INTERVAL = 10 * SECOND
"""Regardless of other traffic. Portals close a gateway after 37 s of silence."""
MAX_UNANSWERED_HEARTBEATS = 3
"""One more and the connection counts as dead: noticed after 40 to 50 s."""
MAX_QUEUE = 32
"""A message that finds more than this many waiting empties the queue first: after an outage the newest is what counts."""


class State(enum.Enum):
    CLOSED = enum.auto()
    WAITING = enum.auto()
    CONNECTING = enum.auto()
    JOINING = enum.auto()
    JOINED = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a WebSocket now."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the WebSocket of this attempt, or stop opening it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Joined:
    """The portal accepted the join; `init` follows."""


@dataclass(frozen=True, slots=True)
class Received:
    """An application message."""

    event: str
    payload: msgspec.Raw

    def __repr__(self) -> str:
        return f"Received(event={self.event!r})"


@dataclass(frozen=True, slots=True)
class Refused:
    """The portal refused a message of ours."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A frame that means nothing; `why` holds no secrets."""

    why: str


@dataclass(frozen=True, slots=True)
class Hiccup:
    """The connection failed; the next attempt comes in `delay_ns`."""

    why: str
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Fatal:
    """The end: trying again cannot help, or the budget is spent."""

    error: PortalError


Event = Connect | Drop | Joined | Received | Refused | Ignored | Hiccup | Fatal


@dataclass(slots=True)
class _Outgoing:
    event: str
    payload: bytes


class PhoenixChannel:
    """One topic on one WebSocket at a time."""

    def __init__(self, topic: str, *, rng: Rng, join_payload: bytes = b"null", max_partition_ns: int | None = None) -> None:
        """Makes a closed channel; `connect` opens it. `max_partition_ns` None tries for ever once the portal was reached."""
        self._topic = topic
        self._join_payload = join_payload
        self._retry = RetrySchedule(rng, max_partition_ns)
        self._state = State.CLOSED
        self._attempt = 0
        self._opened_at: Instant = 0
        self._next_ref = 0
        self._deadline: Instant | None = None
        """Of the present state: end of the pause, of connecting, of joining."""
        self._is_pause_asked_for = False
        """The portal named the present pause, by Retry-After: nobody comes earlier."""
        self._joined_at: Instant | None = None
        self._lost_at: Instant | None = None
        """When we were joined last, while we are not."""
        self._heartbeat_at: Instant | None = None
        self._is_heartbeat_due = False
        self._unanswered: set[int] = set()
        self._join_refs: set[int] = set()
        self._is_join_due = False
        self._queue: deque[_Outgoing] = deque()
        self._writing: tuple[_Outgoing, int] | None = None
        self._events: deque[Event] = deque()

    @property
    def state(self) -> State:
        return self._state

    def connect(self, now: Instant) -> None:
        """Connects at once with a fresh series of retries; not for the first time, drops the WebSocket and what was queued."""
        if self._state is State.FAILED:
            return
        if self._joined_at is not None:
            self._lost_at = now
        self._drop()
        if self._state is not State.CLOSED:
            self._queue.clear()
        self._retry.restart()
        self._open(now)

    def hurry(self, now: Instant, *, is_wanted: bool = False) -> None:
        """Does not wait any longer, because the network is better now: tries at once, with a fresh series of retries.

        `is_wanted`: only because somebody waits; that counts in the first minute of an outage and leaves the series as it is.
        """
        if is_wanted and (self._lost_at is None or now - self._lost_at > PATIENCE):
            return
        if self._state is State.WAITING and self._is_pause_asked_for:
            return
        if self._state is State.WAITING or (self._state is State.CONNECTING and now - self._opened_at >= HURRY_AFTER):
            self._drop()
            if not is_wanted:
                self._retry.restart()
            self._open(now)

    def close(self) -> None:
        """Ends for good."""
        self._drop()
        self._state = State.CLOSED
        self._deadline = None

    def send(self, event: str, payload: bytes) -> None:
        """Queues an application message. One that already waits is not queued twice."""
        message = _Outgoing(event, payload)
        if message in self._queue:
            return
        if len(self._queue) > MAX_QUEUE:
            self._queue.clear()
        self._queue.append(message)

    def handle_connected(self, attempt: int, now: Instant) -> None:
        """The upgrade succeeded."""
        if attempt != self._attempt or self._state is not State.CONNECTING:
            return
        self._state = State.JOINING
        self._deadline = now + JOIN_TIMEOUT
        self._heartbeat_at = now + HEARTBEAT_INTERVAL
        self._is_join_due = True

    def handle_rejected(self, attempt: int, answer: UpgradeRejected, now: Instant, utc: UnixTime) -> None:
        """The portal answered the upgrade with another status than 101. Only 401 is final."""
        if attempt != self._attempt or self._state is not State.CONNECTING:
            return
        if answer.status == 401:
            is_token = _names_token(answer)
            said = "the token is not valid" if is_token else "it is not the portal's own answer, or names no reason"
            error = PortalError(
                f"The portal refused the login with status 401: {said}.",
                reason="invalid_token" if is_token else "unauthorized", is_authentication_error=is_token,
            )  # fmt: skip
            self._fail(error)
            return
        pause = parse_retry_after(answer.retry_after, utc) if answer.retry_after else None
        self._retry_later(f"the portal answered with HTTP status {answer.status}", now, pause)

    def handle_disconnected(self, attempt: int, why: str, now: Instant) -> None:
        """The WebSocket could not be opened, broke, or was closed by the portal."""
        if attempt == self._attempt and self._state in (State.CONNECTING, State.JOINING, State.JOINED):
            self._retry_later(why, now)

    def handle_text(self, attempt: int, text: str | bytes, now: Instant) -> None:
        """Takes one text frame."""
        if attempt != self._attempt or self._state not in (State.JOINING, State.JOINED):
            return
        try:
            inbound = decode_inbound(text)
        except TruncatedFrame:
            self._retry_later("the portal sent a frame that ends too early", now)
            return
        except WireError as error:
            self._events.append(Ignored(str(error)))
            return
        if isinstance(inbound, (ReplyOk, ReplyError)) and self._writing is not None and inbound.ref == self._writing[1]:
            self.handle_sent(now)  # The answer overtook the confirmation of the write.
        match inbound:
            case Push():
                self._events.append(Received(inbound.event, inbound.payload))
            case ReplyOk():
                self._on_ok(inbound, now)
            case ReplyError():
                self._on_error(inbound, now)
            case ChannelError():
                # The socket stays, deaf; the next message is answered "unmatched topic" and brings the join.
                self._events.append(Ignored("the channel crashed on the portal"))
            case ChannelClosed():
                self._retry_later("the portal closed the channel", now)
            case Disconnected():
                self._fail(
                    PortalError("The portal ended the session: the token has expired.", reason="token_expired",
                                is_authentication_error=True)
                )  # fmt: skip

    def handle_sent(self, now: Instant) -> None:
        """Confirms that the frame of the last `poll_transmit` was written."""
        if self._writing is None:
            return
        message, ref = self._writing
        self._writing = None
        if message.event == HEARTBEAT:
            self._unanswered.add(ref)
        elif message.event == PHX_JOIN:
            self._join_refs.add(ref)
            self._deadline = now + JOIN_TIMEOUT

    def handle_timeout(self, now: Instant) -> None:
        """Does what is due."""
        if self._deadline is not None and now >= self._deadline:
            match self._state:
                case State.WAITING:
                    self._open(now)
                case State.CONNECTING:
                    self._retry_later("the portal did not answer", now)
                case State.JOINING:
                    self._retry_later("the portal did not answer the join", now)
        if self._heartbeat_at is not None and now >= self._heartbeat_at:
            self._heartbeat_at = now + HEARTBEAT_INTERVAL
            if len(self._unanswered) > MAX_UNANSWERED_HEARTBEATS:
                self._retry_later("the portal answers no heartbeats", now)
            else:
                self._is_heartbeat_due = True

    def poll_timeout(self) -> tuple[Instant, str] | None:
        return earliest(
            None if self._deadline is None else (self._deadline, f"portal {self._state.name.lower()}"),
            None if self._heartbeat_at is None else (self._heartbeat_at, "portal heartbeat"),
        )

    def poll_transmit(self) -> str | None:
        """Returns the next frame to write; nothing more until `handle_sent` or the end of the connection."""
        if self._writing is not None or self._state not in (State.JOINING, State.JOINED):
            return None
        if self._is_join_due:
            self._is_join_due = False
            return self._write(self._topic, _Outgoing(PHX_JOIN, self._join_payload))
        if self._is_heartbeat_due and self._state is State.JOINED:
            self._is_heartbeat_due = False
            return self._write(HEARTBEAT_TOPIC, _Outgoing(HEARTBEAT, b"{}"))
        if self._queue and self._state is State.JOINED:
            return self._write(self._topic, self._queue.popleft())
        return None

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def _write(self, topic: str, message: _Outgoing) -> str:
        ref = self._next_ref
        self._next_ref += 1
        self._writing = (message, ref)
        return encode_frame(topic, message.event, message.payload, ref)

    def _on_ok(self, reply: ReplyOk, now: Instant) -> None:
        if not reply.is_empty_object:
            return
        self._unanswered.discard(reply.ref)
        if self._state is State.JOINING and reply.ref in self._join_refs:
            self._state = State.JOINED
            self._deadline = None
            self._join_refs.clear()
            self._joined_at = self._joined_at or now
            self._lost_at = None
            self._retry.on_reached()
            self._events.append(Joined())

    def _on_error(self, reply: ReplyError, now: Instant) -> None:
        if reply.topic == self._topic and reply.ref in self._join_refs:
            self._fail(PortalError(f"The portal refused the join: {reply.reason}.", reason=reply.reason))
            return
        self._events.append(Refused(reply.reason))
        if reply.topic == self._topic and reply.reason == UNMATCHED_TOPIC and self._state is State.JOINED:
            self._state = State.JOINING
            self._deadline = now + JOIN_TIMEOUT
            self._is_join_due = True

    def _open(self, now: Instant) -> None:
        self._attempt += 1
        self._opened_at = now
        self._state = State.CONNECTING
        self._deadline = now + CONNECT_TIMEOUT
        self._events.append(Connect(self._attempt))

    def _drop(self) -> None:
        """Forgets everything that belongs to one connection."""
        if self._state in (State.CONNECTING, State.JOINING, State.JOINED):
            self._events.append(Drop(self._attempt))
        if self._writing is not None and self._writing[0].event not in (HEARTBEAT, PHX_JOIN):
            self._queue.appendleft(self._writing[0])
        self._writing = None
        self._joined_at = None
        self._heartbeat_at = None
        self._is_heartbeat_due = False
        self._is_join_due = False
        self._unanswered.clear()
        self._join_refs.clear()

    def _retry_later(self, why: str, now: Instant, pause: int | None = None) -> None:
        if self._joined_at is not None:
            self._lost_at = now
        if self._joined_at is not None and now - self._joined_at >= STABLE_AFTER:
            self._retry.restart()
        delay = pause if pause is not None else self._retry.next_delay(now)
        if delay is None:
            self._fail(PortalError(f"The portal cannot be reached: {why}; max retries reached.", reason="max_retries"))
            return
        self._drop()
        self._state = State.WAITING
        self._is_pause_asked_for = pause is not None
        self._deadline = now + delay
        self._events.append(Hiccup(why, delay))

    def _fail(self, error: PortalError) -> None:
        self._drop()
        self._state = State.FAILED
        self._deadline = None
        self._events.append(Fatal(error))


def _names_token(answer: UpgradeRejected) -> bool:
    """Tells whether a 401 speaks of the token: by problem code, or in the words of portals that know no codes."""
    if answer.content_type.split(";")[0].strip() == "application/problem+json":
        try:
            problem = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False
        return isinstance(problem, dict) and problem.get("code") in ("invalid_token", "missing_token")
    return answer.body.strip() in ("Invalid token", "Missing token")
