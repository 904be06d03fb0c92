"""The Noise IKpsk2 handshake of WireGuard: both roles, each message once (WireGuard paper 5.4.2, 5.4.3, 5.4.5).

Knows keys and bytes only; retransmission, indices and which session is current belong to `peer.py`, admission to `cookie.py`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from firezone.base.errors import RemoteError
from firezone.base.ids import ReceiverIndex
from firezone.base.rng import Rng
from firezone.base.timing import SECOND, UnixTime
from firezone.proto.noise import kdf
from firezone.wire.wireguard import KEY_SIZE, MAC_SIZE, UNSIGNED, Initiation, MessageType, Response, classify, decode

NO_PRESHARED_KEY = bytes(KEY_SIZE)
TAI64_BASE = 2**62 + 37
"""TAI64 label of the Unix epoch, with 37 leap seconds as boringtun has it. Receivers only compare stamps."""


class StaticKeys:
    """Our long-term key pair with what is derived from its public half. The private key is in no `repr`."""

    def __init__(self, private: X25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()
        self.mac1_key = kdf.hash_of(kdf.LABEL_MAC1, self.public)
        """Key of mac1 in messages to us."""
        self.cookie_key = kdf.hash_of(kdf.LABEL_COOKIE, self.public)
        """Key of the cookie replies we send."""

    @classmethod
    def generate(cls, rng: Rng) -> StaticKeys:
        """Makes a new key pair."""
        return cls.from_private(rng.bytes(KEY_SIZE))

    @classmethod
    def from_private(cls, private: bytes) -> StaticKeys:
        """Builds the pair from its 32-byte private half."""
        return cls(X25519PrivateKey.from_private_bytes(private))

    def exchange(self, public: bytes) -> bytes:
        """Returns the shared secret with a public key. Raises RemoteError for a point of small order."""
        return kdf.dh(self._private, public)

    def __repr__(self) -> str:
        return f"StaticKeys(public={self.public.hex()[:8]}…)"


class RemoteKeys:
    """A remote static key with all that is computed from it once."""

    def __init__(self, static: StaticKeys, public: bytes, preshared_key: bytes | None) -> None:
        self.public = public
        self.mac1_key = kdf.hash_of(kdf.LABEL_MAC1, public)
        """Key of mac1 in messages to it."""
        self.cookie_key = kdf.hash_of(kdf.LABEL_COOKIE, public)
        """Key of the cookie replies it sends."""
        self.static_secret = static.exchange(public)
        self.preshared_key = preshared_key if preshared_key is not None else NO_PRESHARED_KEY

    def __repr__(self) -> str:
        return f"RemoteKeys(public={self.public.hex()[:8]}…)"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What a handshake leaves behind."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


class PendingInitiation:
    """An initiation of ours that can still be answered."""

    def __init__(self, index: ReceiverIndex, ephemeral: X25519PrivateKey, chain: bytes, transcript: bytes) -> None:
        self.index = index
        self._ephemeral = ephemeral
        self._chain = chain
        self._transcript = transcript

    def __repr__(self) -> str:
        return f"PendingInitiation(index={self.index:08x})"

    def accept(self, response: Response, static: StaticKeys, remote: RemoteKeys) -> SessionKeys:
        """Completes the handshake as its initiator.

        Raises: RemoteError when the response does not authenticate.
        """
        transcript = kdf.hash_of(self._transcript, response.ephemeral)
        chain = kdf.kdf1(self._chain, response.ephemeral)
        chain = kdf.kdf1(chain, kdf.dh(self._ephemeral, response.ephemeral))
        chain = kdf.kdf1(chain, static.exchange(response.ephemeral))
        chain, tau, key = kdf.kdf3(chain, remote.preshared_key)
        transcript = kdf.hash_of(transcript, tau)
        kdf.open_sealed(key, response.encrypted_nothing, transcript, "handshake response")
        ours, theirs = kdf.kdf2(chain, b"")
        return SessionKeys(send=ours, receive=theirs)


@dataclass(frozen=True, slots=True)
class ReceivedInitiation:
    """An initiation of which only the sender's static key is opened: enough to find the connection it is for."""

    remote_public: bytes
    """Who claims to have sent it; proven only once `open_timestamp` succeeds."""
    message: Initiation
    chain: bytes = field(repr=False)
    transcript: bytes = field(repr=False)

    def open_timestamp(self, remote: RemoteKeys) -> tuple[bytes, AuthenticInitiation]:
        """Returns the TAI64N stamp and what is needed to answer.

        Raises: RemoteError when the initiation was not made by the owner of the static key.
        """
        chain, key = kdf.kdf2(self.chain, remote.static_secret)
        stamp = kdf.open_sealed(key, self.message.encrypted_timestamp, self.transcript, "initiation's timestamp")
        transcript = kdf.hash_of(self.transcript, self.message.encrypted_timestamp)
        return stamp, AuthenticInitiation(self.message, chain, transcript)


