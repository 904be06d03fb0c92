"""The envelope of a Phoenix channel, serializer V1 ("1.0.0"): one JSON object in one WebSocket text frame.

Both ends: `decode_inbound` is what a device hears, `decode_request` what a portal hears. Payloads stay raw JSON; their
meaning is in `firezone.wire.portal`.

Source: Phoenix.Socket.V1.JSONSerializer; Firezone `rust/connlib/phoenix-channel/src/lib.rs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from firezone.base.errors import WireError

PHX_JOIN = "phx_join"
PHX_REPLY = "phx_reply"
PHX_ERROR = "phx_error"
PHX_CLOSE = "phx_close"
HEARTBEAT = "heartbeat"
DISCONNECT = "disconnect"
HEARTBEAT_TOPIC = "phoenix"

UNMATCHED_TOPIC = "unmatched topic"
"""Reason of an error reply: the message was for a topic that is not joined."""
UNKNOWN_MESSAGE = "unknown_message"
INVALID_REF = "invalid_ref"
TOKEN_EXPIRED = "token_expired"

_T = TypeVar("_T")


class TruncatedFrame(WireError):
    """The text ends too early (or is empty): the stream cannot be trusted any more."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it stands in the frame."""

    topic: str
    event: str
    payload: msgspec.Raw
    """Any JSON value, undecoded."""
    ref: int | str | None
    """Number of the message; devices send numbers, a portal echoes what it got."""

    def __repr__(self) -> str:
        return f"Frame(topic={self.topic!r}, event={self.event!r}, ref={self.ref!r}, payload of {len(bytes(self.payload))} bytes)"


@dataclass(frozen=True, slots=True)
class Push:
    """An application message of the portal."""

    topic: str
    event: str
    payload: msgspec.Raw

    def __repr__(self) -> str:
        return f"Push(topic={self.topic!r}, event={self.event!r}, payload of {len(bytes(self.payload))} bytes)"


@dataclass(frozen=True, slots=True)
class ReplyOk:
    """The portal accepted the message `ref`."""

    topic: str
    ref: int
    is_empty_object: bool
    """True when the response is `{}`: only that completes a join. False when it is null."""


@dataclass(frozen=True, slots=True)
class ReplyError:
    """The portal refused the message `ref`."""

    topic: str
    ref: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChannelError:
    """The channel process crashed on the portal (`phx_error`)."""

    topic: str


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel was stopped on purpose (`phx_close`)."""

    topic: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The session is over: the token expired. No other reason decodes."""

    topic: str


Inbound = Push | ReplyOk | ReplyError | ChannelError | ChannelClosed | Disconnected


class _InboundFrame(msgspec.Struct):
    topic: str
    event: str
    payload: msgspec.Raw
    ref: int | None = None


class _Reply(msgspec.Struct):
    status: str
    response: Any


class _Reason(msgspec.Struct):
    reason: str


def encode_frame(topic: str, event: str, payload: bytes, ref: int | str | None) -> str:
    """Returns the text of one frame. `payload` is JSON already."""
    return msgspec.json.encode(Frame(topic=topic, event=event, payload=msgspec.Raw(payload), ref=ref)).decode()


def encode_reply(topic: str, ref: int | str | None, reason: str | None = None) -> str:
    """Returns the text of a `phx_reply`: ok with `{}`, or the error `reason`."""
    response = {} if reason is None else {"reason": reason}
    payload = {"status": "ok" if reason is None else "error", "response": response}
    return encode_frame(topic, PHX_REPLY, msgspec.json.encode(payload), ref)


def decode_request(text: str | bytes) -> Frame:
    """Reads what a device sent to a portal. All four members are required, as the real portal requires them.

    Raises: WireError.
    """
    frame: Frame = _decode_json(text, Frame)
    return frame


def decode_inbound(text: str | bytes) -> Inbound:
    """Reads what a portal sent to a device.

    Raises: TruncatedFrame when the text ends early, WireError for anything else that is no message.
    Source: portal protocol sections 3.3 and 3.4.
    """
    frame = _decode_json(text, _InboundFrame)
    match frame.event:
        case "phx_reply":
            return _decode_reply(frame)
        case "phx_error":
            _require_empty(frame)
            return ChannelError(frame.topic)
        case "phx_close":
            _require_empty(frame)
            return ChannelClosed(frame.topic)
        case "disconnect":
            reason = _decode_json(frame.payload, _Reason).reason
            if reason != TOKEN_EXPIRED:
                raise WireError("a disconnect has a reason that is not known", field="payload.reason")
            return Disconnected(frame.topic)
        case _:
            return Push(frame.topic, frame.event, frame.payload)


def _decode_reply(frame: _InboundFrame) -> ReplyOk | ReplyError:
    if frame.ref is None:
        raise WireError("a phx_reply has no ref", field="ref")
    reply = _decode_json(frame.payload, _Reply)
    if reply.status == "ok":
        if reply.response is not None and reply.response != {}:
            raise WireError("the response of a phx_reply is neither {} nor null", field="payload.response")
        return ReplyOk(frame.topic, frame.ref, is_empty_object=reply.response is not None)
    if reply.status == "error":
        if not isinstance(reply.response, dict) or not isinstance(reply.response.get("reason"), str):
            raise WireError("the reason of an error reply is not a string", field="payload.response.reason")
        return ReplyError(frame.topic, frame.ref, reply.response["reason"])
    raise WireError("the status of a phx_reply is neither ok nor error", field="payload.status")


def _require_empty(frame: _InboundFrame) -> None:
    if _decode_json(frame.payload, Any) != {}:
        raise WireError(f"the payload of a {frame.event} is not {{}}", field="payload")


def _decode_json(text: str | bytes | msgspec.Raw, kind: type[_T] | Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise WireError(f"the frame is not a channel message: {error}") from error
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            raise TruncatedFrame("the frame ends too early") from error
        raise WireError(f"the frame is not JSON: {error}") from error
    except (UnicodeError, RecursionError) as error:
        raise WireError("the frame is not JSON that can be read") from error
