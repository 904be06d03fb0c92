"""Relays at the real portal program: a scripted relay at its WebSocket, our own client and gateway connections beside it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import NoRelays, RelaysPresence

from .test_portal_program import DEADLINE_S, Device, Program, devices, directory, port, run, start, token

__all__ = ["devices", "directory", "port", "start"]

FIRST, OTHER = "ab" * 32, "cd" * 32
FIRST_ID = "271a413b-d339-4570-9fdc-eaec41f14f11"


@pytest.fixture
def relay_token(directory: Path) -> str:
    """Makes a token as an operator does: with the subcommand, its lines added to the policy."""
    made = run("token", "relay", "--name", "lab relay", "--out", str(directory / "relay.token"))
    assert made.returncode == 0, made.stderr
    with (directory / "policy.toml").open("a") as policy:
        policy.write("\n" + made.stdout)
    return token(directory, "relay").strip()


async def dial(port: int, text: str, **parameters: str) -> ClientConnection:
    query = urlencode({"token": text, "name": "lab", "ipv4": "203.0.113.50", "port": "3478", **parameters})
    return await connect(f"ws://127.0.0.1:{port}/relay/websocket?{query}", user_agent_header="relay/0.1.0", compression=None)


@asynccontextmanager
async def relay(port: int, text: str, secret: str, **parameters: str) -> AsyncIterator[ClientConnection]:
    """Logs in and joins as the original's relay does."""
    websocket = await dial(port, text, **parameters)
    try:
        await websocket.send(json.dumps({"topic": "relay", "event": "phx_join", "payload": {"stamp_secret": secret}, "ref": 0}))
        reply, init = [json.loads(await asyncio.wait_for(websocket.recv(), DEADLINE_S)) for _ in range(2)]
        assert reply["payload"] == {"status": "ok", "response": {}}
        assert (init["topic"], init["event"], init["payload"]) == ("relay", "init", {})
        yield websocket
    finally:
        await websocket.close()


def relays(message: Any) -> list[tuple[str, str]]:
    entries = message.connected if isinstance(message, RelaysPresence) else message.relays
    return [(entry.id, entry.addr) for entry in entries]


async def test_a_relay_comes_dies_and_returns_with_another_secret(
    directory: Path, port: int, start: Callable[..., Program], devices: list[Device], relay_token: str
) -> None:
    await start().until("listening")
    served = Device(port, "gateway", token(directory, "gateway"), 2)
    asker = Device(port, "client", token(directory, "client"), 1)
    devices += [served, asker]
    assert (await served.next(gateway.Init)).relays == (await asker.next(client.Init)).relays == ()

    async with relay(port, relay_token, FIRST, ipv6="2001:db8::50"):
        for device in (served, asker):
            news = await device.next(RelaysPresence)
            assert relays(news) == [(FIRST_ID, "203.0.113.50:3478"), (FIRST_ID, "[2001:db8::50]:3478")]
            assert news.disconnected_ids == ()
    # The same secret within the second: nobody hears of it. What is heard next is the answer to our own question.
    async with relay(port, relay_token, FIRST, ipv6="2001:db8::50") as websocket:
        await asyncio.sleep(1.5)
        assert served.messages.empty()
        assert asker.messages.empty()
        asker.connection.send(NoRelays())
        assert [one for one, _ in relays(await asker.next(RelaysPresence))] == [FIRST_ID] * 2
        websocket.transport.abort()
    async with relay(port, relay_token, OTHER):
        for device in (served, asker):
            news = await device.next(RelaysPresence)
            assert news.disconnected_ids == (FIRST_ID,)
            assert [addr for _, addr in relays(news)] == ["203.0.113.50:3478"]
            assert FIRST_ID not in dict(relays(news))


async def test_the_older_socket_with_one_secret_is_closed(port: int, start: Callable[..., Program], relay_token: str) -> None:
    await start().until("listening")
    async with relay(port, relay_token, FIRST) as older, relay(port, relay_token, FIRST) as newer:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(older.recv(), DEADLINE_S)
        await newer.send('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}')
        assert json.loads(await asyncio.wait_for(newer.recv(), DEADLINE_S))["ref"] == 7


async def test_credentials_stay_the_same_when_the_portal_is_killed(
    directory: Path, port: int, start: Callable[..., Program], devices: list[Device], relay_token: str
) -> None:
    program = start()
    await program.until("listening")
    seen = []
    for _ in range(2):
        async with relay(port, relay_token, FIRST):
            asker = Device(port, "client", token(directory, "client"), 1)
            devices.append(asker)
            seen.append((await asker.next(client.Init)).relays)
            await asker.stop()
            program.stop(9)
        program = start()
        await program.until("listening", len(seen) + 1)
    assert seen[0] == seen[1] != ()


async def test_a_relay_with_a_wrong_token_or_no_address_is_refused(
    directory: Path, port: int, start: Callable[..., Program], relay_token: str
) -> None:
    program = start()
    await program.until("listening")
    for text, parameters, status in (
        ("wr0ng", {}, 401),
        (token(directory, "gateway").strip(), {}, 401),
        (relay_token, {"ipv4": ""}, 422),
    ):
        with pytest.raises(InvalidStatus) as caught:
            await dial(port, text, **parameters)
        assert caught.value.response.status_code == status
    async with relay(port, relay_token, FIRST):
        await program.until("relay connected")
    for secret in (relay_token, FIRST):
        assert secret not in program.text()


async def test_a_revoked_token_ends_the_relay(directory: Path, port: int, start: Callable[..., Program], relay_token: str) -> None:
    program = start()
    await program.until("listening")
    async with relay(port, relay_token, FIRST) as websocket:
        with (directory / "policy.toml").open("a") as policy:
            policy.write("revoked = true\n")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(websocket.recv(), DEADLINE_S)


async def test_a_relay_that_stands_alone_is_listed_and_checked(
    directory: Path, port: int, start: Callable[..., Program], devices: list[Device]
) -> None:
    policy = directory / "policy.toml"
    good = policy.read_text()
    table = '\n[[relay]]\nname = "rented"\nipv4 = "203.0.113.5"\nipv6 = "2001:db8::5"\nsecret = '
    policy.write_text(good + table + '"short"\n')
    checked = run("--config", str(policy), "--check")
    assert checked.returncode == 1
    line = len((good + table).splitlines())
    assert f"policy.toml, line {line}, relay[1].secret: secret must be 64 lower-case hex digits" in checked.stderr
    policy.write_text(good + table + f'"{OTHER}"\n')
    assert "2 tokens, 1 relay, " in run("--config", str(policy), "--check").stdout
    await start().until("listening")
    asker = Device(port, "client", token(directory, "client"), 1)
    devices.append(asker)
    found = await asker.next(client.Init)
    assert [addr for _, addr in relays(found)] == ["203.0.113.5:3478", "[2001:db8::5]:3478"]


def test_the_token_subcommand_says_what_it_needs(directory: Path) -> None:
    for kind, owner in (("gateway", "site"), ("client", "user")):
        made = run("token", kind, "--out", str(directory / "x.token"))
        assert made.returncode == 2
        assert f"--for is missing: the {owner} that the token is for." in made.stderr
        assert not (directory / "x.token").exists()
    made = run("token", "relay", "--out", str(directory / "r.token"))
    assert re.search(r'\[\[relay_token\]\]\nname = "r"\nsha256 = "[0-9a-f]{64}"\n$', made.stdout)
