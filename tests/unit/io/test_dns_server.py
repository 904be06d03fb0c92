"""The client's name servers on loopback addresses: `client` 8.2, 8.3, 17.4 (7, 8, 11) and RFC 7766."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rrset
import pytest
import uvloop

from firezone.io import dns_server
from firezone.io.dns_server import DnsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from firezone.io.dns_server import Reply

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

SENTINEL, OTHER = "127.0.5.1", "127.0.5.2"


def query(number: int, name: str = "app.example.com", kind: str = "A") -> bytes:
    message = dns.message.make_query(name, kind)
    message.id = number
    return message.to_wire()


def answer_of(size: int, question: bytes) -> bytes:
    """An answer of exactly this many bytes."""
    message = dns.message.make_response(dns.message.from_wire(question))
    wire = message.to_wire()
    record = b"\xc0\x0c\x00\x0a\x00\x01" + bytes(4)  # NULL record, whose data may be anything.
    wire = wire[:6] + b"\0\1" + wire[8:]
    rest = size - len(wire) - len(record) - 2
    return wire + record + rest.to_bytes(2, "big") + bytes(rest)


class Asked:
    """Remembers questions and answers them with themselves, or when told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, bytes, bool, Reply]] = []
        self.is_immediate = True
        self.size = 0
        self.peak = 0

    def handle(self, sentinel: str, question: bytes, is_tcp: bool, reply: Reply) -> bool:
        if len(question) < 12:
            return False
        if self.is_immediate:
            reply(answer_of(self.size, question) if self.size else question)
        else:
            self.waiting.append((sentinel, question, is_tcp, reply))
            self.peak = max(self.peak, len(self.waiting))
        return True

    async def expect(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.waiting) < count:  # noqa: ASYNC110 - what is waited for sets no events
                await asyncio.sleep(0.005)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The programs run on uvloop."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
async def server(asked: Asked, unused_port: int) -> AsyncIterator[DnsServer]:
    server = DnsServer(asked.handle, port=unused_port)
    await server.listen([SENTINEL])
    yield server
    await server.close()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind((SENTINEL, 0))
        return int(sock.getsockname()[1])


