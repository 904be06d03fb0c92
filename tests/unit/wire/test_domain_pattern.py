"""Patterns of names: `gateway` 7.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.wire.domain_pattern import is_pattern, matches


@pytest.mark.parametrize(
    ("pattern", "domain"),
    [
        ("example.com", "EXAMPLE.com."),
        ("*.example.com", "www.example.com"),
        ("*.example.com", "example.com"),
        ("**.example.com", "a.b.example.com"),
        ("**.example.com", "example.com"),
        ("a.**.example.com", "a.example.com"),
        ("a.**.example.com", "a.b.c.example.com"),
        ("app-?.example.com", "app-1.example.com"),
        ("us-*-1.example.com", "us-east-1.example.com"),
        ("us*.example.com", "us.example.com"),
        ("app.*.com", "app.example.com"),
        ("[ab].example.com", "b.example.com"),
        ("[a-z]1.example.com", "q1.example.com"),
        ("[!x].example.com", "y.example.com"),
        ("**", "any.thing"),
        ("*", "local"),
    ],
)
def test_these_match(pattern: str, domain: str) -> None:
    assert matches(pattern, domain)


@pytest.mark.parametrize(
    ("pattern", "domain"),
    [
        ("example.com", "www.example.com"),
        ("*.example.com", "a.b.example.com"),
        ("*.example.com", "notexample.com"),
        ("**.example.com", "example.com.evil.test"),
        ("app-?.example.com", "app-.example.com"),
        ("app-?.example.com", "app-12.example.com"),
        ("us-*.example.com", "us-a.b.example.com"),
        ("example.com", "exampleXcom"),
        ("[!x].example.com", "x.example.com"),
        ("[!x].example.com", "..example.com"),
        ("app.*.com", "app..com"),
        ("*", "two.labels"),
        ("example.com", "example.com.."),
    ],
)
def test_these_do_not(pattern: str, domain: str) -> None:
    assert not matches(pattern, domain)


@pytest.mark.parametrize(
    "pattern", ["", "a..b", "[", "[]", "[z-a].com", "a[b.com", "a**b.com", "ex ample.com", "a/b", "(a)", "a\nb"]
)
def test_what_cannot_be_read_matches_nothing(pattern: str) -> None:
    assert not is_pattern(pattern)
    assert not matches(pattern, pattern)
    assert not matches(pattern, "a.com")


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_answered(pattern: str, domain: str) -> None:
    assert matches(pattern, domain) in (True, False)


LABELS = st.text("abcxyz019-_", min_size=1, max_size=8)


@given(st.lists(LABELS, min_size=1, max_size=5))
def test_a_name_matches_itself_and_what_covers_it(labels: list[str]) -> None:
    domain = ".".join(labels)
    assert matches(domain, domain.upper())
    assert matches("**." + domain, "more.of." + domain)
    assert len(labels) == 1 or matches("*." + ".".join(labels[1:]), domain)
    assert not matches(domain, domain + "x")
