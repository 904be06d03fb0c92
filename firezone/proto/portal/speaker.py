"""Says things to devices, each in its dialect, and to the administrator."""

from __future__ import annotations

from collections import deque
from typing import Any

from firezone.proto.portal.model import Device
from firezone.proto.portal.outputs import CLOSE_NORMAL, Close, Notice, Output, Send
from firezone.proto.portal.presence import Connection
from firezone.wire.phoenix import DISCONNECT, PHX_CLOSE, Frame, encode_frame, encode_reply

Encoded = tuple[str, bytes]
"""An event and its payload."""


class Speaker:
    """Puts what is said into the outputs of the portal."""

    def __init__(self, outputs: deque[Output]) -> None:
        self._outputs = outputs

    def say(self, connection: Connection, message: Any) -> None:
        self._push(connection, *connection.dialect.said.encode(message))

    def say_encoded(self, connection: Connection, encoded: Encoded) -> None:
        """Says what has been put into the words of its dialect already."""
        self._push(connection, *encoded)

    def reply(self, connection: Connection, frame: Frame, reason: str | None = None) -> None:
        self._outputs.append(Send(connection.number, encode_reply(frame.topic, frame.ref, reason)))

    def end_session(self, connection: Connection) -> None:
        """Tells a device to stop for good."""
        self._push(connection, DISCONNECT, b'{"reason":"token_expired"}')

    def end_channel(self, connection: Connection) -> None:
        """Tells a device to come again: what the portal knew of it is gone."""
        self._push(connection, PHX_CLOSE, b"{}")

    def close(self, number: int, code: int = CLOSE_NORMAL) -> None:
        self._outputs.append(Close(number, code))

    def notice(self, level: str, text: str, device: Device, **fields: Any) -> None:
        self._outputs.append(Notice(level, text, {"device": device.id, "name": device.name, **fields}))

    def _push(self, connection: Connection, event: str, payload: bytes) -> None:
        self._outputs.append(Send(connection.number, encode_frame(connection.topic, event, payload, None)))
