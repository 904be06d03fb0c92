"""Admission of handshake messages: mac1, the rate limits, and cookies for the time under load (WireGuard paper 5.3, 5.4.7).

One `RateLimiter` serves all peers of a static key. It counts lazily: a window begins with the first message after the last
one ended, so idle peers cannot push it over its limit by and by.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from firezone.base.errors import RemoteError, WireError
from firezone.base.ids import ReceiverIndex
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, Instant
from firezone.proto.noise import kdf
from firezone.proto.noise.handshake import (
    ReceivedInitiation,
    RemoteKeys,
    StaticKeys,
    open_initiation,
    verify_mac1,
    verify_mac2,
)
from firezone.wire.wireguard import COOKIE_NONCE_SIZE, COOKIE_SIZE, MAC_SIZE, CookieReply, Initiation, Response, decode

WINDOW = SECOND
"""Length of one counting window."""
SHARED_LIMIT = 100
"""Handshake messages per window without a cookie; above it everybody needs one. Baseline's figure."""
SOURCE_LIMIT = 50
"""Messages per window and source without a cookie. Half the shared limit: one source alone cannot put the others under load,
and fifty clients behind one address that come back at once are still served without a detour."""
PROVEN_LIMIT = 50
"""Messages per window and source with a valid cookie; each may cost two DH, so 50 hold one source to about 10 ms per second."""
MAX_SOURCES = 1024
"""Sources counted in one window, about 100 KiB. The shared limit keeps unproven ones from filling it; proven ones who do make
newcomers wait."""

COOKIE_ROTATION = 128 * SECOND
"""How long one cookie is given out. It is accepted for a second such span, so that one fetched late is worth its detour."""
COOKIE_LIFETIME = 120 * SECOND
"""How long a received cookie is used (COOKIE_REFRESH_TIME)."""


@dataclass(slots=True)
class _Source:
    """What one source address did in this window."""

    unproven: int = 0
    proven: int = 0


class RateLimiter:
    """Decides which handshake messages are worth a DH. The secret behind its cookies is in no `repr`."""

    def __init__(self, static: StaticKeys, rng: Rng, now: Instant) -> None:
        self._static = static
        self._rng = rng
        self._secret = rng.bytes(COOKIE_SIZE)
        self._started_at = now
        self._window_started_at = now
        self._shared = 0
        self._sources: dict[bytes, _Source] = {}

    def admit(self, datagram: bytes, source_ip: bytes, now: Instant) -> bytes | None:
        """Judges an initiation or a response before anything is computed with it.

        Returns:   None when it may be processed, else the cookie reply to send back in place of an answer.
        Raises:    RemoteError when mac1 is wrong, or when a source that proved its address still sends too much.
        """
        if not verify_mac1(datagram, self._static.mac1_key):
            raise RemoteError("The mac1 of a handshake message does not verify.")
        self._roll(now)
        source = self._source(source_ip)
        if source is not None and self._shared < SHARED_LIMIT and source.unproven < SOURCE_LIMIT:
            self._shared += 1
            source.unproven += 1
            return None
        if not self._has_valid_cookie(datagram, source_ip, now):
            return self._cookie_reply(datagram, source_ip, now)
        if source is None or source.proven >= PROVEN_LIMIT:
            raise RemoteError("A source of handshake messages goes on beyond its limit.")
        source.proven += 1
        return None

    @property
    def is_under_load(self) -> bool:
        """Whether the shared limit of the present window is used up."""
        return self._shared >= SHARED_LIMIT

    def __repr__(self) -> str:
        return f"RateLimiter(shared={self._shared}, sources={len(self._sources)})"

    def _roll(self, now: Instant) -> None:
        if now - self._window_started_at >= WINDOW:
            self._window_started_at = now
            self._shared = 0
            self._sources.clear()

    def _source(self, source_ip: bytes) -> _Source | None:
        """Returns the counters of a source, or None when no more sources are counted. An IPv6 source is its /64."""
        key = source_ip[:8] if len(source_ip) == 16 else source_ip
        source = self._sources.get(key)
        if source is None and len(self._sources) < MAX_SOURCES:
            source = self._sources[key] = _Source()
        return source

    def _cookie(self, epoch: int, source_ip: bytes) -> bytes:
        return kdf.mac(self._secret, epoch.to_bytes(8, "little") + source_ip.ljust(16, b"\0"))

    def _epoch(self, now: Instant) -> int:
        return (now - self._started_at) // COOKIE_ROTATION

    def _has_valid_cookie(self, datagram: bytes, source_ip: bytes, now: Instant) -> bool:
        epoch = self._epoch(now)
        if verify_mac2(datagram, self._cookie(epoch, source_ip)):
            return True
        return epoch > 0 and verify_mac2(datagram, self._cookie(epoch - 1, source_ip))

    def _cookie_reply(self, datagram: bytes, source_ip: bytes, now: Instant) -> bytes:
        nonce = self._rng.bytes(COOKIE_NONCE_SIZE)
        mac1 = datagram[-2 * MAC_SIZE : -MAC_SIZE]
        sealed = kdf.seal_extended(self._static.cookie_key, nonce, self._cookie(self._epoch(now), source_ip), mac1)
        sender = ReceiverIndex(int.from_bytes(datagram[4:8], "little"))
        return CookieReply(sender, nonce, sealed).encode()


class ReceivedCookie:
    """The cookie a remote gave us, and the message of ours that it may answer."""

    def __init__(self) -> None:
        self._cookie: bytes | None = None
        self._until: Instant = 0
        self._sender: ReceiverIndex | None = None
        self._mac1 = b""

    def remember_sent(self, message: Initiation | Response, datagram: bytes) -> None:
        """Notes the last handshake message sent: only it can be answered by a cookie reply."""
        self._sender = message.sender
        self._mac1 = datagram[-2 * MAC_SIZE : -MAC_SIZE]

    def accept(self, reply: CookieReply, remote: RemoteKeys, now: Instant) -> None:
        """Takes the cookie out of a reply. Raises RemoteError when it answers nothing of ours or is forged."""
        if reply.receiver != self._sender:
            raise RemoteError("A cookie reply answers none of our handshake messages.")
        self._cookie = kdf.open_extended(remote.cookie_key, reply.nonce, reply.encrypted_cookie, self._mac1)
        self._until = now + COOKIE_LIFETIME

    def current(self, now: Instant) -> bytes | None:
        """Returns the cookie for mac2 while it is fresh."""
        if self._cookie is not None and now >= self._until:
            self._cookie = None
        return self._cookie

    def __repr__(self) -> str:
        return f"ReceivedCookie(is_known={self._cookie is not None})"


@dataclass(frozen=True, slots=True)
class CookieDemand:
    """The limiter's answer to an initiation that it did not let through."""

    reply: bytes = field(repr=False)
    """Datagram to send back to where the initiation came from."""


def receive_initiation(
    static: StaticKeys, limiter: RateLimiter, datagram: bytes, source_ip: bytes, now: Instant
) -> ReceivedInitiation | CookieDemand:
    """Judges an initiation and then opens who sent it, for a node that must find the connection first.

    Hand the result to `Peer.handle_initiation`; it is neither counted nor computed a second time.
    Raises: RemoteError when it is no initiation, not for our key, or beyond the limits.
    """
    try:
        message = decode(datagram)
    except WireError as error:
        raise RemoteError(str(error)) from error
    if not isinstance(message, Initiation):
        raise RemoteError("The datagram is not a handshake initiation.")
    if (reply := limiter.admit(datagram, source_ip, now)) is not None:
        return CookieDemand(reply)
    return open_initiation(static, message)
