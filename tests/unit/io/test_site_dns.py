"""Names in the site and the gateway's DNS server, with a name server on the loopback: `gateway` 7.2, 11 and 18 (49 to 53)."""

from __future__ import annotations

import asyncio
import ipaddress

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from firezone.base.errors import ConfigError
from firezone.base.net import Address, Endpoint
from firezone.io import dns_forwarder, nameservers, site_resolver
from firezone.io.dns_exchange import ask_tcp, ask_udp
from firezone.io.dns_forwarder import DnsForwarder
from firezone.io.nameservers import Nameservers
from firezone.io.resolv_conf import ResolvConf, parse_hosts, parse_resolv_conf
from firezone.io.site_resolver import SiteResolver
from firezone.wire.dns import is_question, servfail, truncated
from tests.harness.name_server import NameServer, servers


def ips(*texts: str) -> tuple[Address, ...]:
    return tuple(ipaddress.ip_address(text) for text in texts)


def resolver_of(*asked: NameServer, search: tuple[str, ...] = (), **hosts: str) -> SiteResolver:
    conf = ResolvConf(tuple(server.endpoint for server in asked), search)
    return SiteResolver(mark=None, conf=lambda: conf, hosts=lambda: {name: ips(address) for name, address in hosts.items()})


# names of the site


def test_both_families_are_asked_for_and_kept_for_their_time() -> None:
    async def story() -> None:
        async with servers() as (server,):
            server.zone = {("a.test", "A"): ["10.0.0.2", "10.0.0.1"], ("a.test", "AAAA"): ["fd12::1"]}
            resolver = resolver_of(server)
            assert set(await resolver.resolve("A.test.")) == set(ips("10.0.0.1", "10.0.0.2", "fd12::1"))
            server.zone["a.test", "A"] = ["10.0.0.9"]
            assert ips("10.0.0.9")[0] not in await resolver.resolve("a.test")
            assert len(server.asked) == 2
            server.ttl = 0
            server.zone["b.test", "A"] = ["10.0.0.3"]
            assert await resolver.resolve("b.test") == ips("10.0.0.3")
            server.zone["b.test", "A"] = ["10.0.0.4"]
            assert await resolver.resolve("b.test") == ips("10.0.0.4")

    asyncio.run(story())


def test_aliases_the_hosts_file_and_the_search_list_are_followed() -> None:
    async def story() -> None:
        async with servers() as (server,):
            server.zone = {("w.test", "CNAME"): ["h.test."], ("h.test", "A"): ["10.0.0.1"], ("box.corp.test", "A"): ["10.0.0.5"]}
            resolver = resolver_of(server, search=("none.test", "corp.test"), printer="10.0.0.77")
            assert await resolver.resolve("w.test") == ips("10.0.0.1")
            assert await resolver.resolve("box") == ips("10.0.0.5")
            assert await resolver.resolve("printer") == ips("10.0.0.77")
            assert await resolver.resolve("nobody.test") == ()
            assert await resolver.resolve("a..b") == ()

    asyncio.run(story())


def test_a_cut_answer_is_fetched_over_tcp() -> None:
    async def story() -> None:
        async with servers() as (server,):
            server.zone, server.cuts_udp = {("a.test", "A"): ["10.0.0.1"]}, True
            assert await resolver_of(server).resolve("a.test") == ips("10.0.0.1")
            assert ("tcp", "a.test", "A") in server.asked

    asyncio.run(story())


def test_the_next_server_is_asked_when_one_is_silent_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_resolver, "SERVER_TIMEOUT_S", 0.1)

    async def story() -> None:
        async with servers(3) as (silent, broken, good):
            silent.is_silent, broken.rcode = True, dns.rcode.SERVFAIL
            good.zone = {("a.test", "A"): ["10.0.0.1"]}
            assert await resolver_of(silent, broken, good).resolve("a.test") == ips("10.0.0.1")
            assert await resolver_of(silent).resolve("a.test") == ()

    asyncio.run(story())


# the server for clients


async def forwarder_of(server: Endpoint | None) -> tuple[DnsForwarder, Endpoint]:
    probe = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    endpoint = Endpoint.from_text("127.0.0.1", probe.sockets[0].getsockname()[1])
    probe.close()
    await probe.wait_closed()
    forwarder = DnsForwarder(lambda: server, mark=None, port=endpoint.port)
    await forwarder.bind(["127.0.0.1"])
    return forwarder, endpoint


@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_a_question_goes_on_by_the_way_it_came_and_its_answer_comes_back(way: str) -> None:
    async def story() -> None:
        async with servers() as (server,):
            server.zone = {("a.test", "TXT"): ['"hello"']}
            forwarder, endpoint = await forwarder_of(server.endpoint)
            ask = ask_udp if way == "udp" else ask_tcp
            for _ in range(3):
                query = dns.message.make_query("a.test", "TXT")
                answer = dns.message.from_wire(await ask(endpoint, query.to_wire(), mark=None))
                assert query.is_response(answer)
                assert "hello" in answer.answer[0].to_text()
            assert [asked[0] for asked in server.asked] == [way] * 3
            await forwarder.bind(["127.0.0.1"])  # another `init`
            assert await ask(endpoint, dns.message.make_query("a.test", "TXT").to_wire(), mark=None)
            forwarder.close()

    asyncio.run(story())


