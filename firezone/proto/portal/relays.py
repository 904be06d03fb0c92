"""The relays that are online, and which of them each device is told of.

A relay is known by the secret it joins with: the same secret is the same relay with its allocations, another secret is another
one even at the same address. So one that only lost its WebSocket comes back as itself, and nobody hears of it if that happens
within the debounce; one that restarted is gone, and its successor is new.

Source: portal protocol sections 8, 9.10, 11.6, 11.7.
"""

from __future__ import annotations

import base64
import hashlib
import math
import uuid
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

from firezone.base.errors import WireError
from firezone.base.ids import RelayId
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND, Instant, earliest
from firezone.proto.portal.login import RelayLogin
from firezone.proto.portal.model import Device, Location, OnlineRelay, PolicyBook, StaticRelay, Token
from firezone.proto.portal.outputs import CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, Close, Notice, Output, Send
from firezone.proto.relay.auth import Username
from firezone.wire.phoenix import (
    HEARTBEAT,
    HEARTBEAT_TOPIC,
    PHX_JOIN,
    UNKNOWN_MESSAGE,
    UNMATCHED_TOPIC,
    Frame,
    decode_request,
    encode_frame,
    encode_reply,
)
from firezone.wire.portal import relay
from firezone.wire.portal.shared import PublicKey, RelaysPresence, TurnRelay, UnixSeconds

RELAYS_PER_DEVICE = 2
"""One may fail; more would only cost each device its keep-alives."""
PRESENCE_DEBOUNCE = SECOND
"""How long the relays must be left alone before devices hear of a change. A relay that only lost its WebSocket is back by then."""
LONGEST_DEBOUNCE = 5 * SECOND
"""A relay that comes and goes all the time does not hold back the news of the others for longer than this."""
IDLE_TIMEOUT = 41 * SECOND
"""A relay that said nothing for this long is gone; any frame counts."""
CREDENTIALS_EXPIRE_AT = UnixSeconds(2_145_916_800)
"""2038-01-01, for whoever has no expiry of their own. Constant, so that logging in again does not change the credentials and
costs nobody an allocation."""
JOIN_CRASHED = "join crashed"


@dataclass(slots=True, eq=False)
class RelayConnection:
    """One WebSocket of one relay."""

    number: int
    login: RelayLogin
    heard_at: Instant
    relay: OnlineRelay | None = None
    """Once it has joined."""

    @property
    def idle_at(self) -> Instant:
        return self.heard_at + IDLE_TIMEOUT


