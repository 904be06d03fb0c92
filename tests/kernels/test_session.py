"""The session table and its batch stages case by case; `tests/stateful/test_session_table.py` compares it with the slow store."""

from __future__ import annotations

import random
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from firezone.base import limits
from firezone.base.errors import LocalError, NoSession, RemoteError
from firezone.kernels.batch import PacketBatch
from firezone.kernels.session import REJECT_AFTER_MESSAGES, SessionTable
from firezone.kernels.types import ACTIVITY, Reason, Verdict
from tests.harness.data_messages import (
    FORWARD,
    LOCAL,
    NEVER,
    RECEIVE,
    REMOTE,
    SEND,
    activity,
    dropped,
    message,
    opened,
    packets_for,
)
from tests.harness.rows import batch_of, outcome, outcomes, raw_bytes

if TYPE_CHECKING:
    from firezone.base.ids import PeerRow, SessionSlot


def one_session(table: SessionTable, index: int = 0x100, reject_after: int = NEVER) -> tuple[PeerRow, SessionSlot]:
    """A peer with a path and one session that is sent on."""
    peer = table.add_peer()
    session = table.install(peer, index, 0xABCD, SEND, RECEIVE, reject_after)
    table.use_for_sending(peer, session, reject_after)
    table.set_path(peer, LOCAL, REMOTE)
    return peer, session


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


def test_news_of_an_unconfirmed_session_are_urgent() -> None:
    table = SessionTable()
    peer, first = one_session(table)
    second = table.install(peer, 0x200, 0, SEND, RECEIVE, NEVER)
    table.open_batch(batch_of([message(0x100, 0, b"x")]), 0)
    assert not table.is_urgent
    table.open_batch(batch_of([message(0x200, 0, b"x", key=bytes(32))]), 0)
    assert not table.is_urgent, "forged"
    table.open_batch(batch_of([message(0x200, 0, b"")]), 0)
    assert table.is_urgent
    assert {record[0] for record in activity(table)} == {first, second}
    assert not table.is_urgent
    table.use_for_sending(peer, second, NEVER)
    table.open_batch(batch_of([message(0x200, 1, b"x")]), 0)
    assert not table.is_urgent


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
