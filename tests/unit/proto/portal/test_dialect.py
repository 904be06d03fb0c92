"""What each version can be told: the gates of portal-protocol 9.15 and 11.8."""

from __future__ import annotations

import json

import pytest

from firezone.base.ids import ResourceId, SiteId
from firezone.proto.portal.dialect import component_of, dialect_of, parse_version, version_of
from firezone.proto.portal.model import Role
from firezone.wire.portal import client
from firezone.wire.portal.shared import Site


@pytest.mark.parametrize(
    ("agent", "component"),
    [
        ("Debian/12 headless-client/1.5.12 (x86_64)", "headless"), ("Windows/11 gui-client/1.5.17", "gui"),
        ("iOS/18 apple-client/1.5.20", "apple"), ("Android/15 android-client/1.5.14", "android"),
        ("Mac OS/15.0 connlib/1.5.8", "apple"), ("macOS/15.0 connlib/1.5.8", "apple"), ("iOS/18 connlib/1.5.8", "apple"),
        ("Android/15 connlib/1.5.4", "android"), ("Ubuntu/24.4.0 connlib/1.5.4", "gui"),
    ],
)  # fmt: skip
def test_the_component_of_a_client(agent: str, component: str) -> None:
    assert component_of(agent) == component


@pytest.mark.parametrize(
    ("agent", "sites", "moves"),
    [
        ("Debian/12 headless-client/1.5.6", True, True), ("Debian/12 headless-client/1.5.5", False, True),
        ("Debian/12 headless-client/1.5.4", False, False),
        ("Windows/11 gui-client/1.5.10", True, True), ("Windows/11 gui-client/1.5.9", False, True),
        ("Windows/11 gui-client/1.5.8", False, False),
        ("macOS/15 apple-client/1.5.11", True, True), ("macOS/15 apple-client/1.5.10", False, True),
        ("macOS/15 apple-client/1.5.8", False, False),
        ("Android/15 android-client/1.5.8", True, True), ("Android/15 android-client/1.5.5", False, True),
        ("Android/15 android-client/1.5.4", False, False),
        ("Ubuntu/24 connlib/1.5.8", False, False), ("Ubuntu/24 connlib/1.6.0", True, True),
        ("Ubuntu/24 headless-client/nightly", False, False),
    ],
)  # fmt: skip
def test_sites_by_version(agent: str, sites: bool, moves: bool) -> None:
    dialect = dialect_of(Role.CLIENT, 1, agent, version_of(agent) or "")
    resource = client.InternetResource(
        id=ResourceId("c1d2e3f4-0516-4728-993a-4b5c6d7e8f33"),
        sites=(Site(id=SiteId("6f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f5"), name="x"),),
    )
    said = json.loads(dialect.said.encode(client.ResourceCreatedOrUpdated(resource=resource))[1])
    assert ("sites" in said, "gateway_groups" in said) == (sites, not sites)
    assert dialect.can_move_sites is moves


@pytest.mark.parametrize(
    ("pattern", "old"),
    [
        ("wiki.test", "wiki.test"), ("**.wiki.test", "*.wiki.test"), ("*.wiki.test", "?.wiki.test"), ("a.*.wiki.test", None),
        ("wiki?.test", None), ("*a.wiki.test", None), ("**.*.test", None), ("a.**.test", None),
    ],
)  # fmt: skip
def test_patterns_for_versions_before_1_2(pattern: str, old: str | None) -> None:
    assert dialect_of(Role.GATEWAY, 1, "", "1.1.9").pattern(pattern) == old
    assert dialect_of(Role.GATEWAY, 1, "", "1.2.0").pattern(pattern) == pattern


def test_the_internet_is_for_versions_since_1_3() -> None:
    assert [dialect_of(Role.CLIENT, 1, "", version).can_hear_of("internet") for version in ("1.2.9", "1.3.0", "x")] == [
        False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "1", "1.5", "01.2.3", "1.2.3.4", "v1.2.3", "1.2.3 ", "1.2.x"])
def test_what_is_no_version(text: str) -> None:
    assert parse_version(text) is None
