"""The health check over a real socket: what probes get, and what a rude client cannot do to the program."""

from __future__ import annotations

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from firezone.io import http_server
from firezone.io.health import HealthServer


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


def answers(*requests: bytes, ready: bool = True) -> list[bytes]:
    """Returns the whole answer to each request."""

    async def run() -> list[bytes]:
        port = free_port()
        server = HealthServer(("127.0.0.1", port), lambda: ready)
        await server.start()
        try:
            return [await ask(port, request) for request in requests]
        finally:
            await server.stop()

    return asyncio.run(run())


def status(request: bytes, *, ready: bool = True) -> int:
    [answer] = answers(request, ready=ready)
    return int(answer.split(b" ")[1]) if answer else 0


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def test_healthz_is_fine_whatever_the_portal_does() -> None:
    for ready in (True, False):
        assert answers(get("/healthz"), ready=ready) == [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]


def test_readyz_follows_the_portal() -> None:
    assert status(get("/readyz"), ready=True) == 200
    assert status(get("/readyz"), ready=False) == 503


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET / HTTP/1.1", 404),
        (b"GET /healthzz HTTP/1.1", 404),
        (b"GET /healthz?verbose=1 HTTP/1.1", 200),
        (b"HEAD /healthz HTTP/1.0", 200),
        (b"POST /healthz HTTP/1.1", 405),
        (b"DELETE /readyz HTTP/1.1", 405),
        (b"\xff\x00garbage", 404),
    ],
)
def test_other_paths_and_methods_are_refused(request_line: bytes, expected: int) -> None:
    assert status(request_line + b"\r\n\r\n") == expected


def test_an_endless_request_is_cut_off() -> None:
    assert answers(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", get("/healthz"))[1].startswith(b"HTTP/1.1 200")


def test_a_client_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIMEOUT_S", 0.05)
    assert answers(b"GET /healthz") == [b""]


def test_many_silent_clients_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)

    async def run() -> tuple[bytes, bytes]:
        port = free_port()
        server = HealthServer(("127.0.0.1", port), lambda: True)
        await server.start()
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.02)
        try:
            refused = await ask(port, get("/healthz"))
        except ConnectionError:
            refused = b""
        for _, writer in silent:
            writer.close()
        await asyncio.sleep(0.02)
        served = await ask(port, get("/healthz"))
        await server.stop()
        return refused, served

    refused, served = asyncio.run(run())
    assert refused == b""
    assert served.startswith(b"HTTP/1.1 200")


def test_a_port_that_is_taken_costs_the_check_alone() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def run() -> None:
            server = HealthServer(taken.getsockname(), lambda: True)
            await server.start()
            await server.stop()

        with capture_logs() as lines:
            asyncio.run(run())
    assert [(line["log_level"], line["event"]) for line in lines] == [("warning", "no health check: the address cannot be bound")]


def test_without_an_address_nothing_listens() -> None:
    async def run() -> None:
        server = HealthServer(None, lambda: True)
        await server.start()
        await server.stop()

    asyncio.run(run())
