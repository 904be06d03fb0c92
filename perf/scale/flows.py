"""Many UDP flows through one tunnel, and the memory and time that they ask for on paper and of the kernels alone."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

from firezone.base.errors import FirezoneError
from perf.datagrams import WARM_UP_S, Flows
from perf.figures import DATAGRAM_SIZE, UDP_RATE
from perf.measure import running
from perf.policy.kernels import BACK, NAMES, NETWORKS, OUT, Gateway, SetUp

if TYPE_CHECKING:
    from perf.contenders import Contender

SOCKETS = 100
"""Of the resource, at most: each client's socket talks to all of them."""
RESOURCES = 100
"""Rules of the one client in the kernels' tables."""
PASSES = 2
MEMO_BYTES, SESSION_BYTES, INDEX_BYTES = 64, 64, 32
"""A remembered decision, a NAT session, a place in an index: `fz_memo_entry`, `fz_nat_session`, `fz_addrmap_entry`."""
PAPER_BYTES = {NETWORKS: 2 * MEMO_BYTES, NAMES: 2 * MEMO_BYTES + SESSION_BYTES + 2 * INDEX_BYTES}
"""What a gateway looks at for the packets of one flow both ways; a name's flow has a session, found from either side."""
KERNEL_KEYS = tuple(f"{kind}, {way}" for kind in (NETWORKS, NAMES) for way in (OUT, BACK))


def sockets_for(flows: int) -> tuple[int, int]:
    """Returns how many sockets of the client and of the resource make so many flows."""
    resources = min(flows, SOCKETS)
    return flows // resources, resources


def allow_sockets(flows: int) -> None:
    """Raises the limit of open files to what so many flows need. Raises FirezoneError when that is refused."""
    wanted = sum(sockets_for(flows)) + 128
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        raise FirezoneError(f"{flows} flows need {wanted} open files, and {hard} are allowed; ulimit -n would allow them.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def through(contender: Contender, flows: int, seconds: float) -> dict[str, float]:
    """Measures a tunnel under so many flows that take turns.

    Returns: by direction thousands of datagrams per second (`…_kpps`) and per CPU second of client and gateway (`…_per_cpu`),
             with as many on their way as come through; the share lost at UDP_RATE, in percent; resident MiB of both programs.
    Raises:  FirezoneError when one of the flows does not come through.
    """
    found: dict[str, float] = {}
    with running(contender):
        traffic = Flows.open(contender.topology, *sockets_for(flows))
        try:
            for name, up in (("up", True), ("down", False)):
                way = traffic.way(up=up, size=DATAGRAM_SIZE)
                received, passed, cpu = way.most(contender, seconds, WARM_UP_S + flows / UDP_RATE)
                found[f"{name}_kpps"] = received / passed / 1000
                if cpu:
                    found[f"{name}_per_cpu"] = received / sum(cpu.values()) / 1000
                if up:
                    found["lost_percent"] = way.lost_percent(UDP_RATE, seconds)
            found |= {f"{part}_mib": program.resident_mib() for part, program in contender.programs.items()}
        finally:
            traffic.close()
    return {key: round(value, 3) for key, value in found.items()}


def in_kernels(flows: int, passes: int = PASSES) -> dict[str, float]:
    """Returns nanoseconds per packet of the gateway's filter, route and NAT by KERNEL_KEYS, with so many flows at random."""
    found: dict[str, float] = {}
    for kind in (NETWORKS, NAMES):
        gateway = Gateway(SetUp(1, RESOURCES, flows), kind)
        found |= {f"{kind}, {way}": gateway.nanoseconds(way, passes) for way in (OUT, BACK)}
    return {key: round(value, 2) for key, value in found.items()}


def cache_for(size: int) -> str:
    """Returns the smallest cache of this machine that so many bytes fit in."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if (index / "type").read_text().strip() == "Instruction":
            continue
        room = int((index / "size").read_text().strip().removesuffix("K")) * 1024
        if size <= room:
            return f"L{(index / 'level').read_text().strip()}"
    return "memory"
