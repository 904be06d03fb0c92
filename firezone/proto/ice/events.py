"""What an ICE agent hands out: its state, its choice, the messages it wants sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from firezone.base.net import Endpoint


class IceState(Enum):
    """Where the agent stands."""

    NEW = auto()
    CHECKING = auto()
    CONNECTED = auto()
    """A pair is nominated, others are still possible."""
    COMPLETED = auto()
    """Only nominated pairs are left."""
    DISCONNECTED = auto()
    """Nothing is nominated, and nothing can be."""


@dataclass(frozen=True, slots=True)
class Nominated:
    """Send from `source` (a local base or allocated address) to `destination` from now on."""

    source: Endpoint
    destination: Endpoint


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The agent entered this state."""

    state: IceState


IceEvent = Nominated | StateChanged


@dataclass(frozen=True, slots=True)
class IceTransmit:
    """A STUN message to send from a local base (or allocated address)."""

    source: Endpoint
    destination: Endpoint
    payload: bytes
