"""The session table against the slow store: changes in any order, batches with everything that a network may do to them."""

from __future__ import annotations

import random
import struct
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from firezone.base import limits
from firezone.base.errors import LocalError, NoSession, RemoteError
from firezone.base.net import Endpoint
from firezone.kernels.batch import PacketBatch
from firezone.kernels.session import REJECT_AFTER_MESSAGES, REPLAY_WINDOW, SessionTable
from firezone.kernels.types import ACTIVITY, Reason, Verdict
from tests.harness.rows import batch_of, outcome, outcomes, raw_bytes
from tests.harness.sessions import SlowSessionStore
from tests.harness.twins.aead import nonce_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firezone.base.ids import PeerRow, SessionSlot

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


def one_session(table: SessionTable, index: int = 0x100, reject_after: int = NEVER) -> tuple[PeerRow, SessionSlot]:
    """A peer with a path and one session that is sent on."""
    peer = table.add_peer()
    session = table.install(peer, index, 0xABCD, SEND, RECEIVE, reject_after)
    table.use_for_sending(peer, session, reject_after)
    table.set_path(peer, LOCAL, REMOTE)
    return peer, session


def packets_for(peer: int, packets: Sequence[bytes]) -> PacketBatch:
    """Packets on their way to a peer, with room for header and tag around each."""
    batch = batch_of(packets, gap=2 * GAP)
    batch.peer[: batch.n] = peer
    return batch


def activity(table: SessionTable) -> list[tuple[int, ...]]:
    return [tuple(record) for record in table.take_activity().tolist()]


# ---- the table as a whole ----