@dataclass(frozen=True, slots=True)
class AuthenticInitiation:
    """An initiation that its claimed sender made, maybe long ago: the caller still compares the stamp."""

    message: Initiation
    chain: bytes = field(repr=False)
    transcript: bytes = field(repr=False)

    def answer(self, remote: RemoteKeys, index: ReceiverIndex, rng: Rng) -> tuple[Response, SessionKeys]:
        """Completes the handshake as its responder and returns the unsigned response."""
        ephemeral = X25519PrivateKey.from_private_bytes(rng.bytes(KEY_SIZE))
        public = ephemeral.public_key().public_bytes_raw()
        transcript = kdf.hash_of(self.transcript, public)
        chain = kdf.kdf1(self.chain, public)
        chain = kdf.kdf1(chain, kdf.dh(ephemeral, self.message.ephemeral))
        chain = kdf.kdf1(chain, kdf.dh(ephemeral, remote.public))
        chain, tau, key = kdf.kdf3(chain, remote.preshared_key)
        transcript = kdf.hash_of(transcript, tau)
        nothing = kdf.seal(key, b"", transcript)
        theirs, ours = kdf.kdf2(chain, b"")
        return Response(index, self.message.sender, public, nothing), SessionKeys(send=ours, receive=theirs)


def initiate(
    static: StaticKeys, remote: RemoteKeys, index: ReceiverIndex, stamp: bytes, rng: Rng
) -> tuple[Initiation, PendingInitiation]:
    """Starts a handshake and returns the unsigned initiation with the state that waits for its answer."""
    ephemeral = X25519PrivateKey.from_private_bytes(rng.bytes(KEY_SIZE))
    public = ephemeral.public_key().public_bytes_raw()
    transcript = kdf.hash_of(kdf.hash_of(kdf.HASH_START, remote.public), public)
    chain = kdf.kdf1(kdf.CHAIN_START, public)
    chain, key = kdf.kdf2(chain, kdf.dh(ephemeral, remote.public))
    encrypted_static = kdf.seal(key, static.public, transcript)
    transcript = kdf.hash_of(transcript, encrypted_static)
    chain, key = kdf.kdf2(chain, remote.static_secret)
    encrypted_stamp = kdf.seal(key, stamp, transcript)
    transcript = kdf.hash_of(transcript, encrypted_stamp)
    message = Initiation(index, public, encrypted_static, encrypted_stamp)
    return message, PendingInitiation(index, ephemeral, chain, transcript)


def open_initiation(static: StaticKeys, message: Initiation) -> ReceivedInitiation:
    """Opens the sender's static key. Costs one DH: check mac1 and the rate limit first (`cookie.receive_initiation`).

    Raises: RemoteError when the initiation is not meant for our key or is damaged.
    """
    transcript = kdf.hash_of(kdf.hash_of(kdf.HASH_START, static.public), message.ephemeral)
    chain = kdf.kdf1(kdf.CHAIN_START, message.ephemeral)
    chain, key = kdf.kdf2(chain, static.exchange(message.ephemeral))
    remote_public = kdf.open_sealed(key, message.encrypted_static, transcript, "initiation's static key")
    return ReceivedInitiation(remote_public, message, chain, kdf.hash_of(transcript, message.encrypted_static))


def sign(message: Initiation | Response, mac1_key: bytes, cookie: bytes | None) -> bytes:
    """Returns the datagram of a handshake message with mac1, and mac2 when a cookie is known."""
    body = message.encode()[: -len(UNSIGNED)]
    body += kdf.mac(mac1_key, body)
    return body + (kdf.mac(cookie, body) if cookie is not None else bytes(MAC_SIZE))


def verify_mac1(datagram: bytes, mac1_key: bytes) -> bool:
    """Tells whether an initiation or response was made by somebody who knows our public key, in constant time."""
    body, mac1 = datagram[: -2 * MAC_SIZE], datagram[-2 * MAC_SIZE : -MAC_SIZE]
    return hmac.compare_digest(kdf.mac(mac1_key, body), mac1)


def verify_mac2(datagram: bytes, cookie: bytes) -> bool:
    """Tells whether mac2 was made with this cookie, in constant time."""
    return hmac.compare_digest(kdf.mac(cookie, datagram[:-MAC_SIZE]), datagram[-MAC_SIZE:])


def tai64n(utc: UnixTime) -> bytes:
    """Returns the 12-byte TAI64N label of a wall-clock time. Not whitened: stamps of one peer must grow strictly."""
    whole, nanos = divmod(utc, SECOND)
    return (TAI64_BASE + whole).to_bytes(8, "big") + nanos.to_bytes(4, "big")


def identify_initiator(static: StaticKeys, datagram: bytes) -> bytes:
    """Returns the static key that an initiation claims to come from, without asking the rate limit.

    Raises: RemoteError when it is no initiation or not for our key.
    """
    if classify(datagram) is not MessageType.INITIATION:
        raise RemoteError("The datagram is not a handshake initiation.")
    if not verify_mac1(datagram, static.mac1_key):
        raise RemoteError("The mac1 of an initiation does not verify.")
    message = decode(datagram)
    assert isinstance(message, Initiation)
    return open_initiation(static, message).remote_public
