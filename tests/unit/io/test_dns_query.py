"""Questions passed on to other servers: `client` 8.8 to 8.11, 15.4, 17.4 (8 to 10), 17.5 (4, 6, 7)."""

from __future__ import annotations

import asyncio

import dns.message
import dns.rcode
import pytest
import uvloop

from firezone.io import dns_query
from firezone.io.dns_query import Upstreams
from tests.harness.name_server import NameServer, servers

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


def question(number: int = 7, name: str = "www.test", *, edns: bool = False) -> bytes:
    message = dns.message.make_query(name, "A", use_edns=0 if edns else -1, payload=1232)
    message.id = number
    return message.to_wire()


class Asker:
    """Somebody who asks and waits."""

    def __init__(self) -> None:
        self.answers: list[dns.message.Message] = []
        self.cached: list[bytes] = []
        self.upstreams = Upstreams(mark=None, on_answer=lambda query, answer: self.cached.append(answer))

    def reply(self, answer: bytes) -> None:
        self.answers.append(dns.message.from_wire(answer))

    async def expect(self, count: int = 1) -> list[dns.message.Message]:
        async with asyncio.timeout(5):
            while len(self.answers) < count:  # noqa: ASYNC110 - what is waited for sets no events
                await asyncio.sleep(0.005)
        return self.answers

    async def settle(self) -> None:
        async with asyncio.timeout(5):
            while len(self.upstreams):  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.005)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """The programs run on uvloop."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


def make_zone(server: NameServer) -> None:
    server.zone = {("www.test", "A"): ["192.0.2.80"]}


@pytest.mark.parametrize("is_tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("is_tunnelled", [False, True], ids=["host", "tunnel"])
async def test_the_question_goes_as_it_came_and_the_answer_comes_back(is_tcp: bool, is_tunnelled: bool) -> None:
    asker = Asker()
    ask = asker.upstreams.ask_through_tunnel if is_tunnelled else asker.upstreams.ask_host
    async with servers() as (server,):
        make_zone(server)
        ask(server.endpoint, question(77, edns=True), asker.reply, is_tcp=is_tcp)
        (answer,) = await asker.expect()
    assert answer.id == 77
    assert str(answer.answer[0][0]) == "192.0.2.80"
    assert answer.edns == 0  # The question's OPT was left on.
    assert [way for way, *_ in server.asked] == ["tcp" if is_tcp else "udp"]
    assert len(asker.cached) == 1


async def test_strays_are_passed_over_until_the_answer_comes() -> None:
    asker = Asker()
    async with servers() as (server,):
        make_zone(server)
        other_name = dns.message.make_response(dns.message.from_wire(question(7, "evil.test"))).to_wire()
        other_id = dns.message.make_response(dns.message.from_wire(question(8))).to_wire()
        server.strays = [b"", b"garbage", question(7), other_name, other_id]
        asker.upstreams.ask_host(server.endpoint, question(7), asker.reply, is_tcp=False)
        (answer,) = await asker.expect()
    assert str(answer.answer[0][0]) == "192.0.2.80"


async def test_equal_ids_do_not_meet() -> None:
    """To two servers, and twice to one."""
    asker = Asker()
    async with servers(2) as (one, two):
        make_zone(one)
        two.zone = {("www.test", "A"): ["192.0.2.81"]}
        for server in (one, two, one):
            for is_tcp in (False, True):
                asker.upstreams.ask_through_tunnel(server.endpoint, question(1), asker.reply, is_tcp=is_tcp)
        answers = await asker.expect(6)
    assert sorted(str(answer.answer[0][0]) for answer in answers) == ["192.0.2.80"] * 4 + ["192.0.2.81"] * 2


@pytest.mark.parametrize(
    ("is_tunnelled", "is_tcp", "is_told"),
    [(False, False, False), (False, True, True), (True, False, True), (True, True, True)],
    ids=["host udp", "host tcp", "tunnel udp", "tunnel tcp"],
)
async def test_silence_is_told_except_of_a_datagram_past_the_tunnel(
    is_tunnelled: bool, is_tcp: bool, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_query, "HOST_TIMEOUT_S", 0.1)
    monkeypatch.setattr(dns_query, "TUNNEL_TIMEOUT_S", 0.1)
    asker = Asker()
    ask = asker.upstreams.ask_through_tunnel if is_tunnelled else asker.upstreams.ask_host
    async with servers() as (server,):
        server.is_silent = True
        ask(server.endpoint, question(), asker.reply, is_tcp=is_tcp)
        await asker.settle()
    assert [answer.rcode() for answer in asker.answers] == ([dns.rcode.SERVFAIL] if is_told else [])
    assert asker.cached == []


@pytest.mark.parametrize("is_tcp", [False, True], ids=["udp", "tcp"])
async def test_a_refused_port_is_servfail_at_once(is_tcp: bool) -> None:
    asker = Asker()
    async with servers() as (server,):
        nobody = server.endpoint
    asker.upstreams.ask_host(nobody, question(3), asker.reply, is_tcp=is_tcp)
    (answer,) = await asker.expect()
    assert (answer.id, answer.rcode()) == (3, dns.rcode.SERVFAIL)
    assert answer.question == dns.message.from_wire(question(3)).question


async def test_too_many_at_a_time_are_dropped_over_udp_and_fail_over_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_query, "MAX_IN_FLIGHT", 20)
    asker = Asker()
    async with servers() as (server,):
        server.is_silent = True
        for number in range(50):
            asker.upstreams.ask_host(server.endpoint, question(number), asker.reply, is_tcp=False)
        assert len(asker.upstreams) == 20
        asker.upstreams.ask_host(server.endpoint, question(99), asker.reply, is_tcp=True)
        assert [(answer.id, answer.rcode()) for answer in asker.answers] == [(99, dns.rcode.SERVFAIL)]
        await asker.upstreams.close()
        assert len(asker.upstreams) == 0


async def test_connections_through_the_tunnel_fail_with_its_configuration_and_datagrams_do_not() -> None:
    asker = Asker()
    async with servers() as (server,):
        make_zone(server)
        server.delay = 0.2
        asker.upstreams.ask_through_tunnel(server.endpoint, question(1), asker.reply, is_tcp=True)
        asker.upstreams.ask_through_tunnel(server.endpoint, question(2), asker.reply, is_tcp=False)
        asker.upstreams.ask_host(server.endpoint, question(3), asker.reply, is_tcp=True)
        asker.upstreams.drop_streams()  # At once, before one of them has begun.
        assert [(answer.id, answer.rcode()) for answer in asker.answers] == [(1, dns.rcode.SERVFAIL)]
        await asker.expect(3)
        assert {answer.id: answer.rcode() for answer in asker.answers} == {1: dns.rcode.SERVFAIL, 2: 0, 3: 0}
        asker.upstreams.ask_through_tunnel(server.endpoint, question(4), asker.reply, is_tcp=True)
        await asker.expect(4)
    assert asker.answers[-1].rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("is_ipv4", [True, False], ids=["ipv4", "ipv6"])
async def test_a_question_for_a_site_waits_for_its_gateway(is_ipv4: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker()
    async with servers() as (server,):
        make_zone(server)
        monkeypatch.setattr(dns_query, "SITE_PORT", server.endpoint.port)
        asker.upstreams.ask_site("r1", question(1), asker.reply, is_ipv4=is_ipv4, is_tcp=False)
        asker.upstreams.ask_site("r2", question(2), asker.reply, is_ipv4=is_ipv4, is_tcp=True)
        await asyncio.sleep(0.02)
        assert server.asked == []
        asker.upstreams.on_site("r1", *(("127.0.0.1", "::2") if is_ipv4 else ("127.0.0.2", "::1")))
        if is_ipv4:
            (answer,) = await asker.expect()
            assert str(answer.answer[0][0]) == "192.0.2.80"
        else:
            (answer,) = await asker.expect()  # Nobody listens on [::1]; it is not 127.0.0.2 that was asked.
            assert answer.rcode() == dns.rcode.SERVFAIL
            assert server.asked == []
        assert len(asker.upstreams) == 1
        asker.upstreams.on_site("r1", "127.0.0.1", "::1")  # Nobody waits any more.
    await asker.upstreams.close()


async def test_a_gateway_that_does_not_come_is_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_query, "TUNNEL_TIMEOUT_S", 0.05)
    asker = Asker()
    asker.upstreams.ask_site("r1", question(5), asker.reply, is_ipv4=True, is_tcp=False)
    (answer,) = await asker.expect()
    assert (answer.id, answer.rcode()) == (5, dns.rcode.SERVFAIL)
    await asker.settle()
    assert asker.upstreams._sites == {}


async def test_an_answer_to_what_a_server_could_not_read_is_servfail() -> None:
    asker = Asker()
    async with servers() as (server,):
        server.is_silent = True
        server.strays = [question(9)[:2] + b"\x80\x01" + bytes(8)]  # FORMERR without the question.
        asker.upstreams.ask_host(server.endpoint, question(9), asker.reply, is_tcp=False)
        (answer,) = await asker.expect()
    assert answer.rcode() == dns.rcode.SERVFAIL
