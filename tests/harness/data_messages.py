"""Data messages as the other side makes them, packets on their way to a peer, and what the session stages say of a row."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from firezone.base.net import Endpoint
from firezone.kernels.batch import PacketBatch
from firezone.kernels.types import Reason, Verdict
from tests.harness.rows import batch_of
from tests.harness.twins.aead import nonce_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firezone.kernels.session import SessionTable

LOCAL = Endpoint.from_text("192.0.2.1", 52625)
REMOTE = Endpoint.from_text("198.51.100.7", 4000)
REMOTE_V6 = Endpoint.from_text("2001:db8::7", 4001)
NEVER = (1 << 64) - 1
SEND, RECEIVE = bytes(range(32)), bytes(range(32, 64))
GAP = 16
HEADER = struct.Struct("<IIQ")

FORWARD = (Verdict.FORWARD, Reason.NONE)


def dropped(reason: Reason) -> tuple[Verdict, Reason]:
    return Verdict.DROP, reason


def message(index: int, counter: int, packet: bytes, key: bytes = RECEIVE) -> bytes:
    """A data message as the other side makes it."""
    return HEADER.pack(4, index, counter) + ChaCha20Poly1305(key).encrypt(nonce_of(counter), packet, None)


def opened(datagram: bytes, key: bytes = SEND) -> tuple[int, int, bytes]:
    """Index, counter and packet of a data message that we made."""
    kind, index, counter = HEADER.unpack_from(datagram)
    assert kind == 4
    return index, counter, ChaCha20Poly1305(key).decrypt(nonce_of(counter), datagram[16:], None)


def packets_for(peer: int, packets: Sequence[bytes]) -> PacketBatch:
    """Packets on their way to a peer, with room for header and tag around each."""
    batch = batch_of(packets, gap=2 * GAP)
    batch.peer[: batch.n] = peer
    return batch


def activity(table: SessionTable) -> list[tuple[int, ...]]:
    return [tuple(record) for record in table.take_activity().tolist()]
