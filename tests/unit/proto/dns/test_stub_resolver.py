"""Who answers which question (client 8.4, 17.4), and which pattern is the more specific (client 3.3)."""

from __future__ import annotations

import itertools

import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.ids import ResourceId
from firezone.proto.dns.pattern_order import PatternIndex, specificity
from firezone.proto.dns.stub_resolver import MAX_REMEMBERED, Local, Site, StubResolver, Upstream
from firezone.wire.dns import read_question
from firezone.wire.domain_pattern import is_pattern, matches

IN_ORDER = (
    "example.com", "bar.example.com", "*.bar.example.com", "foo.example.com", "?.example.com", "*.example.com", "**.example.com",
    "*ample.com", "*.com",
)  # fmt: skip
PATTERNS = st.text("ab?*.", min_size=1, max_size=9).map(lambda text: text.rstrip("."))  # as the resolver hands them on
NAMES = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4).map(".".join)
A, B, C = ResourceId("a"), ResourceId("b"), ResourceId("c")


def resolve(resolver: StubResolver, name: str, kind: str = "A", **options: object) -> Local | Site | Upstream:
    question = read_question(dns.message.make_query(name, kind, **options).to_wire())  # type: ignore[arg-type]
    assert question is not None
    return resolver.resolve(question)


def answered(resolver: StubResolver, name: str, kind: str = "A") -> list[str]:
    """The records of a local answer, which must be no error."""
    outcome = resolve(resolver, name, kind)
    assert isinstance(outcome, Local)
    message = dns.message.from_wire(outcome.answer)
    assert message.rcode() == dns.rcode.NOERROR
    assert all(rrset.ttl == 1 for rrset in message.answer)
    return [str(item) for rrset in message.answer for item in rrset]


def resolver_with(*patterns: str, stack: str = "dual") -> StubResolver:
    resolver = StubResolver()
    for number, pattern in enumerate(patterns):
        resolver.set_resource(ResourceId(chr(ord("a") + number)), pattern, stack)
    return resolver


# patterns


def test_patterns_come_in_the_order_of_the_original() -> None:
    for shuffled in itertools.islice(itertools.permutations(IN_ORDER), 0, None, 7919):
        assert sorted(shuffled, key=specificity) == list(IN_ORDER)


@given(st.lists(PATTERNS, max_size=12), st.lists(PATTERNS, max_size=6), NAMES)
def test_index_finds_what_a_scan_finds(patterns: list[str], removed: list[str], name: str) -> None:
    index = PatternIndex()
    for pattern in patterns:
        index.add(pattern)
    for pattern in removed:
        index.discard(pattern)
    left = {pattern for pattern in patterns if pattern not in removed and is_pattern(pattern)}
    wanted = sorted((pattern for pattern in left if pattern == name or matches(pattern, name)), key=specificity)
    assert index.matching(name) == wanted


def test_the_more_specific_pattern_owns_a_name_whatever_came_first() -> None:
    patterns = ["**.example.com", "*.bar.example.com", "x.bar.example.com"]
    for order in itertools.permutations(patterns):
        resolver = resolver_with(*order)
        owners = resolver.resources_of("x.bar.example.com")
        assert [order[ord(owner) - ord("a")] for owner in owners] == patterns[::-1]


def test_of_two_resources_with_one_pattern_the_larger_id_comes_first_and_the_other_stays() -> None:
    resolver = resolver_with("*.example.com", "*.example.com")
    assert resolver.resources_of("www.example.com") == (B, A)
    resolver.remove_resource(B)
    assert resolver.resources_of("www.example.com") == (A,)
    resolver.remove_resource(A)
    resolver.remove_resource(A)
    assert resolver.resources_of("www.example.com") == ()


def test_finding_the_resources_of_a_name_tries_few_of_many_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def try_it(pattern: str, name: str) -> bool:
        tried.append(pattern)
        return matches(pattern, name)

    monkeypatch.setattr("firezone.proto.dns.pattern_order.matches", try_it)
    resolver = StubResolver()
    for number in range(10_000):
        resolver.set_resource(ResourceId(f"{number}"), f"host{number}.example.com" if number % 2 else f"*.zone{number}.example.org")
    assert resolver.resources_of("host3.example.com") == (ResourceId("3"),)
    assert resolver.resources_of("x.zone4.example.org") == (ResourceId("4"),)
    assert resolver.resources_of("x.example.org") == ()
    assert tried == ["*.zone4.example.org"]


