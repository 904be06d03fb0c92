"""What a relay does when it is idle, overloaded or flooded: memory, ten-fold overload, garbage and unauthenticated requests."""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firezone.base.errors import FirezoneError
from firezone.lab.namespaces import die_with_parent
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method
from perf.relay import load
from perf.relay.cells import SINGLES, TO_CLIENT, TO_PEER, WINDOW, Cell, Channels
from perf.relay.turn import UDP, Allocation

if TYPE_CHECKING:
    import socket

    from perf.relay.contenders import Contender
    from perf.relay.lanes import Lanes

ALLOCATIONS = 1000
KERNEL_CACHES = ("UDP", "UDPv6", "sock_inode_cache", "filp", "dentry", "eventpoll_epi", "eventpoll_pwq")
"""Kernel memory that an idle socket stands for; its buffers are empty."""
OVERLOAD, OVERLOADS = 10, 5
NICE = 13
"""Of the relay in the test of overload, beside a busy process of ordinary priority: a twentieth of the core is left to it, since
one core of the generator cannot offer ten times what a whole core relays."""
FLOOD_SOCKETS, FLOOD_SHARE = 64, 0.8


@dataclass(frozen=True, slots=True)
class Test:
    """One test: the figures it gives, each with its goal, and how to get them."""

    name: str
    figures: dict[str, str]
    measure: Callable[[Contender, Lanes, float], dict[str, float]]


def memory(contender: Contender, lanes: Lanes, seconds: float) -> dict[str, float]:
    """Returns the memory that an idle allocation costs, in KiB: of the program, and of the kernel for its sockets."""
    _allow_descriptors()
    with _running(contender):
        program, kernel = _memory_of_one(contender, both=False)
    figures = {"KiB of the program": program, "KiB of the kernel": kernel, "KiB in all": program + kernel}
    if contender.has_ipv6:
        with _running(contender):
            figures["KiB in all, IPv4 and IPv6"] = sum(_memory_of_one(contender, both=True))
    return figures


def _memory_of_one(contender: Contender, *, both: bool) -> tuple[float, float]:
    """Returns the program's and the kernel's KiB per allocation, with one address or with both."""
    clients = [Allocation(contender.connect(), *contender.credentials(number)) for number in range(ALLOCATIONS + 100)]
    try:
        for client in clients:
            client.learn_nonce()  # the sockets of the clients themselves take their memory here
        for client in clients[ALLOCATIONS:]:
            client.allocate(both=both)
            client.free()
        time.sleep(0.2)
        resident, kernel = contender.program.resident_mib(), kernel_bytes()
        for client in clients[:ALLOCATIONS]:
            client.allocate(both=both)
        time.sleep(0.5)
        resident, kernel = contender.program.resident_mib() - resident, kernel_bytes() - kernel
    finally:
        for client in clients:
            client.sock.close()
    return resident * 1024 / ALLOCATIONS, kernel / 1024 / ALLOCATIONS


def overload(contender: Contender, lanes: Lanes, seconds: float) -> dict[str, float]:
    """Returns what is relayed of ten times the best rate, as a share of the best rate, from 100 clients."""
    cell = Cell(SINGLES, TO_PEER, 100, 1200)
    seconds = max(seconds, 0.5)
    rates, shares, offers = [], [], []
    with _running(contender), _slowed(contender):
        channels = Channels.bind(contender, lanes, cell.channels)
        plan, sinks = channels.plan(cell), channels.sinks(cell)
        best = _delivered(plan, sinks, seconds, 20_000)[0]
        for factor in (1.5, 3):
            best = max(best, _delivered(plan, sinks, seconds, best * factor)[0])
        for _ in range(OVERLOADS):  # in turns, since a share of a core is not the same for long
            rate = _delivered(plan, sinks, seconds, best * 1.2)[0]
            relayed, offered = _delivered(plan, sinks, seconds, best * OVERLOAD * 1.2)
            rates.append(rate)
            shares.append(relayed / rate)
            offers.append(offered / rate)
        channels.close()
    return {
        "best rate /s": statistics.median(rates),
        "offered, times the best rate": statistics.median(offers),
        "relayed, share of the best rate": statistics.median(shares),
    }


