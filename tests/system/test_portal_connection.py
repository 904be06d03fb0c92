"""A device's connection over real sockets on loopback, against a portal scripted frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from firezone.base.errors import PortalError
from firezone.base.ids import ResourceId
from firezone.base.rng import SeededRng
from firezone.loop.portal_connection import PortalConnection
from firezone.proto.phoenix.login import LoginUrl
from firezone.wire.phoenix import encode_frame, encode_reply
from firezone.wire.portal import client
from firezone.wire.portal.shared import PublicKey

INIT = b'{"interface":{"ipv4":"100.67.12.9","ipv6":"fd00:2021:1111::7:3a10"},"resources":[],"relays":[]}'
RESOURCE = ResourceId("3c9a5a3e-2d60-4d0b-9d1b-6a2f1e0c7b11")
DEADLINE_S = 10.0


class Portal:
    """Accepts, answers joins and heartbeats, pushes `init`, and remembers what it heard."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.heard: list[dict[str, Any]] = []
        self.sockets: list[ServerConnection] = []
        self.answers: list[Callable[[ServerConnection, Request], Response | None]] = []
        self.port = 0
        self.server: Server

    async def start(self) -> None:
        self.server = await serve(self._serve, "127.0.0.1", self.port, compression=None, ping_interval=None,
                                  process_request=self._judge)  # fmt: skip
        self.port = next(iter(self.server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _judge(self, websocket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        return self.answers.pop(0)(websocket, request) if self.answers else None

    async def _serve(self, websocket: ServerConnection) -> None:
        self.sockets.append(websocket)
        with contextlib.suppress(ConnectionClosed):
            async for text in websocket:
                frame = json.loads(text)
                self.heard.append(frame)
                if frame["event"] in ("phx_join", "heartbeat"):
                    await websocket.send(encode_reply(frame["topic"], frame["ref"]))
                if frame["event"] == "phx_join":
                    await websocket.send(encode_frame("client", "init", INIT, None))


class Device:
    """A client's connection with what reached it."""

    def __init__(self, port: int, key: bytes = b"\x01" * 32) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        self.connection = PortalConnection(
            LoginUrl.client(f"ws://localhost:{port}", "s3cret-token", device_id="id", name="n"), "client",
            user_agent="Debian/12 connlib/1.5.4", from_portal=client.FROM_PORTAL, to_portal=client.TO_PORTAL,
            on_message=self.messages.put_nowait, rng=SeededRng(1), public_key=key,
        )  # fmt: skip
        self.task = asyncio.create_task(self.connection.run())

    async def next(self) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await self.messages.get()

    async def stop(self) -> None:
        self.connection.close()
        async with asyncio.timeout(DEADLINE_S):
            await self.task


@pytest.fixture
async def portal() -> AsyncIterator[Portal]:
    portal = Portal()
    await portal.start()
    yield portal
    await portal.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the condition has no event of its own
            await asyncio.sleep(0.01)


async def test_it_joins_delivers_init_and_sends(portal: Portal) -> None:
    device = Device(portal.port)
    assert isinstance(await device.next(), client.Init)
    assert device.connection.is_joined
    device.connection.send(client.CreateFlow(resource_id=RESOURCE, connected_gateway_ids=()))
    await until(lambda: len(portal.heard) == 2)
    assert portal.heard[1]["event"] == "create_flow"
    await device.stop()


async def test_the_upgrade_says_what_the_original_says_and_nothing_else(portal: Portal) -> None:
    device = Device(portal.port)
    await device.next()
    headers = portal.requests[0].headers
    assert sorted(name.lower() for name, _ in headers.raw_items()) == [
        "connection", "host", "sec-websocket-key", "sec-websocket-version", "upgrade", "user-agent",
    ]  # fmt: skip
    assert headers["Host"] == "localhost"
    assert headers["User-Agent"] == "Debian/12 connlib/1.5.4"
    key = PublicKey(b"\x01" * 32).to_text().replace("=", "%3D")
    assert portal.requests[0].path == f"/client/websocket?token=s3cret-token&external_id=id&name=n&public_key={key}"
    await device.stop()


async def test_a_portal_that_closes_is_joined_again_at_once(portal: Portal) -> None:
    device = Device(portal.port)
    await device.next()
    await portal.sockets[0].close(1012, "not json")
    assert isinstance(await device.next(), client.Init)
    await device.stop()


async def test_a_portal_that_was_restarted_is_found_again(portal: Portal) -> None:
    device = Device(portal.port)
    await device.next()
    await portal.stop()
    await asyncio.sleep(0.3)
    await portal.start()
    assert isinstance(await device.next(), client.Init)
    await device.stop()


async def test_a_reset_logs_in_with_the_new_key(portal: Portal) -> None:
    device = Device(portal.port)
    await device.next()
    device.connection.reconnect(b"\x02" * 32)
    await device.next()
    assert PublicKey(b"\x02" * 32).to_text()[:20] in portal.requests[1].path
    await until(lambda: portal.sockets[0].state.name == "CLOSED")
    await device.stop()


async def test_pings_and_nonsense_do_no_harm(portal: Portal) -> None:
    device = Device(portal.port)
    await device.next()
    await (await portal.sockets[0].ping(b""))
    await (await portal.sockets[0].ping(b"text"))
    await portal.sockets[0].send("[]")
    await portal.sockets[0].send(b"\xff")
    await portal.sockets[0].send(encode_frame("client", "no_such_event", b"{}", None))
    await portal.sockets[0].send(encode_frame("client", "init", b"{}", None))
    await portal.sockets[0].send(encode_frame("client", "resource_deleted", b'"3C9A5A3E2D604D0B9D1B6A2F1E0C7B11"', None))
    assert await device.next() == client.ResourceDeleted(resource_id=RESOURCE)
    assert len(portal.sockets) == 1
    await device.stop()


async def test_a_wrong_token_ends_it(portal: Portal) -> None:
    portal.answers = [lambda ws, request: ws.respond(HTTPStatus.UNAUTHORIZED, "Invalid token")]
    device = Device(portal.port)
    with pytest.raises(PortalError) as caught:
        await asyncio.wait_for(device.task, DEADLINE_S)
    assert caught.value.is_authentication_error
    assert "s3cret" not in repr(caught.value)


async def test_busy_and_redirecting_portals_are_tried_again(portal: Portal) -> None:
    def redirect(websocket: ServerConnection, request: Request) -> Response:
        response = websocket.respond(HTTPStatus.MOVED_PERMANENTLY, "")
        response.headers["Location"] = "http://192.0.2.1/"
        return response

    def busy(websocket: ServerConnection, request: Request) -> Response:
        response = websocket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "")
        response.headers["Retry-After"] = "0"
        return response

    portal.answers = [busy, redirect]
    device = Device(portal.port)
    assert isinstance(await device.next(), client.Init)
    assert len(portal.requests) == 3
    await device.stop()


async def test_a_clean_end_closes_with_1000(portal: Portal) -> None:
    device = Device(portal.port)
    await device.next()
    await device.stop()
    await until(lambda: portal.sockets[0].state.name == "CLOSED")
    assert portal.sockets[0].close_code == 1000


async def test_nothing_that_is_logged_holds_the_token(
    portal: Portal, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("websockets.client").setLevel(logging.DEBUG)
    portal.answers = [lambda ws, request: ws.respond(HTTPStatus.BAD_GATEWAY, "")]
    device = Device(portal.port)
    await device.next()
    await portal.sockets[0].close()
    await device.next()
    await device.stop()
    printed = capsys.readouterr()
    ours = "".join(record.getMessage() for record in caplog.records if "server" not in record.name)
    assert "s3cret" not in ours + printed.out + printed.err
