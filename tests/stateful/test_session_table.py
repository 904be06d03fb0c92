"""The session table and the slow store under the same changes and the same batches, in any order."""

from __future__ import annotations

import random
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from firezone.base import limits
from firezone.base.errors import NoSession, RemoteError
from firezone.kernels.session import REPLAY_WINDOW, SessionTable
from firezone.kernels.types import ACTIVITY, Reason, Verdict
from tests.harness.data_messages import FORWARD, LOCAL, REMOTE, REMOTE_V6, activity, dropped, message, packets_for
from tests.harness.rows import batch_of, outcome, raw_bytes
from tests.harness.sessions import SlowSessionStore

if TYPE_CHECKING:
    from firezone.base.ids import PeerRow, SessionSlot
    from firezone.base.net import Endpoint


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


TableAndSlowStore.TestCase.settings = settings(stateful_step_count=40, deadline=None)
TestTableAndSlowStore = TableAndSlowStore.TestCase
