"""What a Node tells the machine above it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from firezone.base.ids import ConnectionId, RelayId
from firezone.base.net import Endpoint, Transmit
from firezone.wire.candidate import CandidateKind

MAX_TRANSMITS = 8192
"""Datagrams that wait to be polled, about 10 MiB at worst. The engine polls after every input, so only a caller that never does
loses any: the oldest."""


class Role(Enum):
    """Which end of every connection a Node is."""

    CLIENT = "client"
    """Controls ICE and starts WireGuard sessions."""
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class NewIceCandidate:
    """Tell the peer that it may reach us here. Those of one connection come in descending priority."""

    cid: ConnectionId
    candidate: str
    """A candidate line."""


@dataclass(frozen=True, slots=True)
class InvalidateIceCandidate:
    """Tell the peer that this candidate is gone."""

    cid: ConnectionId
    candidate: str


@dataclass(frozen=True, slots=True)
class ConnectionEstablished:
    """A path is chosen and a first handshake is done; told once per connection."""

    cid: ConnectionId


@dataclass(frozen=True, slots=True)
class PathChosen:
    """The connection is sent over this path from now on; told for the first one and for every later one."""

    cid: ConnectionId
    remote: Endpoint
    local_kind: CandidateKind
    """HOST, or RELAY when a relay of ours sends for us."""
    remote_kind: CandidateKind
    """How the peer's address was learned."""
    relay: RelayId | None = None
    """The relay that sends for us."""


@dataclass(frozen=True, slots=True)
class PathSilent:
    """Nothing comes back although packets are sent: the peer may have been started anew. Told again while it goes on."""

    cid: ConnectionId


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """The connection is gone: no path was found or the one it had is dead."""

    cid: ConnectionId
    reason: str = ""
    """For people: what was waited for."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection was ended by us, by `close_connection` or by a reset."""

    cid: ConnectionId


@dataclass(frozen=True, slots=True)
class RelayLost:
    """A relay is not used any more, because of itself: it is silent, refuses us, or contradicts itself."""

    relay: RelayId
    reason: str


@dataclass(frozen=True, slots=True)
class NoRelaysLeft:
    """The last relay is gone: ask the portal for others."""


NodeEvent = (
    NewIceCandidate
    | InvalidateIceCandidate
    | ConnectionEstablished
    | PathChosen
    | PathSilent
    | ConnectionFailed
    | ConnectionClosed
    | RelayLost
    | NoRelaysLeft
)


class Outbox:
    """What waits to be polled from a Node, in the order it happened."""

    def __init__(self) -> None:
        self.control: deque[Transmit] = deque(maxlen=MAX_TRANSMITS)
        """Requests to relays: they leave first, so that a channel is bound before it is used."""
        self.transmits: deque[Transmit] = deque(maxlen=MAX_TRANSMITS)
        self.events: deque[NodeEvent] = deque()
        self.control_bytes = 0
        """What all requests to relays had so far."""

    @property
    def is_waiting(self) -> bool:
        return bool(self.control or self.transmits or self.events)

    def request(self, transmit: Transmit) -> None:
        """Queues a request to a relay."""
        self.control.append(transmit)
        self.control_bytes += len(transmit.payload)

    def next_transmit(self) -> Transmit | None:
        if self.control:
            return self.control.popleft()
        return self.transmits.popleft() if self.transmits else None

    def clear(self) -> None:
        self.control.clear()
        self.transmits.clear()
        self.events.clear()
