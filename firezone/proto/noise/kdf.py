"""The primitives of WireGuard's handshake under the names of its paper (5.4): hash, MAC, KDF, DH and the two AEADs.

Curve and ciphers are those of `cryptography`, the hash is that of the standard library.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from firezone.base.errors import RemoteError

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1 = b"mac1----"
LABEL_COOKIE = b"cookie--"

_FIRST_NONCE = bytes(12)
_SIGMA = struct.unpack("<4I", b"expand 32-byte k")


def hash_of(*parts: bytes) -> bytes:
    """Returns the BLAKE2s-256 of the parts one after another."""
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """Returns the keyed BLAKE2s with 16 bytes of output."""
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def kdf1(chain: bytes, data: bytes) -> bytes:
    """Returns the next chaining key."""
    return _hmac(_hmac(chain, data), b"\x01")


def kdf2(chain: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Returns the next chaining key and one key."""
    secret = _hmac(chain, data)
    first = _hmac(secret, b"\x01")
    return first, _hmac(secret, first + b"\x02")


def kdf3(chain: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns the next chaining key and two keys."""
    secret = _hmac(chain, data)
    first = _hmac(secret, b"\x01")
    second = _hmac(secret, first + b"\x02")
    return first, second, _hmac(secret, second + b"\x03")


def dh(private: X25519PrivateKey, public: bytes) -> bytes:
    """Returns the shared secret.

    Raises: RemoteError when the public key has a small order, which would make the secret known to everybody.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise RemoteError(f"The public key {public.hex()[:8]}… is a point of small order.") from error


def seal(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Seals a handshake field; each key is used once, so the nonce is zero."""
    return ChaCha20Poly1305(key).encrypt(_FIRST_NONCE, plaintext, aad)


def open_sealed(key: bytes, ciphertext: bytes, aad: bytes, what: str) -> bytes:
    """Opens a handshake field. `what` names it in the error.

    Raises: RemoteError when the tag does not verify.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(_FIRST_NONCE, ciphertext, aad)
    except InvalidTag as error:
        raise RemoteError(f"The {what} does not authenticate.") from error


def seal_extended(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Seals with XChaCha20-Poly1305; the nonce has 24 bytes (draft-irtf-cfrg-xchacha)."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], plaintext, aad)


def open_extended(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    """Opens XChaCha20-Poly1305.

    Raises: RemoteError when the tag does not verify.
    """
    try:
        return ChaCha20Poly1305(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], ciphertext, aad)
    except InvalidTag as error:
        raise RemoteError("The cookie does not authenticate.") from error


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Returns the HChaCha20 subkey of a 32-byte key and a 16-byte nonce.

    ChaCha20's block is the permuted state plus the state it began with. HChaCha20 is the first and last row of the permuted
    state alone, so what the block added to those rows, the constants and the nonce, is taken off again.
    """
    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = struct.unpack("<16I", block)
    started = _SIGMA + struct.unpack("<4I", nonce)
    ended = words[:4] + words[12:]
    return struct.pack("<8I", *((word - initial) & 0xFFFFFFFF for word, initial in zip(ended, started, strict=True)))


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "blake2s")


CHAIN_START = hash_of(CONSTRUCTION)
"""C0 of the paper."""
HASH_START = hash_of(CHAIN_START, IDENTIFIER)
"""H0 of the paper."""
