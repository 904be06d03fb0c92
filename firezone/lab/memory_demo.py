"""The demo without privileges: portal, gateway and client over real loopback sockets, rings in memory in place of TUN devices.

Generated packets go into the client's ring; what comes out of the gateway's ring is compared byte for byte, and the same the
other way round.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, TypeVar

from firezone.base.errors import FirezoneError
from firezone.base.log import set_up_logging
from firezone.base.secret import SecretText
from firezone.io.entropy import SystemRng
from firezone.lab.namespaces import die_with_parent
from firezone.lab.programs import end, python, wait_until
from firezone.lab.report import Report
from firezone.lab.traffic import UDP, build, packets
from firezone.loop.client import ClientProgram
from firezone.loop.config import ClientConfig, GatewayConfig
from firezone.loop.ends import memory_ends
from firezone.loop.gateway import GatewayProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from firezone.base.net import Address
    from firezone.loop.memory import MemoryTun

T = TypeVar("T")
Pair = tuple[tuple["Address", ...], tuple["Address", ...]]
"""Source and destination, each (IPv4, IPv6)."""

SITE = (ipaddress.ip_address("10.20.0.2"), ipaddress.ip_address("fd20:20::2"))
PACKETS = 3000
ROUND_TRIPS = 200
BURST = 32
"""Packets given to a ring at a time; half a ring, so that nothing is lost on the way in."""
STEP_TIMEOUT_S = 20.0
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def run_memory_demo(
    logs: Path, seconds: float, progress: Callable[[str], None], *, generations: tuple[int, int] = (1, 1)
) -> Report:
    """Runs the demo in memory mode. What goes wrong is in the report.

    `generations`: of the portal's protocol, as the client and the gateway speak it.
    """
    import uvloop

    report = Report("memory: rings in place of TUN devices, real loopback sockets", str(logs))
    portal = None
    programs_log = (logs / "programs.log").open("a", encoding="utf-8")
    set_up_logging(os.environ.get("RUST_LOG"), file_base="lab", stream=programs_log)
    try:
        progress("portal")
        port = _free_port()
        tokens, portal = _start_portal(logs, port)
        uvloop.run(_run(report, f"ws://127.0.0.1:{port}", tokens, seconds, progress, generations))
    except (FirezoneError, OSError, TimeoutError) as error:
        report.errors.append(str(error) or "a step took too long")
    finally:
        if portal is not None:
            end(portal)
        programs_log.close()
    return report


async def _run(
    report: Report, url: str, tokens: dict[str, str], seconds: float, progress: Callable[[str], None], generations: tuple[int, int]
) -> None:  # fmt: skip
    hosts = {family: host for family, host in _LOOPBACK.items() if _has(family)}
    (gateway_ends, gateway_tun), (client_ends, client_tun) = memory_ends(hosts), memory_ends(hosts)
    addresses = list(hosts.values())
    gateway = GatewayProgram(
        GatewayConfig(
            api_url=url, token=SecretText(tokens["gateway"]), device_id="memory-gateway", name="memory gateway",
            portal_generation=generations[1],
        ),
        gateway_ends, addresses=addresses, owns_process=False,
    )  # fmt: skip
    client = ClientProgram(
        ClientConfig(
            api_url=url, token=SecretText(tokens["client"]), device_id="memory-client", name="memory client",
            portal_generation=generations[0],
        ),
        client_ends, addresses=addresses, owns_process=False,
    )  # fmt: skip
    tasks = [asyncio.create_task(gateway.run()), asyncio.create_task(client.run())]
    try:
        progress("gateway and client")
        await _first(asyncio.gather(gateway.ready.wait(), client.ready.wait()), tasks)
        own = client.state.own_addresses
        progress("packets up and down, compared byte for byte")
        start = time.perf_counter()
        await _first(_cross(client_tun, gateway_tun, client, gateway, (own, SITE), report), tasks)
        report.connect_ms = report.connect_ms or round((time.perf_counter() - start) * 1000, 2)
        report.first_byte_ms = report.connect_ms
        await _first(_cross(gateway_tun, client_tun, gateway, client, (SITE, own), report), tasks)
        report.path = f"direct, loopback {client.state.paths()}"
        progress("round trips")
        report.rtt_ms = await _first(_round_trips((client_tun, client), (gateway_tun, gateway), own), tasks)
        progress(f"throughput, {seconds:.0f} s each way")
        cpu, moved = time.process_time(), 0.0
        for way, source, sink, sender, receiver, pair in (
            ("up", client_tun, gateway_tun, client, gateway, (own, SITE)),
            ("down", gateway_tun, client_tun, gateway, client, (SITE, own)),
        ):
            gbps = await _first(_bulk(source, sink, sender, receiver, pair, seconds), tasks, seconds + STEP_TIMEOUT_S)
            report.throughput_gbps[way] = round(gbps, 3)
            moved += gbps * seconds / 8
        report.cpu_s_per_gb["both"] = round((time.process_time() - cpu) / moved, 3)
    finally:
        client.stop()
        await asyncio.wait([tasks[1]], timeout=5)
        gateway.stop()
        await asyncio.wait([tasks[0]], timeout=5)


async def _cross(source: MemoryTun, sink: MemoryTun, sender: object, receiver: object, pair: Pair, report: Report) -> None:
    """Sends generated packets from one ring to the other and compares. Raises FirezoneError for the first that differs."""
    expected = list(packets(pair[0], pair[1], PACKETS, SystemRng()))  # type: ignore[arg-type]
    sink.coalesce = False
    sink.receive()
    start = time.perf_counter()
    received: list[bytes] = []
    at = 0
    while len(received) < len(expected):
        if at == len(received) and at < len(expected):
            for packet in expected[at : at + BURST]:
                source.send(packet)
            at = min(at + BURST, len(expected))
        _tick(sender)
        await asyncio.sleep(0)
        _tick(receiver)
        received += [packet for _, packet in sink.receive()]
        if received and report.connect_ms is None:
            report.connect_ms = round((time.perf_counter() - start) * 1000, 2)
    wrong = sum(a != b for a, b in zip(sorted(expected), sorted(received), strict=True))
    if wrong:
        raise FirezoneError(f"{wrong} of {len(expected)} packets came out different.")
    report.checked_packets += len(expected)
    sink.coalesce = True


async def _round_trips(near: tuple[MemoryTun, object], far: tuple[MemoryTun, object], own: tuple[Address, ...]) -> dict[str, float]:
    """Sends one packet at a time there and one back, and returns the median and 99th percentile of both together, in ms."""
    there, back = build(own[0], SITE[0], UDP, 1, bytes(64)), build(SITE[0], own[0], UDP, 1, bytes(64))
    times = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        for packet, (source, sender), (sink, receiver) in ((there, near, far), (back, far, near)):
            source.send(packet)
            while not sink.receive():
                _tick(sender)
                await asyncio.sleep(0)
                _tick(receiver)
        times.append((time.perf_counter() - start) * 1000)
    times.sort()
    return {"p50": round(times[len(times) // 2], 3), "p99": round(times[len(times) * 99 // 100], 3)}


async def _bulk(source: MemoryTun, sink: MemoryTun, sender: object, receiver: object, pair: Pair, seconds: float) -> float:
    """Pushes TCP super-packets for a while and returns Gbit/s of packets received."""
    vnet, packet = _super_packet(pair)
    moved, end, start = 0, time.perf_counter() + seconds, time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(8):
            source.send(packet, vnet)
        _tick(sender)
        await asyncio.sleep(0)
        _tick(receiver)
        ready = sink.ring.ready()
        tail = sink.ring.tail()
        moved += sum(int(sink.ring.length[(tail + i) % sink.ring.slots]) for i in range(ready))
        sink.ring.release(ready)
    return moved * 8 / (time.perf_counter() - start) / 1e9


def _super_packet(pair: Pair) -> tuple[bytes, bytes]:
    """Returns a TCP super-packet of 48 segments as a kernel hands it over, virtio-net header apart."""
    import struct

    from firezone.kernels.checksum import inet_checksum
    from firezone.lab.traffic import TCP

    small = build(pair[0][0], pair[1][0], TCP, 1, b"")
    payload = bytes(1240 * 48)
    header = small[:2] + (40 + len(payload)).to_bytes(2, "big") + small[4:10] + b"\0\0" + small[12:20]
    header = header[:10] + inet_checksum(header).to_bytes(2, "big") + header[12:]
    return struct.pack("<BBHHHH", 1, 1, 40, 1240, 20, 16), header + small[20:] + payload


def _tick(program: object) -> None:
    """Lets a program's engine take what stands in its memory ring; a ring has no descriptor to wake it."""
    program.host.tunnel.wake()  # type: ignore[attr-defined]


