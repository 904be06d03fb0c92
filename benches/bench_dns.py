"""Questions answered by the stub resolver: resources' names, other servers' answers from the cache, and dnspython for the same."""

from __future__ import annotations

from typing import Any

import dns.message
import dns.rrset
import pytest

from firezone.base.ids import ResourceId
from firezone.proto.dns.cache import AnswerCache
from firezone.proto.dns.stub_resolver import Local, StubResolver
from firezone.wire.dns import read_question

QUESTIONS = 1000


def resolver_of(resources: int) -> StubResolver:
    resolver = StubResolver()
    for number in range(resources):
        pattern = f"host{number}.example.com" if number % 2 else f"*.zone{number}.example.com"
        resolver.set_resource(ResourceId(str(number)), pattern)
    return resolver


def messages(names: int) -> list[bytes]:
    return [dns.message.make_query(f"www{n % names}.zone0.example.com", "A", use_edns=True).to_wire() for n in range(QUESTIONS)]


@pytest.mark.parametrize(("names", "resources"), [(1, 1), (1000, 1), (1000, 10_000)])
def bench_resource(benchmark: Any, names: int, resources: int) -> None:
    resolver, asked = resolver_of(resources), messages(names)

    def run() -> int:
        answered = 0
        for message in asked:
            question = read_question(message)
            assert question is not None
            answered += isinstance(resolver.resolve(question), Local)
        return answered

    assert benchmark(run) == QUESTIONS
    benchmark.extra_info["questions"] = QUESTIONS


def bench_cached(benchmark: Any) -> None:
    cache, asked = AnswerCache(), messages(10)
    for message in asked[:10]:
        question, answer = read_question(message), dns.message.make_response(dns.message.from_wire(message))
        answer.answer.append(dns.rrset.from_text(answer.question[0].name, 300, "IN", "A", "192.0.2.1", "192.0.2.2"))
        assert question is not None
        cache.put(question, answer.to_wire(), 0)

    def run() -> int:
        found = 0
        for message in asked:
            question = read_question(message)
            assert question is not None
            found += cache.get(question, 1) is not None
        return found

    assert benchmark(run) == QUESTIONS
    benchmark.extra_info["questions"] = QUESTIONS


def bench_dnspython(benchmark: Any) -> None:
    asked = messages(1)[:100]

    def run() -> None:
        for message in asked:
            answer = dns.message.make_response(dns.message.from_wire(message))
            addresses = [f"100.96.0.{n}" for n in range(1, 5)]
            answer.answer.append(dns.rrset.from_text(answer.question[0].name, 1, "IN", "A", *addresses))
            answer.to_wire()

    benchmark(run)
    benchmark.extra_info["questions"] = 100
