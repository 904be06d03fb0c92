"""Names in the whole stack: `client` 17.4, 17.5, 17.9 and 15.1, where sockets, routing and both ends matter.

client (its resolv.conf ours) ── router ── public segment, a name server there ── gateway ── site (name server, resource)
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.names_lab import run

pytestmark = pytest.mark.root

V4 = "100.96.0.1\n100.96.0.2\n100.96.0.3\n100.96.0.4"
V6 = "\n".join(f"fd00:2021:1111:8000::{host}" for host in "4567")


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    return run("ask")


@pytest.fixture(scope="module")
def upstream() -> dict[str, Any]:
    return run("upstream")


@pytest.fixture(scope="module")
def endured() -> dict[str, Any]:
    return run("endure")


def test_a_resources_addresses_are_the_same_over_every_transport_and_in_any_case(asked: dict[str, Any]) -> None:
    assert asked["a"] == asked["a again"] == asked["a over tcp"] == V4
    assert asked["aaaa"] == V6  # The second name of this client.
    assert asked["ptr"] == "wiki.lab.internal."
    assert [line.split()[0] for line in asked["getent"].splitlines()[::3]] == V4.split("\n")


def test_the_page_about_dns_says_what_happens(asked: dict[str, Any]) -> None:
    assert len(asked["page"]) >= 6
    for command, expected, came in asked["page"]:
        assert came == expected, command


def test_a_local_answer_has_a_second_to_live_and_no_opt(asked: dict[str, Any]) -> None:
    assert "wiki.lab.internal.\t1\tIN\tA\t100.96.0.1" in asked["whole a"]
    assert "OPT PSEUDOSECTION" not in asked["whole a"]
    assert "ADDITIONAL: 0" in asked["whole a"]


def test_texts_and_services_are_resolved_in_the_site_over_udp_and_tcp(asked: dict[str, Any]) -> None:
    assert asked["txt of an unconnected site"] == asked["txt over tcp"] == '"spoken in the site"'
    assert asked["srv"] == asked["srv over tcp"] == "1 2 80 wiki.lab.internal."


def test_an_answer_too_long_for_a_datagram_comes_over_tcp(asked: dict[str, Any]) -> None:
    assert "flags: qr tc rd" in asked["big, datagram only"]
    assert "ANSWER: 0" in asked["big, datagram only"]
    assert asked["big"] > 2000


def test_https_records_are_withheld_and_other_types_go_to_the_network(asked: dict[str, Any]) -> None:
    assert "status: NOERROR" in asked["https"]
    assert "ANSWER: 0" in asked["https"]
    assert "status: NXDOMAIN" in asked["mx"]  # The network's server does not know the site's names.
    assert "EDNS: version: 0" in asked["mx"]  # It was asked with the OPT of the question.


def test_other_names_are_the_networks_and_the_canary_is_nobodys(asked: dict[str, Any]) -> None:
    assert asked["public"] == "198.51.100.1"
    assert "status: NXDOMAIN" in asked["no such name"]
    assert "status: NXDOMAIN" in asked["canary"]


def test_a_name_of_one_family_is_reached_by_it_alone_and_a_changed_address_is_followed() -> None:
    found = run("reach")
    assert "You came as fd20:20::1" in found["v6 only"]
    assert "unreachable" in found["v4 of v6 only"].lower() or "no route to host" in found["v4 of v6 only"].lower()
    assert found["before the change"] is False
    assert found["changed"] is True
    assert found["changed after"] < 45


def test_a_server_of_the_portals_behind_a_gateway_is_asked_through_the_tunnel(upstream: dict[str, Any]) -> None:
    assert "status: NXDOMAIN" in upstream["before"]
    assert upstream["udp"] == upstream["tcp"] == "10.20.0.7"
    assert upstream["big"] > 2000
    assert upstream["resource"] == V4
    assert "status: NXDOMAIN" in upstream["public"]


def test_another_set_of_servers_has_other_sentinels(upstream: dict[str, Any]) -> None:
    assert upstream["sentinel before"] == ["100.100.111.1"]
    assert upstream["sentinel after"] == ["100.100.111.2"]


def test_a_silent_server_behind_a_gateway_is_servfail_after_ten_seconds(upstream: dict[str, Any]) -> None:
    assert "status: SERVFAIL" in upstream["silent"]
    assert 9 < upstream["silent after"] < 12


def test_garbage_and_a_multitude_of_names_cost_little_memory_and_no_service(endured: dict[str, Any]) -> None:
    assert endured["resident after"] - endured["resident before"] < 40
    assert endured["after the flood"] == V4
    assert endured["page after the flood"] == 200


def test_a_killed_client_leaves_its_file_and_the_next_answers_names_again(endured: dict[str, Any]) -> None:
    assert "nameserver 100.100.111.1" in endured["file of a killed client"]
    assert endured["page after the kill"] == 200  # The gateway takes addresses that are assigned anew.
    assert endured["file after the end"] == "nameserver 198.51.100.1\n"


def test_a_login_by_name_needs_neither_the_tunnel_nor_the_machines_resolver(endured: dict[str, Any]) -> None:
    assert endured["joined again"] == "joined the portal"