def flood(contender: Contender, lanes: Lanes, seconds: float) -> dict[str, float]:
    """Returns what is left of the rate of channels beside as many datagrams of garbage, and of requests that are not signed."""
    figures = {}
    with _running(contender):
        strangers = [contender.connect() for _ in range(FLOOD_SOCKETS)]
        channels = Channels.bind(contender, lanes, 100)
        for direction in (TO_PEER, TO_CLIENT):
            cell = Cell(SINGLES, direction, 100, 1200)
            plan, sinks = channels.plan(cell), channels.sinks(cell)
            rate = load.run(plan, sinks, seconds, window=WINDOW[SINGLES])["received"] / seconds * FLOOD_SHARE
            for name, datagrams in (("garbage", _garbage()), ("Allocates", _allocates())):
                sinks.drain(0.05)
                alone = load.run(plan, sinks, seconds, rate=rate, grace_s=0)
                sinks.drain(0.05)
                beside = _flood_plan(strangers, datagrams)
                done = load.run(plan, sinks, seconds, rate=rate, grace_s=0, flood=beside, flood_rate=rate)
                share = (done["received"] / done["elapsed_s"]) / (alone["received"] / alone["elapsed_s"])
                figures[f"{direction}, share left beside {name}"] = share
                figures[f"{direction}, {name} per datagram sent"] = done["flooded"] / done["sent"]
        for sock in strangers:
            sock.close()
    return figures


def _delivered(plan: load.Plan, sinks: load.Sinks, seconds: float, rate: float) -> tuple[float, float]:
    """Returns what arrives and what is sent per second while `rate` is offered; queues are as full as they get before that."""
    sinks.drain(0.05)
    load.run(plan, sinks, seconds / 4, rate=rate, grace_s=0)
    done = load.run(plan, sinks, seconds, rate=rate, grace_s=0)
    return done["received"] / done["elapsed_s"], done["sent"] / done["elapsed_s"]


def kernel_bytes() -> float:
    """Returns the bytes in the kernel's caches for sockets, and in their buffers, of the whole machine."""
    total = 0.0
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("UDP:"):
            total += int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()
    except PermissionError:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return total + int(meminfo["Slab"].split()[0]) * 1024
    for line in lines:
        name, *numbers = line.split()
        if name in KERNEL_CACHES:
            total += int(numbers[0]) * int(numbers[2])
    return total


def _garbage() -> list[bytes]:
    """Random bytes, and data of channels that nobody has bound."""
    data = b"\x4f\xff" + (1200).to_bytes(2, "big") + os.urandom(1200)
    return [os.urandom(1200), data, os.urandom(64), data[:4] + data[4:1204]]


def _allocates() -> list[bytes]:
    """Requests without credentials, each with a number of its own."""
    attributes = ((Attribute.REQUESTED_TRANSPORT, UDP),)
    return [stun.encode(Message(MessageClass.REQUEST, Method.ALLOCATE, os.urandom(12), attributes)) for _ in range(64)]


def _flood_plan(socks: list[socket.socket], datagrams: list[bytes]) -> load.Plan:
    plan = load.Plan()
    for sock in socks:
        for datagram in datagrams:
            plan.add(sock.fileno(), datagram, len(datagram))
    plan.seal(32)
    return plan


@contextlib.contextmanager
def _running(contender: Contender) -> Iterator[None]:
    contender.start()
    try:
        yield
    finally:
        contender.stop()


@contextlib.contextmanager
def _slowed(contender: Contender) -> Iterator[None]:
    """Leaves a relay a twentieth of one core, and the generator the others."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise FirezoneError("The test of overload needs two cores: one is for the generator.")
    pid = contender.program.process.pid
    for task in map(int, os.listdir(f"/proc/{pid}/task")):
        os.sched_setaffinity(task, cores[-1:])
        os.setpriority(os.PRIO_PROCESS, task, NICE)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=die_with_parent)
    os.sched_setaffinity(busy.pid, cores[-1:])
    os.sched_setaffinity(0, cores[:-1])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        busy.kill()
        busy.wait()


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * ALLOCATIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * ALLOCATIONS), hard))


TESTS = (
    Test(
        "memory",
        {"KiB of the program": "", "KiB of the kernel": "", "KiB in all": "ours ≤ 16", "KiB in all, IPv4 and IPv6": "ours ≤ 16"},
        memory,
    ),
    Test(
        "overload",
        {"best rate /s": "", "offered, times the best rate": "≥ 10", "relayed, share of the best rate": "ours ≥ 0.9"},
        overload,
    ),
    Test(
        "flood",
        {
            f"{direction}, {figure}": goal
            for direction in (TO_PEER, TO_CLIENT)
            for name in ("garbage", "Allocates")
            for figure, goal in ((f"share left beside {name}", "ours ≥ 0.5"), (f"{name} per datagram sent", ""))
        },
        flood,
    ),
)
"""Each with the figures it gives and what they must reach."""
