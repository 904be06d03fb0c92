"""A session store in plain Python: the slow twin of `kernels.session.SessionTable`, obvious rather than fast."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from firezone.base.errors import NoSession, RemoteError
from firezone.base.ids import PeerRow, SessionSlot
from firezone.base.net import Endpoint
from firezone.base.timing import Instant

REPLAY_WINDOW = 8192


@dataclass
class Session:
    """One session with its keys in the open, so that tests can compare them."""

    peer: PeerRow
    local_index: int
    remote_index: int
    send_key: bytes
    receive_key: bytes
    reject_after: Instant
    next_counter: int = 0
    newest: int = -1
    seen: set[int] = field(default_factory=set)

    def is_fresh(self, counter: int) -> bool:
        return counter + REPLAY_WINDOW > self.newest and counter not in self.seen

    def mark(self, counter: int) -> None:
        self.newest = max(self.newest, counter)
        self.seen = {old for old in self.seen if old + REPLAY_WINDOW > self.newest} | {counter}


@dataclass
class Path:
    """Where a peer's datagrams go."""

    local: Endpoint | None
    remote: Endpoint
    channel: int


class SlowSessionStore:
    """Implements `SessionStore`."""

    def __init__(self) -> None:
        self.peers: dict[PeerRow, Path | None] = {}
        self.sessions: dict[SessionSlot, Session] = {}
        self.sending: dict[PeerRow, tuple[SessionSlot, Instant]] = {}
        self._rows = 0
        self._slots = 0

    def add_peer(self) -> PeerRow:
        row = PeerRow(self._rows)
        self._rows += 1
        self.peers[row] = None
        return row

    def remove_peer(self, peer: PeerRow) -> None:
        del self.peers[peer]
        self.sending.pop(peer, None)
        self.sessions = {slot: session for slot, session in self.sessions.items() if session.peer != peer}

    def install(
        self,
        peer: PeerRow,
        local_index: int,
        remote_index: int,
        send_key: bytes,
        receive_key: bytes,
        reject_after: Instant,
    ) -> SessionSlot:
        assert peer in self.peers
        assert all(session.local_index != local_index for session in self.sessions.values())
        slot = SessionSlot(self._slots)
        self._slots += 1
        self.sessions[slot] = Session(peer, local_index, remote_index, send_key, receive_key, reject_after)
        return slot

    def remove(self, session: SessionSlot) -> None:
        removed = self.sessions.pop(session)
        if self.sending.get(removed.peer, (None, 0))[0] == session:
            del self.sending[removed.peer]

    def use_for_sending(self, peer: PeerRow, session: SessionSlot | None, until: Instant) -> None:
        if session is None:
            self.sending.pop(peer, None)
        else:
            assert self.sessions[session].peer == peer
            self.sending[peer] = session, until

    def set_path(self, peer: PeerRow, local: Endpoint | None, remote: Endpoint | None, channel: int = 0) -> None:
        self.peers[peer] = None if remote is None else Path(local, remote, channel)

    def seal(self, session: SessionSlot, packet: bytes) -> bytes:
        found = self.sessions.get(session)
        if found is None:
            raise NoSession(f"No session stands in slot {session}.")
        counter = found.next_counter
        found.next_counter += 1
        ciphertext = ChaCha20Poly1305(found.send_key).encrypt(_nonce(counter), packet, None)
        return struct.pack("<IIQ", 4, found.remote_index, counter) + ciphertext

    def open(self, datagram: bytes, now: Instant) -> tuple[SessionSlot, PeerRow, bytes]:
        _, index, counter = struct.unpack_from("<IIQ", datagram)
        for slot, session in self.sessions.items():
            if session.local_index == index:
                return slot, session.peer, _open(session, counter, datagram[16:], now)
        raise NoSession(f"No session has the index {index:08x}.")


def _open(session: Session, counter: int, ciphertext: bytes, now: Instant) -> bytes:
    if now >= session.reject_after:
        raise RemoteError("The session is expired.")
    if not session.is_fresh(counter):
        raise RemoteError("The data message is replayed.")
    try:
        plaintext = ChaCha20Poly1305(session.receive_key).decrypt(_nonce(counter), ciphertext, None)
    except InvalidTag as error:
        raise RemoteError("The data message does not authenticate.") from error
    session.mark(counter)
    return plaintext


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")
