"""The exceptions of the package, by who is to blame and what the caller can do."""

from __future__ import annotations


class FirezoneError(Exception):
    """The root of all errors raised by this package."""


class WireError(FirezoneError, ValueError):
    """Bytes that are not what they claim to be. `field` names the part, `offset` the byte where it starts (-1 unknown)."""

    def __init__(self, message: str, *, field: str = "", offset: int = -1) -> None:
        super().__init__(message)
        self.field = field
        self.offset = offset


class ProtocolError(FirezoneError):
    """A rule of a protocol was broken."""


class RemoteError(ProtocolError):
    """The peer broke the protocol: drop, count, go on."""


class LocalError(ProtocolError):
    """We misused an interface: a bug of ours."""


class StateError(FirezoneError):
    """The request is legal, but not in the present state."""


class NoSession(StateError):
    """No WireGuard session stands for this index or peer."""


class UnknownConnection(StateError):
    """No connection has this id, or the datagram belongs to none."""


class StillConnecting(StateError):
    """The connection has no path yet and does not buffer."""


class NoRelays(StateError):
    """Neither a relay nor a local address is known: no candidate could ever be offered."""


class ConfigError(FirezoneError):
    """A configuration that cannot work; the message names the place and what would."""


class PortalError(FirezoneError):
    """The portal refused. `reason` is its word; `is_authentication_error` asks for a new token."""

    def __init__(self, message: str, *, reason: str = "", is_authentication_error: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.is_authentication_error = is_authentication_error


class TunnelFatalError(FirezoneError):
    """The tunnel cannot work any more; the program ends with this error."""


class ReaderStopped(TunnelFatalError):
    """A reader ended although nobody asked it to: its source will never be read again."""


class TunClosed(TunnelFatalError):
    """The TUN device is gone."""


class RoutingLoopError(TunnelFatalError):
    """An outer socket could not be kept out of the tunnel (SO_MARK refused)."""
