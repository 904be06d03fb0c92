"""Relay and portal as processes: what the portal hands out opens the relay, also after either has been killed and started anew."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from firezone.base.net import Endpoint
from firezone.wire.portal.shared import RelaysPresence, TurnRelay
from tests.harness.relay_program import DEADLINE_S, RelayProgram, SocketTurnClient, free_port
from tests.system.test_portal_program import Device, Program, run, token


@pytest.fixture
async def portal(tmp_path: Path) -> AsyncIterator[Callable[[], Program]]:
    """Starts the portal, and once more after it was killed."""
    run("init", "--config", str(tmp_path / "policy.toml"), "--relay", "Berlin")
    port = free_port()
    running: list[Program] = []

    def start() -> Program:
        running.append(Program(tmp_path, "--bind", f"127.0.0.1:{port}"))
        running[-1].port = port  # type: ignore[attr-defined]
        return running[-1]

    yield start
    for program in running:
        if program.process.poll() is None:
            program.stop()


def relay_of(program: Program) -> RelayProgram:
    variables = {
        "FIREZONE_API_URL": f"ws://127.0.0.1:{program.port}",  # type: ignore[attr-defined]
        "FIREZONE_TOKEN": (program.directory / "relay-Berlin.token").read_text(),
    }
    return RelayProgram(variables=variables)


async def until_ready(relay: RelayProgram) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                if (await asyncio.to_thread(relay.ask, relay.health, "/readyz"))[0] == 200:
                    return
            except OSError:
                assert relay.process.poll() is None, relay.end()
            await asyncio.sleep(0.02)


def client_of(entry: TurnRelay) -> SocketTurnClient:
    """A TURN client with what the portal said of a relay."""
    found = SocketTurnClient(int(entry.addr.rpartition(":")[2]), username=entry.username)
    found.password = entry.password.reveal()
    return found


async def entry_of(device: Device) -> TurnRelay:
    """Waits until the portal names a relay."""
    while True:
        async with asyncio.timeout(DEADLINE_S):
            message = await device.messages.get()
        relays = message.connected if isinstance(message, RelaysPresence) else getattr(message, "relays", ())
        if relays:
            assert isinstance(relays[0], TurnRelay)
            return relays[0]


async def begin(portal: Callable[[], Program]) -> tuple[Program, RelayProgram, Device, TurnRelay]:
    """Starts a portal, a relay that has joined it, and a client that knows the relay."""
    program = portal()
    await program.until("listening")
    relay = relay_of(program)
    await until_ready(relay)
    device = Device(program.port, "client", token(program.directory, "client"), 1)  # type: ignore[attr-defined]
    return program, relay, device, await entry_of(device)


async def test_the_portals_credentials_open_the_relay(portal: Callable[[], Program]) -> None:
    _, relay, device, entry = await begin(portal)
    assert entry.addr == f"127.0.0.1:{relay.port}"
    relayed = await asyncio.to_thread(client_of(entry).allocate)
    assert relayed.ip == Endpoint.from_text("127.0.0.1", 0).ip
    await device.stop()
    await asyncio.to_thread(relay.end)


async def test_a_relay_that_restarts_is_announced_with_new_credentials(portal: Callable[[], Program]) -> None:
    program, relay, device, before = await begin(portal)
    await asyncio.to_thread(relay.end, signal.SIGKILL)
    again = relay_of(program)
    await until_ready(again)
    after = await entry_of(device)
    assert after.password != before.password
    assert after.id != before.id
    await asyncio.to_thread(client_of(after).allocate)
    await device.stop()
    await asyncio.to_thread(again.end)


async def test_credentials_and_allocations_outlive_the_portal(portal: Callable[[], Program]) -> None:
    program, relay, device, entry = await begin(portal)
    await asyncio.to_thread(client_of(entry).allocate)
    program.stop(signal.SIGKILL)
    await asyncio.to_thread(client_of(entry).allocate)
    again = portal()
    await until_ready(relay)
    await again.until("listening")
    later = Device(program.port, "client", token(program.directory, "client"), 1)  # type: ignore[attr-defined]
    assert (await entry_of(later)).password == entry.password
    for each in (device, later):
        await each.stop()
    await asyncio.to_thread(relay.end)
