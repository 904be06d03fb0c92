"""What one tick costs: the interpreter's share, and a whole engine without the kernel.

The interpreter runs the same lines in a tick whatever the number of rows, so a tick with one small packet in each direction
bounds its share from above; a tick with full batches shows what the rows cost.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import IP, TCP, UDP

from tests.harness.engines import INNER, pair

if TYPE_CHECKING:
    from tests.harness.engines import MemoryHost

SEGMENT = 1240
SEGMENTS = 48


def super_packet(source: str, destination: str) -> tuple[bytes, bytes]:
    """Returns the virtio-net header and bytes of a TCP super-packet as the kernel hands it over."""
    packet = IP(src=source, dst=destination) / TCP(sport=5201, dport=5201, flags="A", seq=1) / bytes(SEGMENT * SEGMENTS)
    return struct.pack("<BBHHHH", 1, 1, 40, SEGMENT, 20, 16), bytes(packet)


def prepare(host: MemoryHost, other: MemoryHost, vnet: bytes, forth: bytes, back: bytes, reads: int) -> None:
    """Leaves `reads` reads in both of the host's rings."""
    for _ in range(reads):
        other.tun.send(back, vnet)
    while other.engine.tick():
        pass
    for _ in range(reads):
        host.tun.send(forth, vnet)
    host.tun.receive()


@pytest.mark.parametrize("reads", [1, 8])
@pytest.mark.parametrize("kind", ["one-packet", "super-packet"])
def bench_tick(benchmark: Any, kind: str, reads: int) -> None:
    """One tick of one engine with `reads` reads on TUN and on UDP."""
    alice, bob = pair()
    if kind == "one-packet":
        vnet = bytes(10)
        forth, back = (bytes(IP(src=s, dst=d) / UDP(sport=1, dport=2) / b"x") for s, d in (INNER, INNER[::-1]))
    else:
        vnet, forth = super_packet(*INNER)
        _, back = super_packet(*INNER[::-1])

    def setup() -> None:
        prepare(alice, bob, vnet, forth, back, reads)
        ring = bob.sockets.source.ring
        ring.release(ring.ready())

    benchmark.pedantic(alice.engine.tick, setup=setup, rounds=300, warmup_rounds=20)
    benchmark.extra_info["bytes_per_tick"] = reads * (len(forth) + len(back))


def bench_idle_tick(benchmark: Any) -> None:
    """A tick that finds nothing."""
    alice, _ = pair()
    benchmark(alice.engine.tick)


def bench_engine_without_kernel(benchmark: Any) -> None:
    """Sixteen super-packets from one TUN to the other: split, seal, group, demux, open, join."""
    alice, bob = pair()
    vnet, packet = super_packet(*INNER)

    def cross() -> None:
        for _ in range(16):
            alice.tun.send(packet, vnet)
        while alice.engine.tick():
            pass
        while bob.engine.tick():
            pass
        bob.tun.ring.release(bob.tun.ring.ready())

    benchmark(cross)
    benchmark.extra_info["bytes"] = 16 * len(packet)
