"""What the client's program does with what its state decides about a question."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dns.message
import pytest

from firezone.base.errors import ConfigError
from firezone.base.ids import ResourceId
from firezone.base.net import Address, Endpoint
from firezone.io.dns_server import DnsServer
from firezone.loop.client_dns import ClientDns
from firezone.proto.client.dns_outcomes import DnsAnswer, DnsForward, DnsInSite, DnsOutcome, SiteReachable

if TYPE_CHECKING:
    from firezone.base.timing import Instant

SENTINEL, SENTINEL_V6 = "100.100.111.1", "fd00:2021:1111:8000:100:100:111:0"
SERVER = Endpoint.from_text("192.0.2.53", 53)
RESOURCE = ResourceId("00000000-0000-4000-8000-000000000001")
QUESTION = dns.message.make_query("app.example.com", "A").to_wire()


@dataclass
class Decided:
    """A state that decides what the test says."""

    outcome: DnsOutcome | None = None
    asked: list[tuple[Address, bytes]] = field(default_factory=list)
    answers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def handle_dns_query(self, sentinel: Address, message: bytes, now: Instant) -> DnsOutcome | None:
        self.asked.append((sentinel, message))
        return self.outcome

    def handle_dns_response(self, question: bytes, answer: bytes, now: Instant) -> None:
        self.answers.append((question, answer))


class Program:
    """What stands around: remembers where questions go."""

    def __init__(self) -> None:
        self.state = Decided()
        self.touches = 0
        self.passed_on: list[tuple[Any, ...]] = []
        self.replies: list[bytes] = []
        self.names = ClientDns(self.state, mark=None, clock=lambda: 5, touch=self._touch)
        for way in ("ask_host", "ask_through_tunnel", "ask_site"):
            setattr(self.names._upstreams, way, self._note(way))

    def _touch(self) -> None:
        self.touches += 1

    def _note(self, way: str) -> Any:
        def note(whom: object, question: bytes, reply: object, **how: bool) -> None:
            self.passed_on.append((way, whom, how))

        return note

    def ask(self, outcome: DnsOutcome | None, *, sentinel: str = SENTINEL, is_tcp: bool = False) -> bool:
        self.state.outcome = outcome
        return self.names.handle(sentinel, QUESTION, is_tcp, self.replies.append)


@pytest.fixture
async def program() -> Program:
    return Program()


async def test_an_answer_is_given_at_once(program: Program) -> None:
    assert program.ask(DnsAnswer(b"answer"))
    assert program.replies == [b"answer"]
    assert program.state.asked == [(ipaddress.ip_address(SENTINEL), QUESTION)]


async def test_what_is_no_question_is_said_to_be_none(program: Program) -> None:
    assert not program.ask(None)
    assert (program.replies, program.passed_on) == ([], [])


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_others_are_passed_on_by_the_way_the_state_says(program: Program, is_tcp: bool) -> None:
    for outcome in (DnsForward(SERVER, False), DnsForward(SERVER, True), DnsInSite(RESOURCE, SERVER)):
        assert program.ask(outcome, is_tcp=is_tcp)
    how = {"is_tcp": is_tcp}
    assert program.passed_on == [("ask_host", SERVER, how), *[("ask_through_tunnel", SERVER, how)] * 2]


@pytest.mark.parametrize("sentinel", [SENTINEL, SENTINEL_V6])
async def test_a_site_not_reached_yet_is_waited_for_by_the_sentinels_family(program: Program, sentinel: str) -> None:
    program.ask(DnsInSite(RESOURCE, None), sentinel=sentinel)
    assert program.passed_on == [("ask_site", RESOURCE, {"is_ipv4": sentinel == SENTINEL, "is_tcp": False})]


async def test_the_engine_is_told_once_per_pass_of_the_loop(program: Program) -> None:
    for _ in range(5):
        program.ask(DnsAnswer(b""))
    assert program.touches == 0
    await asyncio.sleep(0)
    assert program.touches == 1
    program.ask(DnsAnswer(b""))
    await asyncio.sleep(0)
    assert program.touches == 2


async def test_a_gateway_that_is_reached_lets_its_questions_go(program: Program) -> None:
    reached: list[tuple[object, ...]] = []
    program.names._upstreams.on_site = lambda *words: reached.append(words)  # type: ignore[method-assign]
    ipv4, ipv6 = ipaddress.IPv4Address("100.64.0.2"), ipaddress.IPv6Address("fd00:2021:1111::2")
    program.names.on_site(SiteReachable(RESOURCE, ipv4, ipv6))
    assert reached == [(RESOURCE, "100.64.0.2", "fd00:2021:1111::2")]


async def test_without_port_53_names_do_not_resolve_and_the_client_goes_on(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: DnsServer, addresses: object) -> tuple[str, ...]:
        raise ConfigError("nftables is not installed.")

    monkeypatch.setattr(DnsServer, "listen", refuse)
    assert await program.names.listen([SENTINEL]) == ()
