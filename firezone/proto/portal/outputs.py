"""What the portal wants done by whoever owns the sockets, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CLOSE_NORMAL = 1000
CLOSE_GOING_AWAY = 1001
CLOSE_PROTOCOL_ERROR = 1002


@dataclass(frozen=True, slots=True)
class Send:
    """Write one text frame."""

    connection: int
    text: str

    def __repr__(self) -> str:
        return f"Send(connection={self.connection}, {len(self.text)} characters)"


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket, after what was to be sent before."""

    connection: int
    code: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something an administrator may want to know. Holds no secrets."""

    level: str
    """debug, info or warning."""
    text: str
    fields: dict[str, Any]


Output = Send | Close | Notice
