"""The engine on a real asyncio loop: it wakes at its deadline, yields under load and hands everything up."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import TYPE_CHECKING

import pytest

from firezone.base.errors import RemoteError
from firezone.base.timing import MILLISECOND
from firezone.io.deadline import DeadlineTimer
from firezone.loop.budget import Budget
from firezone.loop.engine import OUTPUTS_PER_TICK
from firezone.loop.tunnel import Tunnel
from firezone.proto.updates import RouteRemoved
from tests.harness.engines import INNER, MemoryHost, pair
from tests.unit.loop.test_engine import udp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from firezone.loop.errors import TunnelError


class BootClock:
    """The clock of the programs."""

    def now(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def utc(self) -> int:
        return time.time_ns()


@pytest.fixture
def timer() -> Iterator[DeadlineTimer]:
    timer = DeadlineTimer()
    yield timer
    timer.close()


def tunnel_of(host: MemoryHost, timer: DeadlineTimer) -> tuple[Tunnel, list[object], list[TunnelError]]:
    events: list[object] = []
    errors: list[TunnelError] = []
    host.engine.clock = BootClock()
    return Tunnel(host.engine, timer, on_event=events.append, on_error=errors.append, budget=Budget(4)), events, errors


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(2.0):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the engine, which sets no events
            await asyncio.sleep(0.001)


async def test_machine_is_called_at_its_deadline(timer: DeadlineTimer) -> None:
    alice, _ = pair()
    tunnel, _, _ = tunnel_of(alice, timer)
    due = alice.engine.clock.now() + 30 * MILLISECOND
    alice.machine.deadline = (due, "test")
    tunnel.start()
    await until(lambda: "timeout" in alice.machine.names())
    late = next(call[1] for call in alice.machine.calls if call[0] == "timeout") - due
    assert late >= 0, "a timer must never fire early"
    tunnel.stop()


async def test_deadline_made_by_a_command_wakes_an_idle_tunnel(timer: DeadlineTimer) -> None:
    alice, _ = pair()
    tunnel, _, _ = tunnel_of(alice, timer)
    tunnel.start()
    await asyncio.sleep(0.01)
    alice.machine.deadline = (alice.engine.clock.now() + 5 * MILLISECOND, "command")
    tunnel.touch()
    await until(lambda: "timeout" in alice.machine.names())
    tunnel.stop()


async def test_what_a_command_wants_is_done_to_the_end_in_an_idle_tunnel(timer: DeadlineTimer) -> None:
    alice, _ = pair()
    tunnel, _, _ = tunnel_of(alice, timer)
    tunnel.start()
    await asyncio.sleep(0.01)
    network = ipaddress.ip_network(INNER[1])
    alice.machine.updates.extend([RouteRemoved(network)] * (2 * OUTPUTS_PER_TICK + 1))
    tunnel.touch()
    await until(lambda: not alice.machine.updates)
    tunnel.stop()


async def test_portal_is_served_although_input_never_ends(timer: DeadlineTimer) -> None:
    alice, _ = pair()
    tunnel, _, _ = tunnel_of(alice, timer)
    endless = alice.tun.source
    refill = endless.fill

    def fill(max_reads: int, descriptor: int | None = None) -> None:
        while alice.tun.send(udp(b"endless")):
            pass
        refill(max_reads)

    endless.fill = fill  # type: ignore[method-assign]
    tunnel.start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert tunnel.budget.exhausted >= 1
    assert alice.engine.ticks >= 4
    tunnel.stop()


async def test_events_and_errors_reach_the_program(timer: DeadlineTimer) -> None:
    alice, _ = pair()
    tunnel, events, errors = tunnel_of(alice, timer)
    alice.machine.events.append("established")
    alice.engine.errors.push(RemoteError("bad"))
    tunnel.start()
    await until(lambda: events and errors)
    assert events == ["established"]
    assert [str(error) for error in errors[0].exceptions] == ["bad"]
    tunnel.stop()


async def test_stopped_tunnel_leaves_nothing_on_the_loop(timer: DeadlineTimer) -> None:
    alice, _ = pair()
    tunnel, _, _ = tunnel_of(alice, timer)
    tunnel.start()
    await asyncio.sleep(0)
    tunnel.stop()
    ticks = alice.engine.ticks
    alice.tun.send(udp(b"late", *INNER))
    alice.machine.deadline = (alice.engine.clock.now(), "late")
    await asyncio.sleep(0.02)
    assert alice.engine.ticks == ticks
