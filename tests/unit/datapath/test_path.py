"""The two directions in one call against their stages called one by one, over whole reads of anything."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.limits import BATCH_ROWS
from firezone.base.timing import SECOND
from firezone.datapath.path import DOWNLINK_STAGES, SLAB_SIZE, UPLINK_STAGES, Downlink, Uplink
from firezone.datapath.tables import Tables
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import group_runs, join_batch, split_batch
from firezone.kernels.ring import PacketRing
from firezone.kernels.types import Reason, Verdict
from tests.harness import packets
from tests.harness.engines import INDICES, KEYS, OUTER
from tests.harness.rows import address, gathered, outcomes, tun_ring

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = 1000 * SECOND
ANYWHERE = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
PROXY, REAL = "100.96.0.7", "10.0.0.9"


def tables(side: int = 0) -> Tables:
    """One end of a session that may send everything anywhere and is known by one name."""
    made = Tables()
    row = made.sessions.add_peer()
    slot = made.sessions.install(row, INDICES[side], INDICES[1 - side], KEYS[side], KEYS[1 - side], NOW + 180 * SECOND)
    made.sessions.use_for_sending(row, slot, NOW + 170 * SECOND)
    made.sessions.set_path(row, OUTER[side], OUTER[1 - side])
    for network in ANYWHERE:
        made.routes.set(network, row)
    made.filters.set_peer(row, ANYWHERE, ANYWHERE, None)
    made.nat.attach(row, 3)
    made.nat.set_translation(3, ipaddress.ip_address(PROXY).packed, ipaddress.ip_address(REAL).packed)
    return made


def reasons() -> Any:
    return np.zeros(256, np.uint32)


def up_by_stages(own: Tables, ring: PacketRing, counters: Any) -> tuple[PacketBatch, RunList]:
    batch, runs = PacketBatch(BATCH_ROWS), RunList(BATCH_ROWS)
    split_batch(ring, 8, batch, np.zeros(SLAB_SIZE, np.uint8))
    parse_batch(batch, False)
    own.routes.lookup_batch(batch)
    own.nat.translate_to_tunnel(batch, NOW)
    own.filters.admit_to_tunnel(batch)
    own.sessions.seal_batch(batch, NOW)
    group_runs(batch, runs)
    batch.count_reasons(counters)
    return batch, runs


def down_by_stages(own: Tables, ring: PacketRing, counters: Any) -> tuple[PacketBatch, RunList]:
    batch, runs = PacketBatch(BATCH_ROWS), RunList(BATCH_ROWS)
    cut_datagrams(ring, 8, batch, own.channels)
    own.sessions.open_batch(batch, NOW)
    parse_batch(batch, True)
    own.filters.admit_from_tunnel(batch)
    own.nat.translate_from_tunnel(batch, NOW)
    join_batch(batch, runs, True)
    batch.count_reasons(counters)
    return batch, runs


def udp_ring(datagrams: Sequence[bytes]) -> PacketRing:
    ring = PacketRing(64)
    local, remote = (address(end.ip, end.port) for end in OUTER[::-1])
    for datagram in datagrams:
        assert ring.push(datagram, local=local, remote=remote)
    return ring


def sealed(plain: Sequence[bytes]) -> list[bytes]:
    """The datagrams in which the other end sends these packets."""
    batch, _ = up_by_stages(tables(), tun_ring([(bytes(10), packet) for packet in plain]), reasons())
    return [batch.row_bytes(row) for row in range(batch.n) if batch.verdict[row] == Verdict.FORWARD]


READS = st.lists(packets.any_packet() | packets.well_formed(), min_size=1, max_size=8)


@given(READS)
def test_up_in_one_call_is_the_stages_one_by_one(reads: list[bytes]) -> None:
    rings = [tun_ring([(bytes(10), packet) for packet in reads]) for _ in range(2)]
    counters, expected = reasons(), reasons()
    uplink = Uplink(tables(), counters)
    batch, runs = up_by_stages(tables(), rings[0], expected)
    assert uplink.run(rings[1], 8, NOW) == uplink.taken == len(reads)
    assert outcomes(uplink.batch) == outcomes(batch)
    assert gathered(uplink.batch, uplink.runs) == gathered(batch, runs)
    assert (counters == expected).all()
    assert uplink.punted == len(batch.rows(Verdict.PUNT))


@given(packets.flow_packets() | READS, st.booleans())
def test_down_in_one_call_is_the_stages_one_by_one(plain: list[bytes], is_to_a_name: bool) -> None:
    if is_to_a_name:
        plain = [*plain, packets.udp("10.8.0.1", PROXY, b"question")]
    datagrams = [*sealed(plain)[:6], b"\x04 garbage"]
    counters, expected = reasons(), reasons()
    downlink = Downlink(tables(1), counters)
    rings = [udp_ring(datagrams) for _ in range(2)]
    batch, runs = down_by_stages(tables(1), rings[0], expected)
    assert downlink.run(rings[1], 8, NOW, coalesce=True) == downlink.taken == len(datagrams)
    assert outcomes(downlink.batch) == outcomes(batch)
    assert gathered(downlink.batch, downlink.runs) == gathered(batch, runs)
    assert (counters == expected).all()
    assert downlink.punted == len(batch.rows(Verdict.PUNT)) > 0


def test_a_packet_to_a_name_goes_where_the_name_leads() -> None:
    downlink = Downlink(tables(1), reasons())
    downlink.run(udp_ring(sealed([packets.udp("10.8.0.1", PROXY, b"question")])), 8, NOW, coalesce=True)
    ((_, packet),) = gathered(downlink.batch, downlink.runs)
    assert packet[16:20] == ipaddress.ip_address(REAL).packed


def test_an_empty_ring_is_no_batch() -> None:
    uplink, downlink = Uplink(tables(), reasons()), Downlink(tables(), reasons())
    assert uplink.run(PacketRing(8), 8, NOW) == downlink.run(PacketRing(8), 8, NOW, coalesce=True) == 0
    assert sum(uplink.batch.sizes()[0]) == sum(downlink.batch.sizes()[0]) == 0


def test_batches_are_counted_by_size_and_time_by_stage_when_asked() -> None:
    uplink, downlink = Uplink(tables(), reasons()), Downlink(tables(1), reasons())
    for count in (1, 2, 3, 8):
        assert not any([*uplink.stage_ns.values(), *downlink.stage_ns.values()])
        uplink.is_timed = downlink.is_timed = count == 8
        reads = [packets.udp("10.8.0.1", "10.8.0.2", bytes([n])) for n in range(count)]
        uplink.run(tun_ring([(bytes(10), read) for read in reads]), 8, NOW)
        downlink.run(udp_ring(sealed(reads)), 8, NOW, coalesce=True)
    assert uplink.batch.sizes() == downlink.batch.sizes() == ([0, 1, 2, 0, 1] + [0] * 8, 14)
    assert tuple(uplink.stage_ns) == UPLINK_STAGES
    assert tuple(downlink.stage_ns) == DOWNLINK_STAGES
    assert all(spent > 0 for spent in [*uplink.stage_ns.values(), *downlink.stage_ns.values()])


def test_what_has_no_route_is_counted_under_its_reason() -> None:
    counters = reasons()
    uplink = Uplink(Tables(), counters)
    uplink.run(tun_ring([(bytes(10), packets.udp("10.8.0.1", "10.8.0.2", b"x"))]), 8, NOW)
    assert (uplink.punted, uplink.runs.n, counters[Reason.NO_ROUTE]) == (0, 0, 1)


def test_counters_need_a_place_for_every_reason() -> None:
    with pytest.raises(ValueError, match="256"):
        Uplink(Tables(), np.zeros(255, np.uint32))