class TableAndSlowStore(RuleBasedStateMachine):
    """Every change on both; batches are compared row by row, then the activity."""

    peers = Bundle("peers")
    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.table = SessionTable()
        self.slow = SlowSessionStore()
        self.rows: dict[PeerRow, PeerRow] = {}  # of the slow store, which never uses one twice, to the table's
        self.slots: dict[SessionSlot, SessionSlot] = {}
        self.counters: Counter[SessionSlot] = Counter()
        self.history: list[bytes] = []
        self.done: dict[SessionSlot, list[int]] = {}
        self.indices = 0
        self.now = 1000

    @initialize(target=peers)
    def start(self) -> Any:
        return multiple(*(self.connect() for _ in range(3)))

    @rule(target=peers)
    def connect(self) -> PeerRow:
        """Adds a peer that can be sent to at once, as most peers can."""
        row = self.slow.add_peer()
        self.rows[row] = self.table.add_peer()
        assert len(set(self.rows.values())) == len(self.rows)
        self.set_path_of(row, REMOTE, 0)
        self.send_on(self.new_session(row, 1000), 1000)
        return row

    @rule(peer=consumes(peers))
    def remove_peer(self, peer: PeerRow) -> None:
        gone = [slot for slot, session in self.slow.sessions.items() if session.peer == peer]
        self.slow.remove_peer(peer)
        self.table.remove_peer(self.rows.pop(peer))
        for slot in gone:
            self.forget(slot)

    @rule(target=sessions, peer=peers, lifetime=st.integers(0, 1000), n=st.integers(1, 3))
    def install(self, peer: PeerRow, lifetime: int, n: int) -> Any:
        had = sum(session.peer == peer for session in self.slow.sessions.values())
        return multiple(*(self.new_session(peer, lifetime) for _ in range(min(n, limits.SESSIONS_PER_PEER - had))))

    @rule(session=consumes(sessions))
    def remove(self, session: SessionSlot) -> None:
        if session not in self.slots:
            return
        self.slow.remove(session)
        self.table.remove(self.slots[session])
        self.forget(session)

    @rule(session=sessions, lifetime=st.integers(-10, 1000))
    def use_for_sending(self, session: SessionSlot, lifetime: int) -> None:
        if session in self.slots:
            self.send_on(session, lifetime)

    @rule(peer=peers)
    def send_on_none(self, peer: PeerRow) -> None:
        self.slow.use_for_sending(peer, None, 0)
        self.table.use_for_sending(self.rows[peer], None, 0)

    @rule(peer=peers, remote=st.sampled_from([REMOTE, REMOTE_V6, None]), channel=st.sampled_from([0, 0x4001]))
    def set_path(self, peer: PeerRow, remote: Endpoint | None, channel: int) -> None:
        self.set_path_of(peer, remote, channel)

    @rule(by=st.sampled_from([1, 200, 999]))
    def wait(self, by: int) -> None:
        self.now += by

    @rule(seed=st.integers(0, 1 << 32))
    def seal_one(self, seed: int) -> None:
        for slot in list(self.slots)[seed % 3 :: 3]:
            packet = random.Random(seed).randbytes(seed % 100)
            assert self.table.seal(self.slots[slot], packet) == self.slow.seal(slot, packet)

    @rule(seed=st.integers(0, 1 << 32), n=st.integers(0, 40))
    def seal_batch(self, seed: int, n: int) -> None:
        rng = random.Random(seed)
        peers = [*self.rows, None]
        chosen = [rng.choice(peers) for _ in range(n)]
        packets = [rng.randbytes(rng.choice([1, 40, 100, 700])) for _ in chosen]
        batch = packets_for(-1, packets)
        for row, peer in enumerate(chosen):
            batch.peer[row] = rng.choice([-1, -5, 1 << 20]) if peer is None else self.rows[peer]
        sealed = self.table.seal_batch(batch, self.now)
        for row, (peer, packet) in enumerate(zip(chosen, packets, strict=True)):
            path = None if peer is None else self.slow.peers[peer]
            slot, until = (None, 0) if peer is None else self.slow.sending.get(peer, (None, 0))
            if path is None or slot is None or self.now > until:
                assert outcome(batch, row) == (Verdict.PUNT, Reason.NO_PATH)
                assert raw_bytes(batch, row) == packet
                continue
            sealed -= 1
            expected = self.slow.seal(slot, packet)
            assert outcome(batch, row) == FORWARD
            assert raw_bytes(batch, row) == expected
            assert batch.session[row] == self.slots[slot]
            assert batch.socket[row] == (4 if path.remote.is_ipv4 else 6)
            assert batch.remote[row]["port"] == path.remote.port
            assert bytes(batch.remote[row]["ip"])[: len(path.remote.ip)] == path.remote.ip
            header = struct.pack(">HH", path.channel, len(expected)) if path.channel else b""
            assert batch.row_bytes(row) == header + expected
            self.note(slot, sent=1, sent_bytes=len(packet))
        assert sealed == 0

    @rule(seed=st.integers(0, 1 << 32), n=st.integers(0, 40))
    def open_batch(self, seed: int, n: int) -> None:
        rng = random.Random(seed)
        datagrams = [self.datagram(rng) for _ in range(n)]
        batch = batch_of(datagrams, gap=1)
        left = self.table.open_batch(batch, self.now)
        for row, datagram in enumerate(datagrams):
            try:
                slot, peer, packet = self.slow.open(datagram, self.now)
            except NoSession:
                assert outcome(batch, row) == dropped(Reason.UNKNOWN_SESSION)
            except RemoteError as error:
                word = str(error)
                reason = Reason.REPLAYED if "replay" in word else Reason.EXPIRED_SESSION if "expired" in word else Reason.BAD_TAG
                assert outcome(batch, row) == dropped(reason)
            else:
                assert (batch.session[row], batch.peer[row]) == (self.slots[slot], self.rows[peer])
                assert raw_bytes(batch, row) == packet
                assert outcome(batch, row) == (FORWARD if packet else (Verdict.FREE, Reason.NONE))
                left -= bool(packet)
                self.note(slot, received=bool(packet), keepalives=not packet, received_bytes=len(packet))
        assert left == 0

    @rule()
    def take_activity(self) -> None:
        expected = {(self.slots[slot], self.rows[self.slow.sessions[slot].peer], *counts) for slot, counts in self.done.items()}
        taken = activity(self.table)
        assert len(taken) == len(expected)
        assert set(taken) == expected
        self.done.clear()

    def new_session(self, peer: PeerRow, lifetime: int) -> SessionSlot:
        self.indices += 0x100
        send, receive = (bytes([side, *self.indices.to_bytes(4, "big")]).ljust(32, b"k") for side in (1, 2))
        reject_after = self.now + lifetime
        slot = self.slow.install(peer, self.indices, self.indices ^ 0xFFFF, send, receive, reject_after)
        twin = self.table.install(self.rows[peer], self.indices, self.indices ^ 0xFFFF, send, receive, reject_after)
        self.slots[slot] = twin
        assert len(set(self.slots.values())) == len(self.slots)
        return slot

    def send_on(self, session: SessionSlot, lifetime: int) -> None:
        peer, until = self.slow.sessions[session].peer, max(self.now + lifetime, 0)
        self.slow.use_for_sending(peer, session, until)
        self.table.use_for_sending(self.rows[peer], self.slots[session], until)

    def set_path_of(self, peer: PeerRow, remote: Endpoint | None, channel: int) -> None:
        self.slow.set_path(peer, LOCAL, remote, channel)
        self.table.set_path(self.rows[peer], LOCAL, remote, channel)

    def datagram(self, rng: random.Random) -> bytes:
        """A data message of the other side: new, old, repeated, damaged, or for nobody."""
        kind = rng.randrange(8)
        if kind == 0 and self.history:
            return rng.choice(self.history)
        if not self.slots or kind == 1:
            return message(rng.getrandbits(32) | 1, 0, b"packet")
        slot = rng.choice(list(self.slots))
        session = self.slow.sessions[slot]
        self.counters[slot] += rng.choice([1, 1, 1, 2, 70, REPLAY_WINDOW])
        counter = max(self.counters[slot] - (rng.randrange(2 * REPLAY_WINDOW) if kind == 2 else 0), 0)
        packet = rng.randbytes(rng.choice([0, 1, 40, 300]))
        made = message(session.local_index, counter, packet, session.receive_key)
        self.history.append(made)
        if kind == 3:
            made = bytes([*made[:-1], made[-1] ^ 1])
        return made

    def note(self, slot: SessionSlot, **counts: int) -> None:
        names = ACTIVITY.names
        assert names is not None
        done = self.done.setdefault(slot, [0] * (len(names) - 2))
        for name, count in counts.items():
            done[names.index(name) - 2] += int(count)

    def forget(self, slot: SessionSlot) -> None:
        self.slots.pop(slot)
        self.done.pop(slot, None)


