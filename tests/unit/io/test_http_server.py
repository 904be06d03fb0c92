"""The small HTTP server over a real socket; what it does with rude clients is shown by the health check's tests."""

from __future__ import annotations

import asyncio
import json

from firezone.io.http_server import Answer, HttpServer
from tests.unit.io.test_health import ask, free_port


def answer(method: str, target: str) -> Answer:
    return 200, json.dumps({"method": method, "target": target}).encode()


async def _ask(request: bytes) -> bytes:
    port = free_port()
    server = HttpServer(("127.0.0.1", port), answer, what="test")
    await server.start()
    try:
        return await ask(port, request)
    finally:
        await server.stop()


def test_method_and_target_reach_the_function_and_the_body_comes_back() -> None:
    head, body = asyncio.run(_ask(b"POST /a?b=%20c HTTP/1.1\r\n\r\nignored")).split(b"\r\n\r\n", 1)
    assert json.loads(body) == {"method": "POST", "target": "/a?b=%20c"}
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 200 OK"
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Content-Type: application/json" in head


def test_head_gets_no_body() -> None:
    assert asyncio.run(_ask(b"HEAD / HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")


def test_a_request_that_is_none_gets_an_answer_all_the_same() -> None:
    assert asyncio.run(_ask(b"\xff\xfe\r\n\r\n")).startswith(b"HTTP/1.1 200")


def test_without_an_address_there_is_no_server() -> None:
    async def run() -> None:
        server = HttpServer(None, answer, what="test")
        await server.start()
        await server.stop()

    asyncio.run(run())