class Udp(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.got.put_nowait(data)

    @classmethod
    async def to(cls, port: int, host: str = SENTINEL) -> Udp:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(cls, remote_addr=(host, port))
        protocol.send = transport.sendto  # type: ignore[attr-defined]
        return protocol

    async def receive(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.got.get()


async def read(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(2, "big") + message


# UDP


async def test_a_datagram_is_answered_from_where_it_was_sent_to(server: DnsServer, unused_port: int) -> None:
    udp = await Udp.to(unused_port)  # Connected: an answer from elsewhere would not be received.
    udp.send(query(7))  # type: ignore[attr-defined]
    assert await udp.receive() == query(7)


async def test_an_answer_over_the_limit_is_cut_and_says_so(server: DnsServer, asked: Asked, unused_port: int) -> None:
    udp = await Udp.to(unused_port)
    asked.size = 1212
    udp.send(query(1))  # type: ignore[attr-defined]
    assert len(await udp.receive()) == 1212
    asked.size = 1213
    udp.send(query(2))  # type: ignore[attr-defined]
    cut = dns.message.from_wire(await udp.receive())
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert cut.question == dns.message.from_wire(query(2)).question


async def test_what_is_no_question_is_not_answered(server: DnsServer, unused_port: int) -> None:
    udp = await Udp.to(unused_port)
    udp.send(b"garbage")  # type: ignore[attr-defined]
    udp.send(query(3))  # type: ignore[attr-defined]
    assert await udp.receive() == query(3)


async def test_an_answer_for_a_sentinel_that_is_gone_is_dropped(server: DnsServer, asked: Asked, unused_port: int) -> None:
    asked.is_immediate = False
    udp = await Udp.to(unused_port)
    udp.send(query(1))  # type: ignore[attr-defined]
    await asked.expect(1)
    await server.listen([])
    asked.waiting[0][3](query(1))
    assert server.addresses == ()


async def test_what_stays_keeps_its_questions_when_others_come_and_go(server: DnsServer, asked: Asked, unused_port: int) -> None:
    asked.is_immediate = False
    udp = await Udp.to(unused_port)
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    udp.send(query(1))  # type: ignore[attr-defined]
    writer.write(framed(query(2)))
    await asked.expect(2)
    assert await server.listen([OTHER, SENTINEL]) == (OTHER, SENTINEL)
    other = await Udp.to(unused_port, OTHER)
    other.send(query(3))  # type: ignore[attr-defined]
    await asked.expect(3)
    assert [sentinel for sentinel, *_ in asked.waiting] == [SENTINEL, SENTINEL, OTHER]
    await server.listen([SENTINEL])
    for _, question, _, reply in asked.waiting:
        reply(question)
    assert await udp.receive() == query(1)
    assert await read(reader) == query(2)
    writer.close()


async def test_an_address_that_the_host_does_not_have_is_left_out(server: DnsServer) -> None:
    assert await server.listen([SENTINEL, "2001:db8::53"]) == (SENTINEL,)


# TCP


async def test_two_pipelined_questions_are_answered_as_answers_come(server: DnsServer, asked: Asked, unused_port: int) -> None:
    asked.is_immediate = False
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(framed(query(1)) + framed(query(2)))
    await asked.expect(2)
    for _, question, is_tcp, reply in reversed(asked.waiting):
        assert is_tcp
        reply(question)
        reply(question)  # A second answer to one question goes nowhere.
    assert [await read(reader), await read(reader)] == [query(2), query(1)]
    writer.close()
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(1)


async def test_a_question_byte_by_byte_is_one_question(server: DnsServer, unused_port: int) -> None:
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    for byte in framed(query(9)):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert await read(reader) == query(9)
    writer.close()


@pytest.mark.parametrize("size", [65_000, 65_535])
async def test_the_longest_answers_arrive_whole(server: DnsServer, asked: Asked, unused_port: int, size: int) -> None:
    asked.size = size
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(framed(query(1)) * 3)
    for _ in range(3):
        assert await read(reader) == answer_of(size, query(1))
    writer.close()


async def test_who_half_closes_gets_the_answers_and_the_end(server: DnsServer, asked: Asked, unused_port: int) -> None:
    asked.is_immediate = False
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(framed(query(1)) + framed(query(2)) + b"\0")
    writer.write_eof()
    await asked.expect(2)
    await asyncio.sleep(0.05)
    for _, question, _, reply in asked.waiting:
        reply(question)
    assert [await read(reader), await read(reader)] == [query(1), query(2)]
    assert await reader.read() == b""


async def test_garbage_ends_the_connection(server: DnsServer, unused_port: int) -> None:
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(framed(b"garbage"))
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()


async def test_ten_connections_and_more_are_served_at_once(server: DnsServer, asked: Asked, unused_port: int) -> None:
    asked.is_immediate = False
    ends = [await asyncio.open_connection(SENTINEL, unused_port) for _ in range(dns_server.MAX_CONNECTIONS)]
    for number, (_, writer) in enumerate(ends):
        writer.write(framed(query(number)))
    await asked.expect(len(ends))
    refused, _ = await asyncio.open_connection(SENTINEL, unused_port)
    with contextlib.suppress(ConnectionResetError):
        assert await refused.read() == b""  # All are busy.
    for _, question, _, reply in asked.waiting:
        reply(question)
    for number, (reader, _) in enumerate(ends):
        assert await read(reader) == query(number)
    # Now all are idle: the longest makes room.
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    asked.is_immediate = True
    writer.write(framed(query(500)))
    assert await read(reader) == query(500)
    with contextlib.suppress(ConnectionResetError):
        assert await ends[0][0].read() == b""
    for _, one in [*ends, (reader, writer)]:
        one.close()


async def test_questions_of_one_connection_are_read_only_as_fast_as_they_are_answered(
    server: DnsServer, asked: Asked, unused_port: int
) -> None:
    asked.is_immediate = False
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(b"".join(framed(query(number)) for number in range(5000)))
    await asked.expect(dns_server.MAX_PIPELINED)
    await asyncio.sleep(0.05)
    answered = 0
    while answered < 5000:
        assert asked.waiting
        waiting, asked.waiting = asked.waiting, []
        for _, question, _, reply in waiting:
            reply(question)
            answered += 1
        for _ in waiting:
            await read(reader)
    assert asked.peak <= dns_server.MAX_PIPELINED
    writer.close()


async def test_answers_at_once_do_not_nest(server: DnsServer, unused_port: int) -> None:
    """Thousands of questions in one segment train, each answered while it is handed over."""
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(b"".join(framed(query(number)) for number in range(5000)))
    for number in range(5000):
        assert await read(reader) == query(number)
    writer.close()


async def test_an_idle_connection_is_ended(
    server: DnsServer, asked: Asked, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "IDLE_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection(SENTINEL, unused_port)
    writer.write(b"\0")
    busy_reader, busy = await asyncio.open_connection(SENTINEL, unused_port)
    asked.is_immediate = False
    busy.write(framed(query(1)))
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    await asyncio.sleep(0.3)
    asked.waiting[0][3](query(1))  # A question at work is no idling.
    assert await read(busy_reader) == query(1)
    for one in (writer, busy):
        one.close()


async def test_who_reads_nothing_is_cut_off(
    server: DnsServer, asked: Asked, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_server, "IDLE_TIMEOUT_S", 0.3)
    asked.size = 65_535
    taken = 0

    def count(sentinel: str, question: bytes, is_tcp: bool, reply: Reply) -> bool:
        nonlocal taken
        taken += 1
        return asked.handle(sentinel, question, is_tcp, reply)

    server._sentinels[SENTINEL].handle = count
    with socket.create_connection((SENTINEL, unused_port)) as sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                await loop.sock_sendall(sock, framed(query(1)) * 200_000)
        async with asyncio.timeout(5):
            while server._sentinels[SENTINEL].connections:  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.02)
    assert taken < 500  # What the kernel buffers hold; 200 000 answers would be 13 GB.
