"""The resource: a small HTTP server with one page that says who asked, and a stream without end."""

from __future__ import annotations

import asyncio
import sys

PAGE = "Hello from the resource. You came as {peer}, through the gateway.\n"
STREAM_BLOCK, STREAM_PAUSE_S = 20_000, 0.01


async def serve(port: int) -> None:
    """Answers every request with the page, on all addresses of both families."""
    server = await asyncio.start_server(_answer, None, port)
    print(f"listening on port {port}", flush=True)
    async with server:
        await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        async with asyncio.timeout(10):
            request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET /stream "):
            await _stream(writer)
        body = PAGE.format(peer=writer.get_extra_info("peername")[0]).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        async with asyncio.timeout(10):
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def _stream(writer: asyncio.StreamWriter) -> None:
    """Sends without end, two megabytes a second, until the reader is gone or takes nothing for ten seconds."""
    while True:
        writer.write(bytes(STREAM_BLOCK))
        async with asyncio.timeout(10):
            await writer.drain()
        await asyncio.sleep(STREAM_PAUSE_S)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