async def _first(
    work: Coroutine[Any, Any, T] | asyncio.Future[T], tasks: list[asyncio.Task[None]], limit_s: float = STEP_TIMEOUT_S
) -> T:
    """Awaits some work, but not longer than a step may take, and not past the end of a program."""
    step = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([step, *tasks], timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    if step in done:
        return step.result()
    step.cancel()
    for task in done:
        await task
        raise FirezoneError("A program ended before the demo did.")
    raise TimeoutError("A step of the demo took too long.")


def _start_portal(logs: Path, port: int) -> tuple[dict[str, str], subprocess.Popen[bytes]]:
    config = logs / "policy.toml"
    command = python(
        "firezone.portal", "init", "--config", str(config), "--site", "Lab", "--bind", f"127.0.0.1:{port}",
        "--resource", "Site=10.20.0.0/24", "--resource", "Site v6=fd20:20::/64",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FirezoneError(f"The portal's policy could not be made: {done.stderr.strip()}")
    log_path = logs / "portal.log"
    log = log_path.open("ab")
    command = python("firezone.portal", "--config", str(config), "--bind", f"127.0.0.1:{port}")
    portal = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
    log.close()
    if wait_until(lambda: portal.poll() is not None or "listening" in log_path.read_text(), timeout=STEP_TIMEOUT_S) is None:
        raise FirezoneError(f"The portal took over {STEP_TIMEOUT_S:.0f} s to start; its log is {log_path}.")
    if portal.poll() is not None:
        last = log_path.read_text().strip().splitlines()[-3:]
        raise FirezoneError(f"The portal ended with status {portal.poll()}. Its log is {log_path}; it ends with: {' '.join(last)}")
    return {role: (logs / f"{role}.token").read_text().strip() for role in ("gateway", "client")}, portal


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _has(family: int) -> bool:
    try:
        with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((_LOOPBACK[family], 0))
    except OSError:
        return False
    return True
