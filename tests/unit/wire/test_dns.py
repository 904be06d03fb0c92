"""Questions and made-up answers against dnspython, and what no program should send."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.wire.dns import (
    MAX_UDP_ANSWER,
    Question,
    ResponseCode,
    encode_name,
    fit_datagram,
    is_answer_to,
    is_question,
    local_answer,
    read_answer,
    read_question,
    servfail,
    truncated,
)

LABELS = st.binary(min_size=1, max_size=63) | st.sampled_from([b"www", b"Example", b"a.b", b"a\\b", b"*", b"\x00", b"_srv"])


@st.composite
def names(draw: st.DrawFn) -> dns.name.Name:
    labels: list[bytes] = []
    for label in draw(st.lists(LABELS, max_size=6)):
        if sum(len(one) + 1 for one in labels) + len(label) + 2 <= 255:
            labels.append(label)
    return dns.name.Name([*labels, b""])


def ask(name: str | dns.name.Name = "www.example.com", kind: str = "A", **options: object) -> Question:
    question = read_question(dns.message.make_query(name, kind, **options).to_wire())  # type: ignore[arg-type]
    assert question is not None
    return question


@given(names(), st.sampled_from(["A", "AAAA", "TXT", "ANY", "TYPE65280"]), st.booleans())
def test_questions_are_read_as_dnspython_writes_them(name: dns.name.Name, kind: str, has_edns: bool) -> None:
    question = ask(name, kind, use_edns=has_edns)
    assert dns.name.from_text(question.name or ".") == name
    assert question.kind == dns.rdatatype.from_text(kind)
    if question.name:
        assert dns.name.from_wire(encode_name(question.name), 0)[0] == name


@given(names(), st.lists(st.binary(min_size=4, max_size=4), max_size=4), st.integers(0, 15), st.booleans())
def test_local_answers_are_read_by_dnspython(
    name: dns.name.Name, addresses: list[bytes], opcode: int, wants_recursion: bool
) -> None:
    query = dns.message.make_query(name, "A", use_edns=True)
    query.flags = query.flags | dns.flags.RD if wants_recursion else query.flags & ~dns.flags.RD
    message = query.to_wire()
    question = read_question(message[:2] + bytes((message[2] & 0x87 | opcode << 3, message[3])) + message[4:])
    assert question is not None
    wire = local_answer(question, addresses)
    assert wire[2:4] == (0x8000 | opcode << 11 | wants_recursion << 8).to_bytes(2, "big")
    answer = dns.message.from_wire(wire[:2] + (0x8000).to_bytes(2, "big") + wire[4:])
    assert answer.id == query.id
    assert answer.question[0].name.labels == name.labels, "the case that was asked in"
    assert not answer.authority
    assert not answer.additional
    assert answer.opt is None
    found = [(rrset.name.labels, rrset.ttl, item.to_wire()) for rrset in answer.answer for item in rrset]
    assert sorted(found) == sorted((name.labels, 1, address) for address in set(addresses))


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"\0\1\1\0\0\1\0\0\0\0\0\0" + tail))
def test_garbage_is_no_question_or_one_that_can_be_answered(message: bytes) -> None:
    question = read_question(message)
    if question is None:
        return
    for answer in (local_answer(question), servfail(message), truncated(servfail(message))):
        assert is_answer_to(answer, question)
        assert read_question(answer) is None


@given(st.data())
def test_a_question_that_was_cut_or_changed_never_raises(data: st.DataObject) -> None:
    message = bytearray(ask("www.example.com", "AAAA", use_edns=True).message)
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    question = read_question(cut)
    if question is not None:
        assert is_answer_to(local_answer(question), question)
        read_answer(cut, question)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        bytes(11),
        b"\0\1\x81\0\0\1" + bytes(6) + b"\0\0\1\0\1",
        b"\0\1\1\0\0\2" + bytes(6) + b"\0\0\1\0\1\0\0\1\0\1",
        b"\0\1\1\0\0\0" + bytes(6),
        b"\0\1\1\0\0\1" + bytes(6) + b"\xc0\x0c\0\1\0\1",
        b"\0\1\1\0\0\1" + bytes(6) + b"\3ww",
        b"\0\1\1\0\0\1" + bytes(6) + b"\0\0\1\0",
        b"\0\1\1\0\0\1\0\1" + bytes(4) + b"\0\0\1\0\1",
        b"\0\1\1\0\0\1" + bytes(6) + b"\x3f" + b"a" * 63 + (b"\x3f" + b"b" * 63) * 3 + b"\1c\0\0\1\0\1",
    ],
    ids=["empty", "short", "answer", "two", "none", "pointer", "cut label", "cut type", "cut record", "long name"],
)
def test_what_is_no_question_is_dropped(message: bytes) -> None:
    """Client 17.4.7."""
    assert not is_question(message)


def test_answers_over_the_limit_are_cut_to_their_question() -> None:
    """Client 17.4.8."""
    query = dns.message.make_query("big.example.com", "TXT", use_edns=True)
    question = read_question(query.to_wire())
    assert question is not None
    answer = dns.message.make_response(query)
    answer.answer.append(dns.rrset.from_text("big.example.com.", 60, "IN", "TXT", *(f'"{letter * 250}"' for letter in "abcdef")))
    wire = answer.to_wire(max_size=4096)
    assert len(wire) > MAX_UDP_ANSWER
    cut = dns.message.from_wire(fit_datagram(wire))
    assert cut.flags & dns.flags.TC
    assert (len(cut.question), len(cut.answer), cut.opt, cut.id) == (1, 0, None, query.id)
    assert len(fit_datagram(wire)) <= MAX_UDP_ANSWER
    assert fit_datagram(wire[:MAX_UDP_ANSWER]) == wire[:MAX_UDP_ANSWER]


def test_server_failure_keeps_what_was_asked() -> None:
    question = ask("WWW.example.com", "MX")
    answer = dns.message.from_wire(servfail(question.message))
    assert answer.rcode() == dns.rcode.SERVFAIL
    assert answer.question == dns.message.from_wire(question.message).question
    assert not answer.flags & dns.flags.RA
    denied = dns.message.from_wire(local_answer(question, code=ResponseCode.NAME_ERROR))
    assert denied.rcode() == dns.rcode.NXDOMAIN


def test_answers_to_another_question_are_told_apart() -> None:
    """Client 8.8: id and question of a server's answer are verified."""
    question = ask()
    answer = local_answer(question, [bytes(4)])
    assert is_answer_to(answer, question)
    assert is_answer_to(answer[:13] + answer[13:].replace(b"www", b"WWW", 1), question)
    for other in (ask("wwx.example.com"), ask(kind="AAAA"), ask()):
        changed = other.message[:2] if other.name == question.name and other.kind == question.kind else question.message[:2]
        assert not is_answer_to(local_answer(Question(changed + other.message[2:], other.name, other.kind, other.end)), question)
    assert not is_answer_to(question.message, question)
    assert not is_answer_to(answer[:20], question)
    https = ask(kind="HTTPS")  # 65 is "A", and 97 "a"
    other_type = bytearray(local_answer(https))
    other_type[https.end - 3] = 97
    assert not is_answer_to(bytes(other_type), https), "case is a matter of names only"


def test_names_that_are_none_are_refused() -> None:
    for name in ("a..b", "a" * 64, ".".join(["a" * 63] * 4)):
        with pytest.raises(ValueError, match="no domain name"):
            encode_name(name)
    assert encode_name("") == b"\0"
    assert encode_name(r"a\.b\\.c\009") == b"\x04a.b\\\2c\x09\0"
