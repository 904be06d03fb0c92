"""One measurement of one contender: the groups of rows, each a function of its own, between a start and a stop."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.lab.measure import fetch_page, ping, throughput, wait_for_page
from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_PORT
from perf.datagrams import Flows
from perf.figures import DATAGRAM_SIZE, SMALL_SIZE, STREAMS, UDP_RATE
from perf.handshakes import per_cpu_second
from perf.processes import NotCounted, SyscallCounter, context_switches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from firezone.lab.programs import Program
    from perf.contenders import Contender

SEGMENT_SIZE = 1228
"""Bytes of TCP payload in a full packet of the inner MTU, with time stamps."""
READY_S = 20
SETTLE_S = 0.5
"""From a new login to the first packet: relays have lent their addresses by then, as they have when somebody begins to work."""
PINGS, PING_INTERVAL_S = 200, 0.01
SAMPLING_S = 0.1

Figures = dict[str, float]


@dataclass(slots=True)
class Bench:
    """What a group needs."""

    contender: Contender
    seconds: float
    """Length of a TCP transfer; other measurements take a share of it."""
    tell: Callable[[str], None]

    def transfer(self, *, is_down: bool, seconds: float | None = None, streams: int = 1) -> dict[str, Any]:
        client = self.contender.topology.client
        return throughput(client, RESOURCE_ADDRESS, seconds or self.seconds, reverse=is_down, streams=streams)


@contextmanager
def running(contender: Contender) -> Iterator[None]:
    """Starts a contender, waits until the resource is reached and stops it in the end. Raises FirezoneError."""
    try:
        contender.start()
        wait_for_page(contender.topology.client, RESOURCE_ADDRESS, RESOURCE_PORT, READY_S)
        yield
    finally:
        contender.stop()


def measure(bench: Bench, groups: list[str]) -> Figures:
    """Measures these groups of a contender. Raises FirezoneError when one of them cannot be measured."""
    found: Figures = {}
    with running(bench.contender):
        for group in groups:
            found |= GROUP_FUNCTIONS[group](bench)
    if "tcp" in groups and (per_send := bench.contender.datagrams_per_send()) is not None:
        found["datagrams_per_send"] = per_send
    return {figure: round(value, 4) for figure, value in found.items()}


def first(bench: Bench) -> Figures:
    """A TCP connection to the resource when the client has none to the gateway."""
    if not bench.contender.can_renew:
        return {}
    times = []
    for _ in range(max(1, min(5, round(bench.seconds)))):
        bench.contender.renew()
        time.sleep(SETTLE_S)
        times.append(fetch_page(bench.contender.topology.client, RESOURCE_ADDRESS, RESOURCE_PORT)["connect_ms"])
    return {"first_packet_ms": statistics.median(times)}


def idle(bench: Bench) -> Figures:
    before = sum(bench.contender.cpu_seconds().values())
    rtt = ping(bench.contender.topology.client, RESOURCE_ADDRESS, count=PINGS, interval=PING_INTERVAL_S)
    found = {"rtt_p50_ms": rtt["p50"], "rtt_p99_ms": rtt["p99"]}
    if bench.contender.programs:
        found["echo_cpu_us"] = (sum(bench.contender.cpu_seconds().values()) - before) / PINGS * 1e6
    return found


def tcp(bench: Bench) -> Figures:
    contender = bench.contender
    cpu, switches = contender.cpu_seconds(), sum(map(context_switches, contender.pids()))
    with Peak(contender.programs.get("client")) as peak:
        up, down = bench.transfer(is_down=False), bench.transfer(is_down=True)
    used = {part: value - cpu[part] for part, value in contender.cpu_seconds().items()}
    transferred = up["bytes"] + down["bytes"]
    found = {
        "up_gbps": up["gbps"], "down_gbps": down["gbps"],
        "resent_percent": 100 * (up["retransmits"] + down["retransmits"]) / (transferred / SEGMENT_SIZE),
    }  # fmt: skip
    if used:
        gigabytes = transferred / 1e9
        found["cpu_s_per_gb"] = sum(used.values()) / gigabytes
        found |= {f"cpu_{part}_s_per_gb": value / gigabytes for part, value in used.items()}
        found["switches_per_gb"] = (sum(map(context_switches, contender.pids())) - switches) / 1000 / gigabytes
        found["client_mib"] = peak.mib
    return found


def tcp8(bench: Bench) -> Figures:
    up, down = (bench.transfer(is_down=is_down, streams=STREAMS)["gbps"] for is_down in (False, True))
    return {"up8_gbps": up, "down8_gbps": down}


def loaded(bench: Bench) -> Figures:
    found: Figures = {}
    seconds = max(1.0, min(bench.seconds, 3.0))
    client = bench.contender.topology.client
    for way, is_down in (("up", False), ("down", True)):
        with ThreadPoolExecutor(1) as pool:
            transfer = pool.submit(bench.transfer, is_down=is_down, seconds=seconds)
            time.sleep(seconds / 5)  # a stream begins slowly
            rtt = ping(client, RESOURCE_ADDRESS, count=round(seconds * 0.7 / PING_INTERVAL_S), interval=PING_INTERVAL_S)
            transfer.result()
        found |= {f"loaded_{way}_p50_ms": rtt["p50"], f"loaded_{way}_p99_ms": rtt["p99"]}
    return found


def syscalls(bench: Bench) -> Figures:
    pids = bench.contender.pids()
    if not pids:
        return {}
    seconds = min(bench.seconds, 1.0)
    try:
        with SyscallCounter(pids) as counter:
            transferred = sum(bench.transfer(is_down=is_down, seconds=seconds)["bytes"] for is_down in (False, True))
            calls = counter.count()
    except NotCounted as why:
        bench.tell(str(why))
        return {}
    return {"syscalls_per_gb": calls / 1000 / (transferred / 1e9)}


def udp(bench: Bench) -> Figures:
    found = {}
    flows = Flows.open(bench.contender.topology)
    seconds = min(bench.seconds / 2, 2.0)
    try:
        found["udp_lost_percent"] = flows.way(up=True, size=DATAGRAM_SIZE).lost_percent(UDP_RATE, seconds)
        for name, up in (("up", True), ("down", False)):
            way = flows.way(up=up, size=DATAGRAM_SIZE)
            received, passed, _ = way.most(bench.contender, seconds / 4)
            found[f"udp_{name}_kpps"] = way.loss_free(received / passed, seconds / 4) / 1000
    finally:
        flows.close()
    return found


def small(bench: Bench) -> Figures:
    return {
        f"small_{way}_per_cpu": received / sum(cpu.values()) / 1000
        for way, (received, cpu) in _saturate(bench, SMALL_SIZE).items()
        if cpu
    }


def relay(bench: Bench) -> Figures:
    if "relay" not in bench.contender.programs:
        return {}
    found = _saturate(bench, DATAGRAM_SIZE)
    return {f"relay_{way}_per_cpu": received / cpu["relay"] / 1000 for way, (received, cpu) in found.items()}


def _saturate(bench: Bench, size: int) -> dict[str, tuple[float, dict[str, float]]]:
    """Sends as much each way as comes through. Returns, by direction, datagrams received and CPU seconds by part."""
    found = {}
    flows = Flows.open(bench.contender.topology)
    try:
        for name, up in (("up", True), ("down", False)):
            received, _, cpu = flows.way(up=up, size=size).most(bench.contender, min(bench.seconds / 2, 1.0))
            found[name] = received, cpu
    finally:
        flows.close()
    return found


def connections(bench: Bench) -> Figures:
    return per_cpu_second(bench.contender)


GROUP_FUNCTIONS: dict[str, Callable[[Bench], Figures]] = {
    function.__name__: function for function in (first, idle, tcp, tcp8, loaded, syscalls, udp, small, relay, connections)
}


@dataclass
class Peak:
    """The most resident memory of a program while it is entered, by samples."""

    program: Program | None
    mib: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Peak:
        if self.program is not None:
            self._thread = threading.Thread(target=self._sample, name="memory samples")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self) -> None:
        assert self.program is not None
        while not self._over.wait(SAMPLING_S) and self.program.process.poll() is None:
            self.mib = max(self.mib, self.program.resident_mib())
