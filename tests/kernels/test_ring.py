"""The ring between a reader and the tick, from the side of Python; `csrc/tests/test_ring_threads.c` runs it between threads."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from firezone.kernels.batch import RunList
from firezone.kernels.offload import group_runs
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import ADDRESS
from tests.harness.rows import address, batch_of


@pytest.mark.parametrize("slots", [0, 3, 1 << 21, -4])
def test_a_ring_needs_a_power_of_two_of_slots(slots: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        PacketRing(slots)


@pytest.mark.parametrize(("slots", "size"), [(4, 63), (1 << 20, 1 << 12)])
def test_slots_that_offsets_could_not_address_are_refused(slots: int, size: int) -> None:
    with pytest.raises(ValueError, match="cannot have slots of"):
        PacketRing(slots, size)


def test_push_fills_every_column() -> None:
    ring, here, there = PacketRing(2), address(port=5), address(bytes(15) + b"\1", 6)
    assert ring.push(b"abcdef", offset=2, stride=3, socket=6, local=here, remote=there, ecn=3)
    assert (ring.offset[0], ring.length[0], ring.stride[0], ring.socket[0], ring.ecn[0]) == (2, 4, 3, 6, 3)
    assert (ring.local[0], ring.remote[0]) == (here, there)
    assert ring.slab[0, :6].tobytes() == b"abcdef"
    assert ring.push(b"xy")
    assert (ring.stride[1], ring.local[1]) == (2, np.zeros((), ADDRESS))


def test_push_refuses_what_does_not_fit() -> None:
    ring = PacketRing(2, 64)
    for data, offset in ((bytes(65), 0), (b"ab", 3), (b"ab", -1)):
        with pytest.raises(ValueError, match="do not fit a slot"):
            ring.push(data, offset=offset)
    assert ring.ready() == 0


def test_more_than_is_ready_cannot_be_released() -> None:
    ring = PacketRing(2)
    ring.push(b"a")
    with pytest.raises(ValueError, match="2 slots cannot be released, 1 are in use"):
        ring.release(2)


def test_consumer_is_to_be_woken_only_after_it_said_it_sleeps() -> None:
    ring = PacketRing(2)
    assert ring.consumer_sleeps()
    ring.push(b"a")
    assert not ring.consumer_sleeps()


def test_datagram_runs_arrive_as_one_read_each_with_addresses_swapped() -> None:
    batch, runs, ring = batch_of([b"abc", b"def", b"g", b"hij"]), RunList(4), PacketRing(4)
    here, there = address(port=1), address(port=2)
    for row in range(4):
        batch.local[row], batch.remote[row], batch.ecn[row], batch.socket[row] = here, there, 2, 4
    batch.prefix[1, :2], batch.prefix_len[1], batch.skip[1] = (0x58, 0x59), 2, 2
    assert group_runs(batch, runs) == 2
    assert ring.push_datagram_runs(batch, runs) == 2
    assert ring.slab[0, :7].tobytes() == b"abcXYfg"
    assert (ring.length[0], ring.stride[0], ring.ecn[0], ring.socket[0]) == (7, 3, 2, 4)
    assert (ring.local[0], ring.remote[0]) == (there, here)
    assert ring.push_datagram_runs(batch, runs, 1, 1) == 1
    assert ring.slab[2, :3].tobytes() == b"hij"


def test_runs_stop_at_a_full_ring() -> None:
    batch, runs, ring = batch_of([b"a", b"bb", b"ccc"]), RunList(4), PacketRing(2)
    assert group_runs(batch, runs) == 3
    assert ring.push_packet_runs(batch, runs) == 2
    assert ring.push_packet_runs(batch, runs, 2) == 0
    ring.release(1)
    assert ring.push_packet_runs(batch, runs, 2) == 1


class RingMachine(RuleBasedStateMachine):
    """The ring against a deque: what was pushed comes out in order, wherever the indices wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = PacketRing(4, 64)
        self.model: deque[bytes] = deque()

    @rule(data=st.binary(max_size=64))
    def push(self, data: bytes) -> None:
        assert self.ring.push(data) == (len(self.model) < 4)
        if len(self.model) < 4:
            self.model.append(data)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.model)))
        self.ring.release(count)
        for _ in range(count):
            self.model.popleft()

    @invariant()
    def holds_what_was_pushed(self) -> None:
        assert (self.ring.ready(), self.ring.free()) == (len(self.model), 4 - len(self.model))
        for place, data in enumerate(self.model):
            slot = (self.ring.tail() + place) % 4
            assert self.ring.slab[slot, : self.ring.length[slot]].tobytes() == data


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=30, stateful_step_count=30)