def test_names_asked_for_by_the_million_are_not_all_remembered() -> None:
    resolver = resolver_with("*.example.com")
    for number in range(2 * MAX_REMEMBERED):
        resolver.resources_of(f"{number}.example.net")
    assert len(resolver._found) <= MAX_REMEMBERED


# answers


def test_addresses_of_both_families_are_the_same_whichever_is_asked_first() -> None:
    """Client 17.4.1-2."""
    v4 = [f"100.96.0.{n}" for n in range(1, 5)]
    v6 = ["fd00:2021:1111:8000::", *(f"fd00:2021:1111:8000::{n}" for n in range(1, 4))]
    for order in (("A", "AAAA"), ("AAAA", "A")):
        resolver = resolver_with("*.example.com")
        found = {kind: answered(resolver, "app.example.com", kind) for kind in order}
        assert found == {"A": v4, "AAAA": v6}
        assert answered(resolver, "second.example.com") == [f"100.96.0.{n}" for n in range(5, 9)]
        assert answered(resolver, "app.example.com") == v4


def test_case_of_the_question_is_kept_and_does_not_matter() -> None:
    """Client 17.4.3."""
    resolver = resolver_with("*.Example.com")
    first = resolve(resolver, "FOO.example.com")
    second = resolve(resolver, "foo.EXAMPLE.com")
    assert isinstance(first, Local)
    assert isinstance(second, Local)
    one, other = dns.message.from_wire(first.answer), dns.message.from_wire(second.answer)
    assert [str(item) for item in one.answer[0]] == [str(item) for item in other.answer[0]]
    assert other.answer[0].name.labels == (b"foo", b"EXAMPLE", b"com", b"")


def test_other_types_of_a_resource_go_where_they_are_known() -> None:
    """Client 17.4.4."""
    resolver = resolver_with("app.example.com")
    assert answered(resolver, "app.example.com", "HTTPS") == []
    for kind in ("SRV", "TXT"):
        assert resolve(resolver, "app.example.com", kind) == Site(A)
    for kind in ("MX", "NS", "SOA", "CNAME", "SVCB", "CAA", "ANY"):
        assert resolve(resolver, "app.example.com", kind) == Upstream()
    for kind in ("A", "AAAA", "HTTPS", "TXT", "MX"):
        assert resolve(resolver, "www.example.com", kind) == Upstream()


def test_pointers_of_made_up_addresses_are_answered_even_when_the_resource_is_gone() -> None:
    resolver = resolver_with("*.example.com")
    for kind in ("A", "AAAA"):
        for text in answered(resolver, "App.example.com", kind):
            assert answered(resolver, str(dns.reversename.from_address(text)), "PTR") == ["App.example.com."]
    resolver.remove_resource(A)
    assert answered(resolver, "1.0.96.100.in-addr.arpa", "PTR") == ["App.example.com."]
    assert resolve(resolver, "app.example.com") == Upstream(), "names that are no resource's any more are the machine's again"


@pytest.mark.parametrize(
    "name",
    [
        "8.8.8.8.in-addr.arpa", "9.0.96.100.in-addr.arpa", "0.96.100.in-addr.arpa", "x.0.96.100.in-addr.arpa", "in-addr.arpa",
        "1.1.0.96.100.in-addr.arpa", "300.0.96.100.in-addr.arpa", "01.0.96.100.in-addr.arpa", "1.0.ip6.arpa", "arpa",
        "_." * 32 + "ip6.arpa", "0." * 33 + "ip6.arpa", "1.0.96.100.in-addr.arpa.example", ".",
    ],
)  # fmt: skip
def test_pointers_of_other_addresses_are_the_machines(name: str) -> None:
    resolver = resolver_with("*.example.com", "1.0.96.100.in-addr.arpa")
    answered(resolver, "app.example.com")
    assert resolve(resolver, name, "PTR") == Upstream()