class Relays:
    """All relays of the account: those that are connected, and those the policy names."""

    def __init__(self, outputs: deque[Output]) -> None:
        self._outputs = outputs
        self._connections: dict[int, RelayConnection] = {}
        self._static: dict[RelayId, OnlineRelay] = {}
        self._changed_at: Instant | None = None
        """When the first change happened that nobody was told of."""
        self._due: Instant | None = None

    # connections

    def __contains__(self, number: int) -> bool:
        return number in self._connections

    def handle_connected(self, number: int, login: RelayLogin, now: Instant) -> None:
        """A WebSocket stands for a relay's login that was found good."""
        self._connections[number] = RelayConnection(number, login, now)

    def handle_text(self, number: int, text: str | bytes, now: Instant) -> None:
        """Takes one text frame of a relay."""
        connection = self._connections[number]
        connection.heard_at = now
        try:
            frame = decode_request(text)
        except WireError as error:
            self._notice("warning", "a relay sent what is no message", connection, why=str(error))
            self._close(connection, CLOSE_PROTOCOL_ERROR, now)
            return
        if frame.topic == HEARTBEAT_TOPIC and frame.event == HEARTBEAT:
            self._reply(connection, frame)
        elif frame.topic != relay.TOPIC or (connection.relay is None and frame.event != PHX_JOIN):
            self._reply(connection, frame, UNMATCHED_TOPIC)
        elif frame.event == PHX_JOIN:
            self._join(connection, frame, now)
        else:
            self._reply(connection, frame, UNKNOWN_MESSAGE)

    def handle_disconnected(self, number: int, now: Instant) -> None:
        """A relay's WebSocket is gone. The relay itself may well be alive."""
        connection = self._connections.pop(number, None)
        if connection is not None and connection.relay is not None:
            self.touch(now)
            self._notice("info", "relay disconnected", connection)

    def set_policy(self, book: PolicyBook, utc_s: int, now: Instant) -> None:
        """Ends the logins that the policy no longer has, and takes the relays it names."""
        for connection in list(self._connections.values()):
            token = book.tokens.get(connection.login.token.sha256)
            if token is None or not token.is_valid(utc_s):
                self._notice("info", "a login is no longer valid", connection)
                self._close(connection, CLOSE_NORMAL, now)
        static = {entry.id: entry for entry in map(_online, book.relays)}
        if static != self._static:
            self._static = static
            self.touch(now)

    def tokens(self) -> Iterable[Token]:
        """Returns what the connected relays logged in with."""
        return (connection.login.token for connection in self._connections.values())

    # time

    def touch(self, now: Instant) -> None:
        """Something has changed; devices hear of it when it has settled."""
        if self._changed_at is None:
            self._changed_at = now
        self._due = min(now + PRESENCE_DEBOUNCE, self._changed_at + LONGEST_DEBOUNCE)

    def handle_timeout(self, now: Instant) -> bool:
        """Ends silent connections. True: the relays have changed and settled, so every device is to be looked at."""
        for connection in list(self._connections.values()):
            if now >= connection.idle_at:
                self._notice("info", "a relay fell silent", connection)
                self._close(connection, CLOSE_GOING_AWAY, now)
        if self._due is None or now < self._due:
            return False
        self._changed_at = self._due = None
        return True

    def poll_timeout(self) -> tuple[Instant, str] | None:
        idle = min((connection.idle_at for connection in self._connections.values()), default=None)
        return earliest(
            None if idle is None else (idle, "idle relay"),
            None if self._due is None else (self._due, "relay presence"),
        )

    # selection

    def online(self) -> dict[RelayId, OnlineRelay]:
        """Returns the relays there are now, by id."""
        joined = (connection.relay for connection in self._connections.values() if connection.relay is not None)
        return {**self._static, **{entry.id: entry for entry in joined}}

    def select(self, device_id: str, near: Location | None, known: Container[RelayId] = ()) -> list[OnlineRelay]:
        """Chooses up to two relays for a device: those it knows already, then the nearest.

        Where nobody knows it is a draw that always ends the same for one device and one relay. So relays share the devices, and
        a device that logs in again gets the relays it has: others would come on top of those, not in their place.
        """

        def rank(entry: OnlineRelay) -> tuple[bool, float, bytes]:
            draw = hashlib.sha256(f"{device_id}:{entry.id}".encode()).digest()
            return entry.id not in known, distance_km(near, entry.location), draw

        return sorted(self.online().values(), key=rank)[:RELAYS_PER_DEVICE]

    # in detail

    def _join(self, connection: RelayConnection, frame: Frame, now: Instant) -> None:
        try:
            message = relay.TO_PORTAL.decode(frame.event, frame.payload)
        except WireError as error:
            self._notice("warning", "a relay joined without a good secret", connection, why=str(error))
            self._reply(connection, frame, JOIN_CRASHED)
            return
        secret = message.stamp_secret
        relay_id = relay_id_of(secret)
        for other in list(self._connections.values()):
            if other is not connection and other.relay is not None and other.relay.id == relay_id:
                self._close(other, CLOSE_NORMAL, now)
        login = connection.login
        connection.relay = OnlineRelay(relay_id, login.name, login.endpoints, secret, login.token.location)
        self.touch(now)
        self._reply(connection, frame)
        event, payload = relay.FROM_PORTAL.encode(relay.Init())
        self._outputs.append(Send(connection.number, encode_frame(relay.TOPIC, event, payload, None)))
        self._notice("info", "relay connected", connection, addresses=[str(endpoint) for endpoint in login.endpoints])

    def _close(self, connection: RelayConnection, code: int, now: Instant) -> None:
        self._outputs.append(Close(connection.number, code))
        self.handle_disconnected(connection.number, now)

    def _reply(self, connection: RelayConnection, frame: Frame, reason: str | None = None) -> None:
        self._outputs.append(Send(connection.number, encode_reply(frame.topic, frame.ref, reason)))

    def _notice(self, level: str, text: str, connection: RelayConnection, **fields: Any) -> None:
        relay_id = None if connection.relay is None else connection.relay.id
        self._outputs.append(Notice(level, text, {"relay": relay_id, "name": connection.login.name, **fields}))