TableAndSlowStore.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestTableAndSlowStore = TableAndSlowStore.TestCase


# ---- sealing ----


def test_counters_follow_the_order_of_rows() -> None:
    table = SessionTable()
    peer, session = one_session(table)
    table.seal(session, b"")
    batch = packets_for(peer, [b"a" * n for n in range(1, 71)])
    assert table.seal_batch(batch, 0) == 70
    assert [opened(raw_bytes(batch, row)) for row in range(70)] == [(0xABCD, 1 + row, b"a" * (1 + row)) for row in range(70)]


def test_other_verdicts_are_passed_over() -> None:
    table = SessionTable()
    peer, _ = one_session(table)
    batch = packets_for(peer, [b"one", b"two", b"three"])
    batch.verdict[0], batch.verdict[1] = Verdict.DROP, Verdict.PUNT
    assert table.seal_batch(batch, 0) == 1
    assert [raw_bytes(batch, row) for row in range(2)] == [b"one", b"two"]
    opening = batch_of([message(0x100, 0, b"x")] * 2)
    opening.verdict[0] = Verdict.DROP
    assert table.open_batch(opening, 0) == 1
    assert raw_bytes(opening, 0) == message(0x100, 0, b"x")


def test_datagrams_of_a_run_lie_back_to_back() -> None:
    """The tag of one packet ends where the header of the next begins: exactly the room that splitting leaves."""
    table = SessionTable()
    peer, _ = one_session(table)
    packets = [bytes([n]) * 100 for n in range(20)]
    batch = packets_for(peer, packets)
    slab = np.asarray(batch.slab)
    for row, packet in enumerate(packets):
        batch.offset[row] = 16 + 132 * row
        slab[16 + 132 * row :][:100] = np.frombuffer(packet, np.uint8)
    table.seal_batch(batch, 0)
    train = slab[: 132 * 20].tobytes()
    assert [opened(train[132 * n :][:132])[2] for n in range(20)] == packets


