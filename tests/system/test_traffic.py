"""Real traffic through portal, gateway and client: the rows of `gateway` 18 and `client` 17 that need packets, and more.

One lab for all of it: client ── router ── gateway ── resource (a router, too) ── far; see `tests.harness.traffic_world`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

from firezone.lab.topology import GATEWAY_ADDRESS, RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6
from tests.harness import traffic_world as world
from tests.harness.traffic_gateways import SECOND_GATEWAY
from tests.harness.traffic_lab import run

pytestmark = pytest.mark.root

AT_ONCE_S = 1.0
PAGES = [f"{world.PUBLIC_ADDRESS} {GATEWAY_ADDRESS} x", f"{world.PUBLIC_ADDRESS_V6} 2001:db8:51::3 x"]


@pytest.fixture(scope="module")
def lab() -> dict[str, Any]:
    return run()


def chapter(lab: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab[name]
    assert "failed" not in found, found["failed"]
    return found


def errors(attempts: list[dict[str, Any]]) -> list[str]:
    """Returns what the programs were told, if they were told at once."""
    assert all(attempt["after"] < AT_ONCE_S for attempt in attempts), attempts
    return [attempt["error"] for attempt in attempts]


def digest(size: int) -> str:
    """Returns what a server says of an upload."""
    return hashlib.sha256(b"x" * size).hexdigest()


def test_nobody_complains(lab: dict[str, Any]) -> None:
    assert lab["complaints"] == []


# by name and by address


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_a_page_comes_by_name(lab: dict[str, Any], family: str) -> None:
    status, peer = chapter(lab, "basics")[f"curl {family}"]
    assert status == "200"
    assert peer.startswith("100.96." if family == "-4" else "fd00:2021:1111:8000:")


def test_datagrams_as_large_as_those_of_quic_fit(lab: dict[str, Any]) -> None:
    found = chapter(lab, "basics")["datagrams"]
    assert len(found) == 4
    for host, answers in found.items():
        assert answers[:3] == [1, 1200, 1232], host
    # The tunnel's 1280 bytes less the headers, and one byte more.
    assert found[RESOURCE_ADDRESS][3:] == [1252, "EMSGSIZE"]
    assert found[RESOURCE_ADDRESS_V6][3:] == found[world.V6_ONLY][3:] == [1232, "EMSGSIZE"]


def test_a_name_server_behind_the_gateway_is_asked_over_udp_and_tcp(lab: dict[str, Any]) -> None:
    found = chapter(lab, "basics")["questions"]
    assert len(found) == 4
    assert set(found.values()) == {RESOURCE_ADDRESS}  # Not a proxy IP: the question went past the stub resolver.


def test_a_gateway_answers_questions_on_its_tunnel_addresses(lab: dict[str, Any]) -> None:
    found = chapter(lab, "basics")["site questions"]
    assert len(found) == 4  # Two addresses, datagrams and one connection for three questions.
    assert all(answers == ['"spoken in the site"'] * 3 for answers in found.values()), found


def test_echo_requests_are_answered_by_names_addresses_and_the_gateway(lab: dict[str, Any]) -> None:
    found = chapter(lab, "basics")["echoes"]
    assert len(found) == 9
    assert all(found.values()), found


@pytest.mark.parametrize("kind", ["udp", "icmp"])
def test_the_way_to_an_address_is_traced(lab: dict[str, Any], kind: str) -> None:
    found = chapter(lab, "traces")
    v4, v6 = found["gateway"]
    end_v4, end_v6 = ([3, 3], [1, 4]) if kind == "udp" else (["reply", 0], ["reply", 0])
    assert found["v4"][kind] == [[v4, 11, 0], [RESOURCE_ADDRESS, 11, 0], [world.FAR_ADDRESS, *end_v4]]
    assert found["v6"][kind] == [[v6, 3, 0], [RESOURCE_ADDRESS_V6, 3, 0], [world.FAR_ADDRESS_V6, *end_v6]]


@pytest.mark.parametrize("kind", ["udp", "icmp"])
def test_every_hop_to_a_name_reports_from_the_proxy_address(lab: dict[str, Any], kind: str) -> None:
    found = chapter(lab, "traces")
    v4, v6 = found["proxies"]
    end_v4, end_v6 = ([3, 3], [1, 4]) if kind == "udp" else (["reply", 0], ["reply", 0])
    assert found["name v4"][kind] == [[v4, 11, 0], [v4, 11, 0], [v4, *end_v4]]
    assert found["name v6"][kind] == [[v6, 3, 0], [v6, 3, 0], [v6, *end_v6]]


# sizes


def test_a_resource_is_told_what_fits_into_the_tunnel(lab: dict[str, Any]) -> None:
    found = chapter(lab, "path_mtu")
    assert found["mtu"] == 1280
    assert found["back v4"] == {"type": 3, "code": 4, "mtu": 1280, "from": "10.20.0.1"}
    assert found["back v6"] == {"type": 2, "code": 0, "mtu": 1280, "from": "fd20:20::1"}


def test_a_narrow_link_of_the_site_is_reported_to_the_program(lab: dict[str, Any]) -> None:
    found = chapter(lab, "path_mtu")
    proxy, by_name = found["far by name"]
    assert by_name == {"type": 3, "code": 4, "mtu": 1000, "from": proxy}
    assert found["far by address"] == {**by_name, "from": RESOURCE_ADDRESS}


def test_a_narrow_link_of_the_gateway_is_reported_to_the_program(lab: dict[str, Any]) -> None:
    found = chapter(lab, "path_mtu")
    proxy, by_name = found["narrow by name"]
    assert by_name == {"type": 3, "code": 4, "mtu": 900, "from": proxy}
    assert found["narrow by address"] == {**by_name, "from": chapter(lab, "traces")["gateway"][0]}


def test_transfers_find_the_size_that_fits(lab: dict[str, Any]) -> None:
    found = chapter(lab, "path_mtu")["uploads"]
    assert found["far"] == f"{world.FAR_ADDRESS} 10.20.0.1 {digest(300_000)}"
    assert found["narrow"] == f"{world.NARROW_ADDRESS} 10.23.0.1 {digest(300_000)}"


def test_fragments_are_dropped_and_counted(lab: dict[str, Any]) -> None:
    found = chapter(lab, "path_mtu")
    assert found["fragmented"] == 1  # No echo came back.
    assert found["fragments"]["rows.fragment"] == 6  # Two of each of three.


# what lasts


@pytest.mark.parametrize("title", ["begin", "another-resource", "policy-renewed", "portal-away", "portal-back", "name-moved"])
def test_connections_last(lab: dict[str, Any], title: str) -> None:
    found = chapter(lab, "lasting")
    answer = f"{RESOURCE_ADDRESS} 10.20.0.1 {title}"
    assert found[title] == [answer, answer, True]  # By address, by name, and a datagram socket with its port outside.


def test_a_policy_that_is_not_renewed_in_time_ends_its_connection(lab: dict[str, Any]) -> None:
    before, after = chapter(lab, "lasting")["not renewed"]  # The others' policies were renewed, and theirs last.
    assert before == f"{RESOURCE_ADDRESS} 10.20.0.1 x"
    assert after == "timeout"


def test_new_connections_follow_a_name_that_moves(lab: dict[str, Any]) -> None:
    found = chapter(lab, "lasting")
    assert found["moved"] is True
    assert found["name"] == [RESOURCE_ADDRESS, world.OTHER_ADDRESS]
    assert found["moved after"] < 12  # Five seconds of TTL, and the tries in between.


def test_two_names_of_one_address_and_one_source_port_do_not_meet(lab: dict[str, Any]) -> None:
    found = chapter(lab, "names")
    assert len(set(found["peers"])) == 2
    assert [found["one"], found["two"]] == [f"{RESOURCE_ADDRESS} 10.20.0.1 {number}" for number in (1, 2)]
    assert found["again"] == [f"{RESOURCE_ADDRESS} 10.20.0.1 {line}" for line in (digest(100_000), digest(100_000), "1")]


def test_a_family_that_a_name_lacks_is_unreachable_at_once(lab: dict[str, Any]) -> None:
    found = chapter(lab, "names")
    assert found["v6 only"] == f"{RESOURCE_ADDRESS_V6} fd20:20::1 x"
    assert errors(found["v4 of v6 only"]) == ["ENETUNREACH"] * 2
    assert errors(found["v6 of v4 only"]) == ["EHOSTUNREACH"] * 2


def test_a_name_that_vanishes_is_unreachable_and_its_connections_stay(lab: dict[str, Any]) -> None:
    found = chapter(lab, "names")
    assert found["before"] == f"{RESOURCE_ADDRESS} 10.20.0.1 x"
    assert found["vanished"] in ("ENETUNREACH", "EHOSTUNREACH")
    assert found["open one"] == f"{RESOURCE_ADDRESS} 10.20.0.1 y"


def test_transfers_arrive_whole_while_one_packet_in_twenty_is_lost(lab: dict[str, Any]) -> None:
    found = chapter(lab, "rough")
    assert found["lost"] > 100
    assert found["lossy"]["sent"] is True
    assert found["lossy"]["received"] is True
    assert found["lossy"]["after"] < 25


def test_marks_of_congestion_reach_the_programs_kernel_with_right_checksums(lab: dict[str, Any]) -> None:
    found = chapter(lab, "rough")
    assert found["marking"]["sent"] is True
    assert found["marking"]["received"] is True
    for end in ("client", "resource"):
        assert found[f"marked at the {end}"] > 5
        assert found[f"bad at the {end}"] == "0"


# what is refused


@pytest.mark.parametrize(("title", "error"), [("v4", "EHOSTUNREACH"), ("v6", "EACCES"), ("name", None)])
def test_what_no_filter_lets_through_is_prohibited_at_once(lab: dict[str, Any], title: str, error: str | None) -> None:
    told = errors(chapter(lab, "refusals")[title])
    assert set(told) == {error} if error else set(told) <= {"EACCES", "EHOSTUNREACH"}


@pytest.mark.parametrize(("title", "error"), [("away v4", "ENETUNREACH"), ("away v6", "EHOSTUNREACH"), ("away name", None)])
def test_a_site_without_a_gateway_is_unreachable_at_once(lab: dict[str, Any], title: str, error: str | None) -> None:
    told = errors(chapter(lab, "refusals")[title])
    assert set(told) == {error} if error else set(told) <= {"ENETUNREACH", "EHOSTUNREACH"}


@pytest.mark.parametrize("resource", ["Site", "Site v6", "Wiki"])
def test_a_grant_that_is_revoked_stops_its_transfer_within_a_second(lab: dict[str, Any], resource: str) -> None:
    found = chapter(lab, "revoked")
    assert found[resource]["bytes"] > 100_000
    assert found[resource]["after"] < AT_ONCE_S
    assert found["kept"].endswith(" y")  # Another resource of the same gateway.


def test_a_grant_that_comes_back_works_again(lab: dict[str, Any]) -> None:
    assert chapter(lab, "revoked")["granted again"] is True


# gateways that end


def test_another_gateway_takes_over_at_once_behind_a_goodbye(lab: dict[str, Any]) -> None:
    found = chapter(lab, "failover")
    assert found["at first"] == f"{RESOURCE_ADDRESS} 10.20.0.1 x"
    for title in ("after the goodbye", "by name"):
        answer, seconds = found[title]
        assert answer == f"{RESOURCE_ADDRESS} {SECOND_GATEWAY} x"
        assert seconds < 3


def test_another_gateway_takes_over_soon_behind_a_kill(lab: dict[str, Any]) -> None:
    answer, seconds = chapter(lab, "failover")["after the kill"]
    assert answer == f"{RESOURCE_ADDRESS} 10.20.0.1 x"
    assert seconds < 20


def test_when_the_last_gateway_leaves_its_resources_are_unreachable_at_once(lab: dict[str, Any]) -> None:
    found = chapter(lab, "failover")
    assert errors(found["none is left"]) == ["ENETUNREACH"] * 2
    answer, seconds = found["one again"]
    assert answer == f"{RESOURCE_ADDRESS} 10.20.0.1 x"
    assert seconds < 3


# Internet


def test_the_internet_goes_to_the_gateway(lab: dict[str, Any]) -> None:
    found = chapter(lab, "internet")
    assert found["routes"] == ["tun-firezone", "tun-firezone"]
    assert found["pages"] == PAGES


def test_the_internet_is_off_unless_it_is_asked_for(lab: dict[str, Any]) -> None:
    found = chapter(lab, "internet_off")
    assert found["routes"] == ["eth0", "none"]
    assert re.fullmatch("ENETUNREACH|EHOSTUNREACH|timeout", found["page"])


@pytest.mark.parametrize(
    ("host", "error"),
    [("10.9.9.9", "ENETUNREACH"), ("172.16.0.9", "ENETUNREACH"), ("192.168.7.7", "ENETUNREACH"), ("169.254.1.1", "ENETUNREACH"),
     ("fd12::1", "EHOSTUNREACH")],
)  # fmt: skip
def test_private_addresses_are_no_part_of_the_internet(lab: dict[str, Any], host: str, error: str) -> None:
    assert errors([chapter(lab, "internet")["refused"][host]]) == [error]


@pytest.mark.parametrize("host", ["100.100.0.1", "fd00:2021:1111::77"])
def test_addresses_of_the_tunnel_are_nobodys_resource(lab: dict[str, Any], host: str) -> None:
    assert chapter(lab, "internet")["refused"][host]["error"] == "timeout"  # Dropped, `client` 17.3.


@pytest.mark.parametrize(("title", "family"), [("internet", "v4"), ("internet_by_v6", "v6")])
def test_what_the_client_itself_sends_does_not_go_into_the_tunnel(lab: dict[str, Any], title: str, family: str) -> None:
    found = chapter(lab, title)
    assert found["routes"] == ["tun-firezone", "tun-firezone"]
    assert found["pages"] == PAGES
    assert found["after a reset"] is True
    sent = found["watched"]
    assert [sent[f"{what} into the tunnel"] for what in ("marked", "datagrams", "portal")] == [0, 0, 0]
    assert sent[f"{family} datagrams outside"] > 20
    assert sent["portal outside"] > 5
