"""Who may use the relay: passwords derived from one secret, and nonces that cost no memory until somebody answers them.

A username names the second at which it dies; its password follows from it and the secret, so the portal can hand out
credentials without telling the relay. Keys are MD5 and signatures HMAC-SHA1, as RFC 8489 section 9.2 has them.

Source: RFC 8489 section 9.2; relay specification, section 5; nonces as the newest original, tied to one client.
"""

from __future__ import annotations

import hmac
import uuid
from base64 import b64encode
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from firezone.base.limits import MAX_NONCE_CLIENTS
from firezone.base.net import Endpoint
from firezone.base.rng import Rng
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND, Instant, UnixTime
from firezone.wire import stun

REALM = "firezone"
"""Constant on both sides; what a request names as its realm is not looked at."""
SECRET_SIZE = 32
NONCE_USES = 10_000
"""Requests per nonce. The original began with 10, then 100: bursts of ChannelBind then cost round trips or failed."""
NONCE_WINDOW = 3600 * SECOND
"""A nonce dies with the window after the one it was made in, so it can be replayed for two hours at most."""
_DEVICE_SALT_LENGTH = 43
_LATEST_EXPIRY = 2**63 - 1
"""Seconds. The original's clock overflows beyond it and the process ends; ours takes such a name for malformed."""


def new_secret(rng: Rng) -> SecretText:
    """Returns a stamp secret: 64 lower-case hex digits, used as this text. Made once per start, never kept."""
    return SecretText(rng.bytes(SECRET_SIZE).hex())


@dataclass(frozen=True, slots=True)
class Username:
    """A USERNAME of the form `<expiry>:<salt>`."""

    text: str
    expiry: int
    """Unix seconds; dead at any moment after."""
    salt: str

    @classmethod
    def from_text(cls, text: str) -> Username | None:
        """Reads a username; None when it is not a number, one colon and a salt."""
        expiry, colon, salt = text.partition(":")
        if not colon or ":" in salt or not (expiry.isascii() and expiry.isdigit()) or len(expiry) > 20:
            return None
        return cls(text, int(expiry), salt) if int(expiry) <= _LATEST_EXPIRY else None

    @property
    def is_of_device(self) -> bool:
        """Tells whether a portal made it for one client or gateway: the salt is then a SHA-256 in unpadded Base64."""
        return len(self.salt) == _DEVICE_SALT_LENGTH

    def has_expired(self, utc: UnixTime) -> bool:
        """Tells whether the second it names has passed, to the nanosecond."""
        return self.expiry * SECOND < utc

    def password(self, secret: SecretText) -> str:
        """Returns the password: unpadded Base64 of SHA-256 over expiry, secret and salt."""
        digest = sha256(f"{self.expiry}:{secret.reveal()}:{self.salt}".encode()).digest()
        return b64encode(digest).rstrip(b"=").decode()

    def key(self, secret: SecretText) -> bytes:
        """Returns the 16 bytes that sign requests and answers."""
        return stun.long_term_key(self.text, REALM, self.password(secret))


class NonceCheck(Enum):
    """What a presented nonce is worth."""

    GOOD = "good"
    MALFORMED = "malformed"
    STALE = "stale"


@dataclass(slots=True)
class _Uses:
    """How often a client may still present its nonce."""

    window: int
    generation: int
    left: int = NONCE_USES


class Nonces:
    """Makes and checks nonces. One stands for one client, one time window and one generation of NONCE_USES requests.

    It is a keyed hash of those three, written as a UUID, so handing one out stores nothing and a flood from invented addresses
    costs no memory. Only a client that read its nonce gets a row; the row longest unused gives way to a new one, whose client
    may then present its nonce NONCE_USES times again.
    """

    def __init__(self, rng: Rng, *, limit: int = MAX_NONCE_CLIENTS) -> None:
        self._key = rng.bytes(32)
        self._limit = limit
        self._uses: dict[Endpoint, _Uses] = {}
        """Ordered by last use."""

    def __len__(self) -> int:
        return len(self._uses)

    def current(self, client: Endpoint, now: Instant) -> str:
        """Returns the nonce to answer a client with: the one it has while that has uses left, else a new one."""
        uses = self._live(client, now // NONCE_WINDOW)
        window, generation = (uses.window, uses.generation) if uses is not None else (now // NONCE_WINDOW, 0)
        return str(uuid.UUID(bytes=self._nonce(client, window, generation)))

    def use(self, client: Endpoint, text: str, now: Instant) -> NonceCheck:
        """Counts one presentation of a nonce, whatever becomes of the request."""
        try:
            presented = uuid.UUID(text).bytes
        except ValueError:
            return NonceCheck.MALFORMED
        uses = self._live(client, now // NONCE_WINDOW) or self._first_use(client, presented, now // NONCE_WINDOW)
        if uses is None or not hmac.compare_digest(presented, self._nonce(client, uses.window, uses.generation)):
            return NonceCheck.STALE
        if not uses.left:
            uses.window, uses.generation, uses.left = now // NONCE_WINDOW, uses.generation + 1, NONCE_USES
            return NonceCheck.STALE
        uses.left -= 1
        self._uses[client] = self._uses.pop(client)
        return NonceCheck.GOOD

    def _live(self, client: Endpoint, window: int) -> _Uses | None:
        uses = self._uses.get(client)
        if uses is not None and uses.window < window - 1:
            del self._uses[client]
            return None
        return uses

    def _first_use(self, client: Endpoint, presented: bytes, window: int) -> _Uses | None:
        for candidate in (window, window - 1):
            if hmac.compare_digest(presented, self._nonce(client, candidate, 0)):
                if len(self._uses) >= self._limit:
                    del self._uses[next(iter(self._uses))]
                uses = self._uses[client] = _Uses(candidate, 0)
                return uses
        return None

    def _nonce(self, client: Endpoint, window: int, generation: int) -> bytes:
        about = client.ip + client.port.to_bytes(2, "big") + window.to_bytes(8, "big", signed=True) + generation.to_bytes(8, "big")
        return hmac.digest(self._key, about, "sha256")[:16]