@pytest.mark.parametrize(("offset", "length"), [(15, 10), (0, 1), (16, 69), (100, 0xFFFFFFFF), (0xFFFFFFF0, 64), (85, 0)])
def test_rows_without_room_in_the_slab_are_dropped(offset: int, length: int) -> None:
    table = SessionTable()
    peer, _ = one_session(table)
    batch = PacketBatch(1)
    slab = np.zeros(100, np.uint8)
    batch.over(slab)
    batch.append(0, 0)
    batch.peer[0], batch.offset[0], batch.length[0] = peer, offset, length
    assert table.seal_batch(batch, 0) == 0
    assert outcome(batch, 0) == dropped(Reason.BATCH_FULL)
    assert not slab.any()
    batch.offset[0], batch.length[0], batch.verdict[0] = 16, 68, Verdict.FORWARD
    assert table.seal_batch(batch, 0) == 1
    assert opened(slab.tobytes()) == (0xABCD, 0, bytes(68))


def test_a_session_past_its_time_is_not_sent_on() -> None:
    table = SessionTable()
    peer, _ = one_session(table, reject_after=500)
    batch = packets_for(peer, [b"packet"])
    assert table.seal_batch(batch, 500) == 1
    batch = packets_for(peer, [b"packet"])
    assert table.seal_batch(batch, 501) == 0
    assert outcome(batch, 0) == (Verdict.PUNT, Reason.NO_PATH)


def test_more_than_one_worker_is_refused() -> None:
    with pytest.raises(ValueError, match="4 cores"):
        SessionTable().seal_batch(packets_for(0, [b"x"]), 0, workers=4)


# ---- opening ----


def test_a_message_twice_in_one_batch_is_taken_once() -> None:
    table = SessionTable()
    one_session(table)
    batch = batch_of([message(0x100, 5, b"packet")] * 2)
    assert table.open_batch(batch, 0) == 1
    assert outcomes(batch) == [FORWARD, dropped(Reason.REPLAYED)]


def test_a_replay_is_refused_before_it_is_decrypted() -> None:
    """Whoever repeats old messages costs a look-up each, not a decryption."""
    table = SessionTable()
    one_session(table)
    table.open_batch(batch_of([message(0x100, 5, b"packet")]), 0)
    batch = batch_of([message(0x100, 5, b"packet")])
    assert table.open_batch(batch, 0) == 0
    assert raw_bytes(batch, 0) == message(0x100, 5, b"packet")


def test_a_forged_message_does_not_use_up_its_counter() -> None:
    table = SessionTable()
    one_session(table)
    forged = message(0x100, 5, b"packet", key=bytes(32))
    batch = batch_of([forged, message(0x100, 5, b"packet"), forged])
    assert table.open_batch(batch, 0) == 1
    assert outcomes(batch) == [dropped(Reason.BAD_TAG), FORWARD, dropped(Reason.BAD_TAG)]
    assert raw_bytes(batch, 0) == forged


def test_a_forged_far_counter_does_not_move_the_window() -> None:
    table = SessionTable()
    one_session(table)
    table.open_batch(batch_of([message(0x100, REJECT_AFTER_MESSAGES - 1, b"x", key=bytes(32))]), 0)
    assert table.open_batch(batch_of([message(0x100, 0, b"x")]), 0) == 1


def test_counters_end_where_the_paper_says() -> None:
    table = SessionTable()
    one_session(table)
    assert REJECT_AFTER_MESSAGES == 2**64 - 2**13 - 1
    last = [message(0x100, REJECT_AFTER_MESSAGES + step, b"x") for step in (-1, 0, 8192)]
    batch = batch_of(last)
    assert table.open_batch(batch, 0) == 1
    assert outcomes(batch) == [FORWARD, *[dropped(Reason.COUNTER_EXHAUSTED)] * 2]
    with pytest.raises(RemoteError):
        table.open(last[1], 0)


