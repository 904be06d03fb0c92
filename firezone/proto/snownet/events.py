"""What a Node tells the machine above it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from firezone.base.ids import ConnectionId
from firezone.base.net import Transmit

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
class ConnectionFailed:
    """The connection is gone: no path was found or the one it had is dead."""

    cid: ConnectionId
    reason: str = ""
    """For people: what was waited for."""


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """The connection was ended by us, by `close_connection` or by a reset."""

    cid: ConnectionId


NodeEvent = NewIceCandidate | InvalidateIceCandidate | ConnectionEstablished | ConnectionFailed | ConnectionClosed


class Outbox:
    """What waits to be polled from a Node, in the order it happened."""

    def __init__(self) -> None:
        self.transmits: deque[Transmit] = deque(maxlen=MAX_TRANSMITS)
        self.events: deque[NodeEvent] = deque()

    def clear(self) -> None:
        self.transmits.clear()
        self.events.clear()
