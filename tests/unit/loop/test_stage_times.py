"""The stopwatch of the ticks, on a clock of its own."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP

from firezone.loop.stage_times import SAMPLE_EVERY, StageTimes, Timed
from tests.harness.engines import INNER, ManualClock, pair


class HandClock:
    """Counts what the test says."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def pass_by(self, ns: int) -> str:
        self.now += ns
        return "done"


def test_stages_and_what_is_between_them_add_up_to_the_tick() -> None:
    clock = HandClock()
    times = StageTimes(clock)
    read, send = times.around("read", clock.pass_by), times.around("send", clock.pass_by)

    def tick() -> str:
        clock.now += 5
        assert read(10) == read(20) == "done"
        return send(ns=100)

    assert times.run(tick) == "done"
    assert times.report() == {
        "sampled": 1, "total_ns": 135, "ns": {"read": 30, "send": 100, "other": 5}, "calls": {"read": 2, "send": 1},
    }  # fmt: skip


def test_a_stage_that_fails_is_timed_and_fails() -> None:
    clock = HandClock()
    times = StageTimes(clock)

    def fail() -> None:
        clock.now += 7
        raise KeyError("x")

    with pytest.raises(KeyError):
        times.run(times.around("read", fail))
    assert times.report()["ns"] == {"read": 7, "other": 0}


def test_a_timed_object_keeps_all_that_is_not_timed() -> None:
    clock = HandClock()
    times = StageTimes(clock)
    timed = Timed(clock, {"pass_by": "waiting"}, times)
    timed.pass_by(3)
    assert timed.now == 3
    assert timed.target is clock
    assert times.report()["ns"]["waiting"] == 3


def tick_with_traffic(ticks: int) -> tuple[Any, list[bytes]]:
    """Ticks an engine so often with a packet each; returns it and what came out at the other end."""
    alice, bob = pair(ManualClock())
    packet = bytes(IP(src=INNER[0], dst=INNER[1]) / UDP(sport=1, dport=2) / b"x")
    received: list[bytes] = []
    for _ in range(ticks):
        alice.tun.send(packet)
        alice.engine.tick()
        while bob.engine.tick():
            pass
        received += [packet for _, packet in bob.tun.receive()]
    return alice.engine, received


def test_one_tick_in_many_is_timed_and_all_do_the_same() -> None:
    engine, received = tick_with_traffic(2 * SAMPLE_EVERY)
    ends = engine.tun_source, engine.tun_sink, engine.udp_sink, *engine.udp_sources, engine.machine
    assert not any(isinstance(end, Timed) for end in ends), "the stopwatch is taken off again"
    assert len(received) == 2 * SAMPLE_EVERY
    assert len(set(received)) == 1
    counters = engine.counters()
    stages = counters["stages"]
    assert stages["sampled"] == 2
    assert stages["calls"]["tun.read"] >= 2
    assert {"tun.read", "udp.read", "udp.send", "uplink.split", "uplink.seal"} <= stages["ns"].keys()
    assert "downlink.open" not in stages["ns"]
    assert not engine.uplink.is_timed
    assert 0 < sum(stages["ns"].values()) <= stages["total_ns"]


def test_an_engine_tells_what_its_batches_and_rings_held() -> None:
    engine, received = tick_with_traffic(5)
    counters = engine.counters()
    assert len(received) == counters["ticks"] == 5
    assert counters["batches"]["tun"] == {
        "reads": {"count": 5, "sum": 5, "mean": 1.0, "sizes": {"1": 5}},
        "rows": {"count": 5, "sum": 5, "mean": 1.0, "sizes": {"1": 5}},
    }
    assert counters["batches"]["udp"]["reads"]["count"] == 0
    assert counters["rings"]["tun"]["most_used"] == 1
    assert counters["rings"]["tun"]["used"] == 0


def test_a_caller_is_served_first_in_a_timed_tick_too() -> None:
    alice, bob = pair(ManualClock())
    packet = bytes(IP(src=INNER[0], dst=INNER[1]) / UDP(sport=1, dport=2) / b"x")
    alice.engine.ticks = SAMPLE_EVERY - 1
    alice.tun.send(packet)
    alice.engine.tick((alice.tun.source, 0))
    bob.engine.tick()
    assert [received for _, received in bob.tun.receive()] == [packet]
    assert alice.engine.counters()["stages"]["sampled"] == 1
