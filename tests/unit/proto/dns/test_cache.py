"""The cache of other servers' answers (client 15.4)."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.timing import SECOND
from firezone.proto.dns.cache import AnswerCache
from firezone.wire.dns import Question, read_question

NAME = "www.example.com."


def ask(name: str = NAME, kind: str = "A", number: int | None = None) -> Question:
    query = dns.message.make_query(name, kind, use_edns=True)
    query.id = query.id if number is None else number
    question = read_question(query.to_wire())
    assert question is not None
    return question


def answer(question: Question, *rrsets: tuple[str, int, str, str], code: int = 0, flags: int = 0) -> bytes:
    """What a server would say: with authority and EDNS."""
    message = dns.message.make_response(dns.message.from_wire(question.message))
    message.answer = [dns.rrset.from_text(name, ttl, "IN", kind, text) for name, ttl, kind, text in rrsets]
    message.authority = [dns.rrset.from_text("example.com.", 3600, "IN", "NS", "ns.example.com.")]
    message.set_rcode(dns.rcode.Rcode(code))
    message.flags |= flags
    return message.to_wire()


def test_an_answer_is_given_again_with_what_is_left_of_its_time() -> None:
    cache = AnswerCache()
    asked = ask()
    chain = ((NAME, 300, "CNAME", "edge.example.net."), ("edge.example.net.", 60, "A", "192.0.2.7"))
    cache.put(asked, answer(asked, *chain), 10 * SECOND)
    again = ask("WWW.Example.com.", number=99)
    found = cache.get(again, 34 * SECOND + 1)
    assert found is not None
    message = dns.message.from_wire(found)
    assert (message.id, message.question[0].name.labels[0]) == (99, b"WWW")
    assert [(rrset.ttl, str(rrset[0])) for rrset in message.answer] == [(276, "edge.example.net."), (36, "192.0.2.7")]
    assert message.authority == message.additional == []
    assert message.opt is None
    assert not message.flags & (dns.flags.AA | dns.flags.RA | dns.flags.TC)


def test_it_is_gone_when_its_shortest_record_is() -> None:
    cache, asked = AnswerCache(), ask()
    cache.put(asked, answer(asked, (NAME, 7, "CNAME", "e.example."), ("e.example.", 60, "A", "192.0.2.7")), 0)
    assert cache.get(asked, 7 * SECOND - 1) is not None
    assert cache.get(asked, 7 * SECOND) is None
    assert len(cache) == 0


def test_what_is_not_worth_keeping_or_no_answer_is_not_kept() -> None:
    cache, asked = AnswerCache(), ask()
    good = (NAME, 60, "A", "192.0.2.7")
    for refused in (
        answer(asked, good, code=dns.rcode.SERVFAIL),
        answer(asked, good, code=dns.rcode.NXDOMAIN),
        answer(asked, good, flags=dns.flags.TC),
        answer(asked),
        answer(asked, (NAME, 4, "A", "192.0.2.7")),
        answer(asked, (NAME, 60, "CNAME", "elsewhere.example.")),
        answer(ask(number=1), good),
        answer(ask("other.example."), good),
        answer(asked, good)[:40],
        b"",
    ):
        cache.put(asked, refused, 0)
        assert len(cache) == 0
    cache.put(asked, answer(asked, (NAME, 5, "A", "192.0.2.7")), 0)
    assert len(cache) == 1


def test_types_and_names_do_not_mix_and_all_is_forgotten_at_once() -> None:
    cache, asked = AnswerCache(), ask()
    cache.put(asked, answer(asked, (NAME, 60, "A", "192.0.2.7")), 0)
    assert cache.get(ask(kind="AAAA"), 0) is None
    assert cache.get(ask("ww.example.com."), 0) is None
    cache.clear()
    assert cache.get(asked, 0) is None


def test_the_oldest_gives_way() -> None:
    cache = AnswerCache(most_entries=3)
    for number in range(5):
        asked = ask(f"host{number}.example.com.")
        cache.put(asked, answer(asked, (f"host{number}.example.com.", 60, "A", "192.0.2.7")), number)
    assert [cache.get(ask(f"host{number}.example.com."), 5) is not None for number in range(5)] == [False, False, True, True, True]


@given(st.binary(max_size=120))
def test_no_answer_of_a_server_breaks_it(tail: bytes) -> None:
    cache, asked = AnswerCache(), ask()
    whole = answer(asked, (NAME, 60, "A", "192.0.2.7"))
    cache.put(asked, whole[: asked.end] + tail, 0)
    cache.get(asked, 1)