def test_browsers_are_told_to_leave_dns_to_the_machine() -> None:
    """Client 17.4.5."""
    resolver = resolver_with("**.use-application-dns.net")
    for kind in ("A", "AAAA", "TXT"):
        outcome = resolve(resolver, "Use-Application-DNS.net", kind)
        assert isinstance(outcome, Local)
        message = dns.message.from_wire(outcome.answer)
        assert (message.rcode(), message.answer) == (dns.rcode.NXDOMAIN, [])
    assert resolve(StubResolver(), "x.use-application-dns.net") == Upstream()


def test_stack_decides_when_a_name_is_answered_not_when_it_got_its_addresses() -> None:
    """Client 17.1.5, 15.3: a stack that changes has effect at once, and resources with one family each go together."""
    resolver = resolver_with("app.example.com", stack="ipv4_only")
    assert len(answered(resolver, "app.example.com", "A")) == 4
    assert answered(resolver, "app.example.com", "AAAA") == []
    resolver.set_resource(A, "app.example.com", "ipv6_only")
    assert answered(resolver, "app.example.com", "A") == []
    assert len(answered(resolver, "app.example.com", "AAAA")) == 4
    resolver.set_resource(B, "*.example.com", "ipv4_only")
    assert answered(resolver, "app.example.com", "A") == [f"100.96.0.{n}" for n in range(1, 5)]


def test_a_resource_that_comes_back_with_another_pattern_has_that_one_only() -> None:
    """Client 17.9: a portal may use an id for another address."""
    resolver = resolver_with("app.example.com")
    answered(resolver, "app.example.com")
    resolver.set_resource(A, "web.example.com")
    assert resolve(resolver, "app.example.com") == Upstream()
    assert answered(resolver, "web.example.com") == [f"100.96.0.{n}" for n in range(5, 9)]
    resolver.set_resource(A, "app.example.com")
    assert answered(resolver, "app.example.com") == [f"100.96.0.{n}" for n in range(1, 5)]


def test_asking_whether_a_question_is_left_to_others_gives_no_name_addresses() -> None:
    resolver = resolver_with("app.example.com")
    for kind, is_left in (("A", False), ("HTTPS", False), ("TXT", False), ("MX", True)):
        question = read_question(dns.message.make_query("app.example.com", kind).to_wire())
        assert question is not None
        assert resolver.leaves(question) == is_left
    assert len(resolver.proxies) == 0


def first_of(this: str, other: str) -> int:
    """The order of the original, told as it is written down: -1 when this one comes first."""
    pairs = itertools.zip_longest(reversed(this), reversed(other), fillvalue="")
    mine, theirs = next(((a, b) for a, b in pairs if a != b), ("", ""))
    match (mine in ("?", "*"), theirs in ("?", "*")):
        case (True, True):
            return -1 if mine == "?" else 1
        case (False, True):
            return -1
        case (True, False):
            return 1
    if "" in (mine, theirs):
        return 0 if mine == theirs else -1 if mine == "" else 1
    return -1 if mine > theirs else 1


@given(st.text("abz?*.-", max_size=6), st.text("abz?*.-", max_size=6))
def test_order_is_that_of_the_original(this: str, other: str) -> None:
    mine, theirs = specificity(this), specificity(other)
    this, other = this.removesuffix("."), other.removesuffix(".")
    assert first_of(this, other) == (mine > theirs) - (mine < theirs)


def test_a_pattern_that_cannot_be_read_matches_nothing() -> None:
    resolver = resolver_with("a**.example.com", "***.com", "")
    assert resolve(resolver, "ab.example.com") == Upstream()
    resolver.remove_resource(A)


def test_an_answer_has_no_edns_even_if_the_question_has() -> None:
    """Client 17.4.10."""
    outcome = resolve(resolver_with("app.example.com"), "app.example.com", use_edns=True, payload=4096)
    assert isinstance(outcome, Local)
    message = dns.message.from_wire(outcome.answer)
    assert message.opt is None
    assert len(message.answer[0]) == 4