def test_short_rows_are_dropped() -> None:
    table = SessionTable()
    one_session(table)
    whole = message(0x100, 0, b"")
    batch = batch_of([whole[:n] for n in range(32)])
    assert table.open_batch(batch, 0) == 0
    assert set(outcomes(batch)) == {dropped(Reason.MALFORMED_PACKET)}
    for n in range(32):
        with pytest.raises(RemoteError, match="32 bytes or more"):
            table.open(whole[:n], 0)
    batch = batch_of([whole])
    assert table.open_batch(batch, 0) == 0
    assert outcome(batch, 0) == (Verdict.FREE, Reason.NONE)


@pytest.mark.parametrize(("offset", "length"), [(90, 33), (0, 0xFFFFFFFF), (0xFFFFFFFF, 32), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_rows_outside_the_slab_are_dropped(offset: int, length: int) -> None:
    table = SessionTable()
    one_session(table)
    batch = PacketBatch(1)
    batch.over(np.zeros(100, np.uint8))
    batch.append(0, 0)
    batch.offset[0], batch.length[0] = offset, length
    assert table.open_batch(batch, 0) == 0
    assert outcome(batch, 0) == dropped(Reason.MALFORMED_PACKET)


def test_a_session_is_opened_until_its_time_has_come() -> None:
    table = SessionTable()
    one_session(table, reject_after=500)
    batch = batch_of([message(0x100, 0, b"packet")])
    assert table.open_batch(batch, 499) == 1
    batch = batch_of([message(0x100, 1, b"packet")])
    assert table.open_batch(batch, 500) == 0
    assert outcome(batch, 0) == dropped(Reason.EXPIRED_SESSION)
    with pytest.raises(RemoteError, match="expired"):
        table.open(message(0x100, 1, b"packet"), 500)


def test_many_sessions_in_one_batch() -> None:
    table = SessionTable()
    keys = {0x100 * n: bytes([n]) * 32 for n in range(1, 41)}
    rows = {index: table.add_peer() for index in keys}
    for index, key in keys.items():
        table.install(rows[index], index, 0, SEND, key, NEVER)
    datagrams = [message(index, counter, bytes([counter]) * 200, key) for counter in range(5) for index, key in keys.items()]
    batch = batch_of(datagrams, gap=3)
    assert table.open_batch(batch, 0) == 200
    assert batch.peer[:200].tolist() == [*rows.values()] * 5
    assert [raw_bytes(batch, row)[0] for row in range(200)] == [row // 40 for row in range(200)]


# ---- activity ----


def test_activity_is_reported_once_and_per_session() -> None:
    table = SessionTable()
    peer, session = one_session(table)
    other, second = one_session(table, index=0x200)
    table.seal_batch(packets_for(other, [bytes(100)] * 3), 0)
    table.open_batch(batch_of([message(0x100, 0, b"12345"), message(0x100, 1, b""), message(0x200, 0, b"")]), 0)
    assert activity(table) == [(second, other, 3, 0, 1, 300, 0), (session, peer, 0, 1, 1, 0, 5)]
    assert activity(table) == []
    assert table.take_activity().dtype == ACTIVITY


def test_the_slow_path_and_refused_rows_are_no_activity() -> None:
    table = SessionTable()
    _, session = one_session(table)
    table.seal(session, b"packet")
    table.open(message(0x100, 0, b"packet"), 0)
    table.open_batch(batch_of([message(0x100, 0, b"packet"), message(0x100, 1, b"x", key=bytes(32))]), 0)
    assert activity(table) == []


def test_activity_of_a_removed_session_is_forgotten() -> None:
    table = SessionTable()
    peer, session = one_session(table)
    other, second = one_session(table, index=0x200)
    table.seal_batch(packets_for(peer, [b"x"]), 0)
    table.seal_batch(packets_for(other, [b"x"]), 0)
    table.remove(session)
    again = table.install(peer, 0x300, 0, SEND, RECEIVE, NEVER)
    assert again == session
    table.open_batch(batch_of([message(0x300, 0, b"packet")]), 0)
    assert activity(table) == [(second, other, 1, 0, 0, 1, 0), (again, peer, 0, 1, 0, 0, 6)]


# ---- misuse and bounds ----


def test_rows_allocate_nothing() -> None:
    """A quarter of a million packets there and back leave the interpreter's allocations where they were."""
    sender, receiver = SessionTable(), SessionTable()
    peer, _ = one_session(sender)
    receiver.install(receiver.add_peer(), 0xABCD, 0x100, RECEIVE, SEND, NEVER)
    batch = packets_for(peer, [bytes(64)] * 256)

    def run(rounds: int) -> int:
        for _ in range(rounds):
            batch.peer[:] = peer
            assert sender.seal_batch(batch, 0) == receiver.open_batch(batch, 0) == 256
            assert len(sender.take_activity()) == len(receiver.take_activity()) == 1
        return sys.getallocatedblocks()

    before = run(20)
    assert run(1000) - before < 100


def test_misuse_is_refused_with_words() -> None:
    table = SessionTable()
    peer, session = one_session(table)
    other = table.add_peer()
    with pytest.raises(LocalError, match="No peer stands in row 7"):
        table.remove_peer(7)  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="No session stands in slot -1"):
        table.remove(-1)  # type: ignore[arg-type]
    with pytest.raises(NoSession, match="slot 9"):
        table.seal(9, b"")  # type: ignore[arg-type]
    with pytest.raises(LocalError, match="not one of peer"):
        table.use_for_sending(other, session, 0)
    with pytest.raises(LocalError, match="Another session has the index 00000100"):
        table.install(other, 0x100, 0, SEND, RECEIVE, 0)
    with pytest.raises(LocalError, match="32 bytes, not 31 and 32"):
        table.install(other, 0x200, 0, SEND[1:], RECEIVE, 0)
    table.remove(session)
    with pytest.raises(LocalError, match="No session"):
        table.remove(session)
    with pytest.raises(NoSession):
        table.seal(session, b"")
    table.remove_peer(peer)
    with pytest.raises(LocalError, match="No peer"):
        table.remove_peer(peer)


def test_a_peer_has_a_bounded_number_of_sessions() -> None:
    table = SessionTable()
    peer = table.add_peer()
    slots = [table.install(peer, n, 0, SEND, RECEIVE, 0) for n in range(limits.SESSIONS_PER_PEER)]
    with pytest.raises(LocalError, match="8 sessions; one must go first"):
        table.install(peer, 99, 0, SEND, RECEIVE, 0)
    table.remove(slots[3])
    assert table.install(peer, 99, 0, SEND, RECEIVE, 0) == slots[3]


def test_peers_are_bounded_and_rows_used_again() -> None:
    table = SessionTable()
    rows = [table.add_peer() for _ in range(limits.MAX_PEERS)]
    assert sorted(rows) == list(range(limits.MAX_PEERS))
    with pytest.raises(LocalError, match="65536 peers"):
        table.add_peer()
    for row in rows[::2]:
        table.remove_peer(row)
    assert {table.add_peer() for _ in rows[::2]} == set(rows[::2])


def test_sessions_grow_and_are_found_after_churn() -> None:
    table = SessionTable()
    rng = random.Random(4)
    live: dict[int, tuple[PeerRow, SessionSlot]] = {}
    for index in range(1, 4001):
        peer = table.add_peer()
        live[index << 8] = peer, table.install(peer, index << 8, 0, SEND, RECEIVE, NEVER)
        if index % 3 == 0:
            table.remove_peer(live.pop(rng.choice(list(live)))[0])
    for index, (peer, slot) in live.items():
        assert table.open(message(index, 0, b""), 0) == (slot, peer, b"")
    assert max(slot for _, slot in live.values()) < 4000 - 1000


def test_no_change_while_a_batch_is_in_work() -> None:
    """Batches run without the GIL: another thread must not pull sessions from under them."""
    table = SessionTable()
    peer, session = one_session(table)
    batch = packets_for(peer, [bytes(60_000)] * 600)
    refused: list[str] = []

    def meddle() -> None:
        while not refused and worker.is_alive():
            try:
                table.set_path(peer, LOCAL, REMOTE)
            except LocalError as error:
                refused.append(str(error))

    worker = threading.Thread(target=table.seal_batch, args=(batch, 0))
    worker.start()
    meddle()
    worker.join()
    assert refused == ["Another thread is working on a batch with this table."]
    table.remove(session)
