"""The channel table, and cutting with it, against the twin."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import LocalError
from firezone.base.net import Endpoint
from firezone.kernels.batch import PacketBatch
from firezone.kernels.channel import ChannelTable
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import Reason, Verdict
from tests.harness.rows import address, raw_bytes
from tests.harness.twins.channel import SlowChannelTable

LOCAL = address(b"\x0a\0\0\1", 1)
RELAYS = [
    Endpoint.from_text("203.0.113.10", 3478),
    Endpoint.from_text("203.0.113.10", 3479),
    Endpoint.from_text("203.0.113.11", 3478),
    Endpoint.from_text("2001:db8::10", 3478),
    Endpoint.from_text("cb00:710a::", 3478),  # begins with the bytes of the first
]
NUMBERS = st.sampled_from([0x4000, 0x4001, 0x4FFE, 0x4FFF])
WIREGUARD = b"\4\0\0\0" + bytes(28)

HANDSHAKE, CHECK = b"\1\0\0\0" + bytes(144), bytes.fromhex("000100002112a442") + bytes(12)
PAYLOADS = st.sampled_from([b"", b"x", WIREGUARD, WIREGUARD + b"longer", HANDSHAKE, CHECK])


def framed(number: int, payload: bytes, length: int | None = None) -> bytes:
    return number.to_bytes(2, "big") + (len(payload) if length is None else length).to_bytes(2, "big") + payload


@st.composite
def datagrams(draw: st.DrawFn) -> bytes:
    payload = draw(PAYLOADS)
    if draw(st.integers(0, 5)) == 0:
        return payload or b"\x40"
    length = draw(st.sampled_from([None, None, None, len(payload) + 1, 0, 65535]))
    return framed(draw(st.one_of(NUMBERS, st.sampled_from([0x3FFF, 0x5000]))), payload, length)


STEP = st.one_of(
    st.tuples(st.sampled_from(["add_relay", "remove_relay"]), st.sampled_from(RELAYS)),
    st.tuples(st.sampled_from(["open", "open", "close", "has_received"]), st.sampled_from(RELAYS), NUMBERS),
    st.tuples(st.just("receive"), st.sampled_from(RELAYS), st.lists(datagrams(), min_size=1, max_size=4)),
)


def receive(table: ChannelTable | None, source: Endpoint, data: list[bytes]) -> list[tuple[bytes, int, int, int]]:
    """Bytes, channel, verdict and reason of each datagram."""
    ring, batch = PacketRing(8, 4096), PacketBatch(32)
    for datagram in data:
        assert ring.push(datagram, local=LOCAL, remote=address(source.ip, source.port))
    cut_datagrams(ring, 8, batch, table)
    return [(raw_bytes(batch, i), int(batch.channel[i]), int(batch.verdict[i]), int(batch.reason[i])) for i in range(batch.n)]


@given(st.lists(STEP, max_size=40))
def test_every_history_equals_the_twin(steps: list[tuple[object, ...]]) -> None:
    table, twin = ChannelTable(), SlowChannelTable()
    for name, *arguments in steps:
        if name == "receive":
            source, data = arguments
            wanted = [twin.unwrap(source, datagram) for datagram in data]  # type: ignore[arg-type,attr-defined]
            found = receive(table, source, data)  # type: ignore[arg-type]
            assert [(data, number, Reason(reason)) for data, number, _, reason in found] == wanted
            assert all(verdict == (Verdict.PUNT if reason else Verdict.FORWARD) for _, _, verdict, reason in found)
            continue
        results: list[object] = []
        for target in (table, twin):
            try:
                results.append(getattr(target, str(name))(*arguments))
            except LocalError as error:
                results.append(str(error))
        assert results[0] == results[1]
        assert len(table) == len(twin)


def test_a_train_of_channel_data_is_cut_and_unwrapped_in_place() -> None:
    table = ChannelTable()
    table.add_relay(RELAYS[0])
    for number in (0x4000, 0x4001):
        table.open(RELAYS[0], number)
    data = [framed(0x4000 + (i == 2), b"\4\0\0\0" + bytes([i] * 28)) for i in range(5)]
    ring, batch = PacketRing(2), PacketBatch(8)
    ring.push(b"".join(data), stride=len(data[0]), local=LOCAL, remote=address(RELAYS[0].ip, 3478))
    assert cut_datagrams(ring, 2, batch, table) == 1
    assert [raw_bytes(batch, row) for row in range(5)] == [datagram[4:] for datagram in data]
    assert batch.channel[:5].tolist() == [0x4000, 0x4000, 0x4001, 0x4000, 0x4000]
    assert set(batch.verdict[:5].tolist()) == {int(Verdict.FORWARD)}
    assert np.shares_memory(batch.slab, ring.slab)


def test_without_a_table_all_channel_data_is_punted() -> None:
    assert receive(None, RELAYS[0], [framed(0x4000, WIREGUARD)])[0][2:] == (Verdict.PUNT, Reason.CHANNEL_DATA)


def test_wrong_numbers_and_relays_are_refused_with_words() -> None:
    table = ChannelTable()
    with pytest.raises(LocalError, match=r"No relay is known at 203\.0\.113\.10:3478"):
        table.open(RELAYS[0], 0x4000)
    table.add_relay(RELAYS[0])
    for number in (-1, 0, 0x3FFF, 0x5000, 1 << 30):
        for call in (table.open, table.close, table.has_received):
            with pytest.raises(LocalError, match="is no channel number"):
                call(RELAYS[0], number)
    with pytest.raises(LocalError, match="4 or 16 bytes"):
        table.add_relay(Endpoint(b"abc", 1))


def test_a_thousand_relays_come_and_go() -> None:
    table = ChannelTable()
    relays = [Endpoint(number.to_bytes(4, "big"), 3478) for number in range(1000)]
    for relay in relays:
        table.add_relay(relay)
        table.open(relay, 0x4000)
    for relay in relays[::2]:
        table.remove_relay(relay)
        with contextlib.suppress(LocalError):
            table.open(relay, 0x4000)
    assert len(table) == 500
    assert receive(table, relays[1], [framed(0x4000, WIREGUARD)])[0][2] == Verdict.FORWARD
    assert receive(table, relays[2], [framed(0x4000, WIREGUARD)])[0][3] == Reason.UNKNOWN_DATAGRAM