def test_several_questions_are_answered_on_one_connection() -> None:
    async def story() -> None:
        async with servers() as (server,):
            server.zone = {("a.test", "TXT"): ['"hello"']}
            forwarder, endpoint = await forwarder_of(server.endpoint)
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            for _ in range(3):
                query = dns.message.make_query("a.test", "TXT").to_wire()
                writer.write(len(query).to_bytes(2, "big") + query)
                answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                assert answer[:2] == query[:2]
            writer.write(b"\0\3abc")
            assert await reader.read() == b""
            writer.close()
            forwarder.close()

    asyncio.run(story())


def test_a_silent_server_and_none_at_all_are_answered_with_servfail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_forwarder, "QUESTION_TIMEOUT_S", 0.2)

    async def story() -> None:
        async with servers() as (server,):
            server.is_silent = True
            for upstream in (server.endpoint, None):
                forwarder, endpoint = await forwarder_of(upstream)
                query = dns.message.make_query("a.test", "SRV")
                answer = dns.message.from_wire(await ask_udp(endpoint, query.to_wire(), mark=None))
                assert answer.rcode() == dns.rcode.SERVFAIL
                assert query.is_response(answer)
                forwarder.close()

    asyncio.run(story())


def test_a_large_answer_is_cut_over_udp_and_whole_over_tcp() -> None:
    async def story() -> None:
        async with servers() as (server,):
            server.zone = {("a.test", "TXT"): ['"' + "x" * 200 + '"'] * 1 + [f'"{n}{"y" * 190}"' for n in range(15)]}
            forwarder, endpoint = await forwarder_of(server.endpoint)
            query = dns.message.make_query("a.test", "TXT")
            cut = dns.message.from_wire(await ask_udp(endpoint, query.to_wire(), mark=None))
            assert cut.flags & dns.flags.TC
            assert (cut.answer, cut.question) == ([], query.question)
            whole = dns.message.from_wire(await ask_tcp(endpoint, query.to_wire(), mark=None))
            assert len(whole.answer[0]) == 16
            forwarder.close()

    asyncio.run(story())


def test_what_is_no_question_is_not_one() -> None:
    query = dns.message.make_query("a.test", "A").to_wire()
    assert is_question(query)
    assert is_question(dns.message.make_query("a.test", "A", use_edns=0).to_wire())
    for wrong in (b"", query[:11], query[:-1], b"\xab" * 40, query[:4] + b"\0\2" + query[6:], query[:4] + b"\0\0" + query[6:12],
                  dns.message.make_response(dns.message.from_wire(query)).to_wire()):  # fmt: skip
        assert not is_question(wrong)
    assert not is_question(query[:12] + b"\xc0\x0c" + query[-4:])


def test_answers_that_are_made_up_parse() -> None:
    query = dns.message.make_query("a.test", "A", use_edns=0)
    failure = dns.message.from_wire(servfail(query.to_wire()))
    assert (failure.id, failure.question, failure.rcode()) == (query.id, query.question, dns.rcode.SERVFAIL)
    cut = dns.message.from_wire(truncated(servfail(query.to_wire())))
    assert cut.flags & dns.flags.TC


def test_an_address_that_is_not_there_is_an_error_after_three_attempts() -> None:
    async def story() -> None:
        forwarder = DnsForwarder(lambda: None, mark=None)
        with pytest.raises(ConfigError, match=r"192\.0\.2\.77"):
            await forwarder.bind(["192.0.2.77"])

    asyncio.run(story())


# which server


def test_the_fastest_of_the_latest_round_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "PROBE_TIMEOUT_S", 0.5)

    async def story() -> None:
        async with servers(3) as (slow, fast, failing):
            for server in (slow, fast):
                server.zone = {("firezone.dev", "A"): ["192.0.2.1"]}
            slow.delay = 0.1
            chosen = Nameservers(mark=None, conf=lambda: ResolvConf((slow.endpoint, failing.endpoint, fast.endpoint)))
            await chosen.evaluate()
            assert chosen.fastest == fast.endpoint
            fast.is_silent = True
            await chosen.evaluate()
            assert chosen.fastest == slow.endpoint
            slow.is_silent = True
            await chosen.evaluate()
            assert chosen.fastest == failing.endpoint, "it answers at least, by an error"
            failing.is_silent = True
            await chosen.evaluate()
            assert chosen.fastest is None

    asyncio.run(story())


def test_rounds_follow_each_other_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameservers, "ROUND_INTERVAL_S", 0.01)

    async def story() -> None:
        rounds: list[int] = []
        third = asyncio.Event()

        def conf() -> ResolvConf:
            rounds.append(1)
            if len(rounds) == 3:
                third.set()
            return ResolvConf()

        chosen = Nameservers(mark=None, conf=conf)
        chosen.start()
        await asyncio.wait_for(third.wait(), 5)
        chosen.stop()
        before = len(rounds)
        await asyncio.sleep(0.05)
        assert len(rounds) == before

    asyncio.run(story())


# files


def test_resolv_conf_is_read_as_resolvers_do() -> None:
    conf = parse_resolv_conf(
        "# nameserver 1.1.1.1\nnameserver 10.0.0.1\nnameserver\nnameserver fd00::53\nnameserver x\nsearch a.test\n"
        "search B.test. c.test\noptions ndots:1\nnameserver 10.0.0.1\n"
    )
    assert conf == ResolvConf((Endpoint.from_text("10.0.0.1", 53), Endpoint.from_text("fd00::53", 53)), ("b.test", "c.test"))
    assert parse_resolv_conf("") == ResolvConf()


def test_hosts_are_read_with_all_their_names() -> None:
    assert parse_hosts("10.0.0.1 Box box.test # x\n# 1.2.3.4 no\nfd00::1 box\nbad line\n") == {
        "box": ips("10.0.0.1", "fd00::1"),
        "box.test": ips("10.0.0.1"),
    }