class RelayNews:
    """What one device is told of relays, so that it hears of each change once and of no id as gone and present at a time."""

    def __init__(self) -> None:
        self.known: dict[RelayId, tuple[TurnRelay, ...]] = {}
        """Every relay it was told of and not told to forget, as it was told of it: a list never takes anything away."""

    def begin(self, relays: Relays, device: Device, near: Location | None, expires_at: UnixSeconds | None) -> tuple[TurnRelay, ...]:
        """Chooses for a device that asks: at its login, or because it has none left. Returns the entries."""
        chosen = _entries_by_id(relays.select(device.id, near), device, expires_at)
        self.known |= chosen
        return _flat(chosen)

    def update(
        self, relays: Relays, device: Device, near: Location | None, expires_at: UnixSeconds | None
    ) -> RelaysPresence | None:
        """Returns what is gone and the present choice; None when there is nothing to tell.

        A relay whose address or credentials have changed is told again, which replaces it.
        """
        online = relays.online()
        gone = sorted(self.known.keys() - online.keys())
        for relay_id in gone:
            del self.known[relay_id]
        chosen = _entries_by_id(relays.select(device.id, near, self.known), device, expires_at)
        is_short = len(self.known) < RELAYS_PER_DEVICE and not chosen.keys() <= self.known.keys()
        has_changed = any(self.known.get(relay_id, entries) != entries for relay_id, entries in chosen.items())
        if not gone and not is_short and not has_changed:
            return None
        self.known |= chosen
        return RelaysPresence(disconnected_ids=tuple(gone), connected=_flat(chosen))


def _entries_by_id(
    chosen: Iterable[OnlineRelay], device: Device, expires_at: UnixSeconds | None
) -> dict[RelayId, tuple[TurnRelay, ...]]:
    return {entry.id: turn_entries([entry], device.public_key, expires_at) for entry in chosen}


def _flat(chosen: dict[RelayId, tuple[TurnRelay, ...]]) -> tuple[TurnRelay, ...]:
    return tuple(entry for entries in chosen.values() for entry in entries)


def relay_id_of(secret: SecretText) -> RelayId:
    """Returns the id of the relay that joins with a secret: the first 16 bytes of its hash, as a version 4 UUID."""
    return RelayId(str(uuid.UUID(bytes=hashlib.sha256(secret.reveal().encode()).digest()[:16], version=4)))


def turn_entries(chosen: Iterable[OnlineRelay], public_key: PublicKey, expires_at: UnixSeconds | None) -> tuple[TurnRelay, ...]:
    """Returns the entries of a message, those of one relay next to each other, with credentials for the holder of the key."""
    expiry = CREDENTIALS_EXPIRE_AT if expires_at is None else expires_at
    salt = base64.b64encode(hashlib.sha256(public_key.to_text().encode()).digest()).rstrip(b"=").decode()
    username = Username(f"{expiry}:{salt}", expiry, salt)
    return tuple(
        TurnRelay(
            id=entry.id,
            addr=str(endpoint),
            username=username.text,
            password=SecretText(username.password(entry.secret)),
            expires_at=expiry,
        )
        for entry in chosen
        for endpoint in entry.endpoints
    )


def distance_km(one: Location | None, other: Location | None) -> float:
    """Returns the great-circle distance of two places; infinite where one is not known."""
    if one is None or other is None:
        return math.inf
    lat1, lon1, lat2, lon2 = (math.radians(value) for value in (*one, *other))
    h = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(min(1.0, h)))


def _online(entry: StaticRelay) -> OnlineRelay:
    return OnlineRelay(relay_id_of(entry.secret), entry.name, entry.endpoints, entry.secret, entry.location)
