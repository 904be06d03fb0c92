"""DNS resources through a whole gateway, told by a client that says what it wants: `gateway` 6, 7, 15.5 and 18 (21 to 48)."""

from __future__ import annotations

import pytest

from firezone.base.ids import ResourceId
from firezone.base.timing import SECOND
from firezone.kernels.types import Reason
from firezone.proto.gateway import names
from firezone.proto.gateway.resolutions import MAX_WAITING, MAX_WAITING_PER_CLIENT, Resolutions, Waiting
from firezone.wire.control import ControlEvent, encode_control
from firezone.wire.ip import decode_ip
from firezone.wire.portal import gateway as wire
from tests.harness import packets
from tests.harness.packets import ICMP
from tests.harness.roles import uid
from tests.unit.proto.gateway.bench import (
    GRE,
    PROHIBITED_V4,
    UNREACHABLE_V4,
    UNREACHABLE_V6,
    tcp_filter,
    udp_filter,
)
from tests.unit.proto.gateway.names_bench import DOMAIN, PROXIES, PROXIES6, NamesBench


def test_a_name_is_resolved_and_its_addresses_are_reached_in_turn() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.2", "10.9.0.1", "fd12::1")
    assert [bench.through(bench.udp(server=proxy)) for proxy in PROXIES] == [
        ("10.9.0.1", 5000), ("10.9.0.2", 5000), ("10.9.0.1", 5001), ("10.9.0.2", 5001),
    ]  # fmt: skip
    assert bench.through(bench.udp(server=PROXIES6[1])) == ("fd12::1", 5000)
    assert bench.back(bench.reply("10.9.0.1", 5001)) == PROXIES[2]


def test_a_family_without_addresses_is_unreachable_and_the_other_works() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    assert bench.through(bench.udp(server=PROXIES6[0])) == UNREACHABLE_V6
    assert bench.through(bench.udp(server=PROXIES[0])) == ("10.9.0.1", 5000)
    bench = NamesBench()
    bench.set_up("fd12::1")
    assert bench.through(bench.udp(server=PROXIES[3])) == UNREACHABLE_V4
    assert bench.through(bench.udp(server=PROXIES6[0])) == ("fd12::1", 5000)


def test_a_name_that_cannot_be_resolved_is_active_and_unreachable() -> None:
    bench = NamesBench()
    bench.set_up()
    assert bench.through(bench.udp(server=PROXIES[0])) == UNREACHABLE_V4
    assert bench.through(bench.udp(server=PROXIES6[0])) == UNREACHABLE_V6


def test_a_proxy_that_was_never_announced_is_prohibited() -> None:
    bench = NamesBench()
    assert bench.through(bench.udp(server=PROXIES[0])) == PROHIBITED_V4


@pytest.mark.parametrize(
    ("number", "domain", "proxies"),
    [
        (21, DOMAIN, PROXIES),
        (9, DOMAIN, PROXIES),
        (20, "app.other.test", PROXIES),
        (20, "corp.test.evil", PROXIES),
        (20, "a b", PROXIES),
        (20, DOMAIN, ("8.8.8.8",)),
        (20, DOMAIN, tuple(f"100.96.0.{n}" for n in range(9))),
    ],
)
def test_what_may_not_be_announced_is_inactive_at_once_without_a_lookup(number: int, domain: str, proxies: tuple[str, ...]) -> None:
    bench = NamesBench()
    assert bench.announce(number, domain, proxies) is None
    assert bench.statuses == ["Inactive"]
    assert bench.through(bench.udp(server="8.8.8.8")) == PROHIBITED_V4


@pytest.mark.parametrize("packet", [encode_control(ControlEvent.ASSIGNED_IPS, b"{"), encode_control(77)])  # type: ignore[arg-type]
def test_garbage_and_unknown_events_are_answered_by_silence(packet: bytes) -> None:
    bench = NamesBench()
    bench.tell(packet)
    assert bench.statuses == []
    bench.set_up("10.9.0.1")


def test_the_domain_is_compared_whatever_its_case() -> None:
    bench = NamesBench()
    assert bench.announce(domain="APP.Corp.Test") == DOMAIN
    bench.resolve("10.9.0.1")
    bench.set_up("10.9.0.1")


def test_a_lookup_that_takes_ten_seconds_leaves_the_name_inactive() -> None:
    bench = NamesBench()
    assert bench.announce() == DOMAIN
    bench.world.run(9)
    assert bench.statuses == []
    bench.world.run(1.5)
    assert bench.statuses == ["Inactive"]
    bench.resolve("10.9.0.1")
    assert bench.statuses == ["Inactive"]
    bench.set_up("10.9.0.1")


def test_a_resource_that_goes_during_the_lookup_leaves_the_name_inactive() -> None:
    bench = NamesBench()
    bench.announce()
    bench.revoke(20)
    bench.resolve("10.9.0.1")
    assert bench.statuses == ["Inactive"]
    assert bench.through(bench.udp(server=PROXIES[0])) == PROHIBITED_V4


def test_concurrent_announcements_share_one_lookup_and_each_is_answered() -> None:
    bench = NamesBench()
    assert bench.announce() == DOMAIN
    assert bench.announce() is None
    bench.resolve("10.9.0.1")
    assert bench.statuses == ["Active", "Active"]


def test_filters_are_those_of_the_name_and_do_not_mix_with_those_of_its_network() -> None:
    bench = NamesBench(udp_filter(80))
    bench.grant(10, "10.9.0.0/24", udp_filter(443))
    bench.set_up("10.9.0.1")
    assert bench.through(bench.udp(80, PROXIES[0])) == ("10.9.0.1", 5000)
    assert bench.through(bench.udp(443, PROXIES[0])) == PROHIBITED_V4
    assert bench.through(bench.udp(443, "10.9.0.1")) == ("10.9.0.1", 5000)
    assert bench.through(bench.udp(80, "10.9.0.1")) == PROHIBITED_V4


def test_beside_the_internet_a_name_keeps_its_filters() -> None:
    bench = NamesBench(udp_filter(80))
    bench.grant(12, "", resource=wire.InternetResource(id=ResourceId(uid(12))))
    bench.set_up("1.2.3.4")
    assert bench.through(bench.udp(443, PROXIES[0])) == PROHIBITED_V4
    assert bench.through(bench.udp(80, PROXIES[0])) == ("1.2.3.4", 5000)
    assert bench.through(bench.udp(443, "1.1.1.1")) == ("1.1.1.1", 5000)
    assert bench.through(bench.udp(443, "100.100.0.1")) == UNREACHABLE_V4


def test_several_resources_of_one_name_are_a_union_while_they_are_granted() -> None:
    bench = NamesBench(udp_filter(80))
    bench.grant_name(21, "**.test", udp_filter(443))
    bench.set_up("10.9.0.1")
    assert bench.through(bench.udp(443, PROXIES[0])) == PROHIBITED_V4
    bench.set_up("10.9.0.1", number=21)
    assert bench.through(bench.udp(443, PROXIES[0])) == ("10.9.0.1", 5000)
    assert bench.through(bench.udp(80, PROXIES[0])) == ("10.9.0.1", 5000)
    bench.revoke(20)
    assert bench.through(bench.udp(443, PROXIES[0])) == ("10.9.0.1", 5000)
    assert bench.through(bench.udp(80, PROXIES[0])) == PROHIBITED_V4


def test_new_filters_hold_for_open_flows() -> None:
    bench = NamesBench(tcp_filter(443))
    bench.set_up("10.9.0.1")
    assert bench.through(bench.tcp(443, PROXIES[0])) == ("10.9.0.1", 5000)
    narrowed = wire.DnsResource(id=ResourceId(uid(20)), name="r", address="*.corp.test", filters=(tcp_filter(80),))
    bench.gateway.tell(wire.ResourceUpdated(resource=narrowed))
    assert bench.through(bench.tcp(443, PROXIES[0])) == PROHIBITED_V4
    answer = packets.tcp("10.9.0.1", str(bench.client.ipv4), ports=(443, 5000))
    assert bench.back(answer) is None
    assert bench.gateway.dropped(Reason.NOT_PERMITTED) == 1


def test_open_flows_stay_and_new_ones_follow_when_a_name_changes_its_address() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    assert bench.through(bench.udp(server=PROXIES[0])) == ("10.9.0.1", 5000)
    bench.set_up("10.9.0.2")
    assert bench.through(bench.udp(server=PROXIES[0])) == ("10.9.0.1", 5000)
    assert bench.back(bench.reply("10.9.0.1", 5000)) == PROXIES[0]
    other = packets.udp(str(bench.client.ipv4), PROXIES[0], ports=(6000, 80))
    assert bench.through(other) == ("10.9.0.2", 6000)


def test_proxies_that_come_under_another_name_lead_there_and_old_flows_are_void() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    bench.through(bench.udp(server=PROXIES[0]))
    bench.set_up("10.9.0.7", domain="other.corp.test", proxies=PROXIES[:1])
    assert bench.through(bench.udp(server=PROXIES[0])) == ("10.9.0.7", 5000)
    assert bench.back(bench.reply("10.9.0.1", 5000)) is None
    assert bench.through(bench.udp(server=PROXIES[1])) == ("10.9.0.1", 5000), "the others of the former name stay"


def test_three_names_of_one_host_are_told_apart_by_port() -> None:
    bench = NamesBench()
    for place in range(3):
        bench.set_up("10.9.0.1", domain=f"n{place}.corp.test", proxies=PROXIES[place : place + 1])
    keys = [bench.through(bench.tcp(80, proxy)) for proxy in PROXIES[:3]]
    assert keys == [("10.9.0.1", 5000), ("10.9.0.1", 5001), ("10.9.0.1", 5002)]
    for place in range(3):
        answer = packets.tcp("10.9.0.1", str(bench.client.ipv4), ports=(80, 5000 + place))
        assert bench.back(answer) == PROXIES[place]


def test_names_come_back_with_their_resource() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    bench.through(bench.udp(server=PROXIES[0]))
    bench.revoke(20)
    assert bench.through(bench.udp(server=PROXIES[0])) == PROHIBITED_V4
    bench.grant_name(20, "*.corp.test")
    assert bench.through(bench.udp(server=PROXIES[0])) == ("10.9.0.1", 5000)


def test_a_resource_with_another_pattern_loses_the_names_it_had() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    bench.grant_name(20, "*.other.test")
    assert bench.through(bench.udp(server=PROXIES[0])) == PROHIBITED_V4


def test_a_resource_that_was_away_and_stands_for_other_names_now_does_not_open_its_former_ones() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    bench.revoke(20)
    bench.grant_name(20, "*.other.test")
    assert bench.through(bench.udp(server=PROXIES[0])) == PROHIBITED_V4


def test_an_expired_grant_closes_its_names_and_leaves_others() -> None:
    bench = NamesBench(udp_filter(80))
    bench.grant_name(21, "**.test", udp_filter(443), expires_at=bench.world.utc + 10)
    bench.set_up("10.9.0.1", number=20)
    bench.set_up("10.9.0.1", number=21)
    assert bench.through(bench.udp(443, PROXIES[0])) == ("10.9.0.1", 5000)
    bench.world.run(12)
    assert bench.through(bench.udp(443, PROXIES[0])) == PROHIBITED_V4
    assert bench.through(bench.udp(80, PROXIES[0])) == ("10.9.0.1", 5000)


def test_names_and_flows_outlive_the_connection() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    bench.through(bench.udp(server=PROXIES[1]))
    before = bench.gateway.machine.node.row_of(bench.client.cid)
    bench.gateway.machine.node.remove_connection(bench.client.cid)
    bench.gateway.call(lambda now: bench.gateway.machine._on_gone(bench.client.cid, now))
    bench.grant_name(20, "*.corp.test")
    after = bench.gateway.machine.node.row_of(bench.client.cid)
    assert before is not None
    assert after is not None
    tables = bench.gateway.tables
    number = bench.gateway.machine._nat.number_of(bench.client.cid)
    assert tables.nat.counts(number) == (1, 0, 6)
    assert bench.gateway.machine._nat._rows == {bench.client.cid: after}


def test_a_goodbye_forgets_names_and_flows() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    bench.through(bench.udp(server=PROXIES[0]))
    nat = bench.gateway.tables.nat
    assert len(nat) == 1
    bench.tell(encode_control(ControlEvent.GOODBYE))
    assert len(nat) == 0
    assert nat.counts(0) == (0, 0, 0)


def test_what_has_no_source_key_is_dropped_without_an_error() -> None:
    bench = NamesBench()
    bench.set_up("10.9.0.1")
    own = str(bench.client.ipv4)
    assert bench.through(packets.ip(own, PROXIES[0], GRE, b"gre")) is None
    assert bench.gateway.dropped(Reason.UNSUPPORTED_PROTOCOL) == 1
    assert bench.through(packets.ip(own, PROXIES[0], ICMP, b"\x03\x01" + bytes(34))) is None
    assert bench.through(packets.echo(own, PROXIES[0], 7)) == ("10.9.0.1", 7)


def test_late_packets_of_an_ended_flow_do_not_reach_the_client() -> None:
    bench = NamesBench()
    bench.grant(10, "10.9.0.0/24")
    bench.set_up("10.9.0.1")
    bench.through(bench.udp(server=PROXIES[0]))
    assert bench.back(bench.reply("10.9.0.1", 5000)) == PROXIES[0]
    bench.world.run(121)
    assert bench.back(bench.reply("10.9.0.1", 5000)) is None
    assert bench.gateway.dropped(Reason.EXPIRED_NAT_SESSION) == 1
    assert bench.back(bench.reply("10.9.0.1", 5001)) == "10.9.0.1"


def test_an_error_of_a_router_seems_to_come_from_the_proxy_whatever_the_filters() -> None:
    bench = NamesBench(udp_filter(80))
    bench.set_up("10.9.0.1")
    bench.client.received()
    bench.tell(bench.udp(server=PROXIES[0]))
    (sent,) = bench.gateway.received()
    error = packets.ip("192.0.2.1", str(bench.client.ipv4), ICMP, b"\x0b\0\0\0\0\0\0\0" + sent[:28])
    assert bench.back(error) == PROXIES[0]


def test_packets_opened_off_the_fast_path_are_translated_alike() -> None:
    bench = NamesBench(udp_filter(80))
    bench.set_up("10.9.0.1")
    bench.gateway.call(lambda now: bench.gateway.machine._admit(bench.client.cid, bench.udp(80, PROXIES[0]), now))
    (packet,) = bench.gateway.received()
    assert str(decode_ip(packet).destination) == "10.9.0.1"
    bench.client.received()
    v6 = packets.udp(str(bench.client.ipv6), PROXIES6[0], ports=(5000, 80))
    bench.gateway.call(lambda now: bench.gateway.machine._admit(bench.client.cid, v6, now))
    bench.world.pump()
    assert bench.gateway.received() == []
    (answer,) = bench.client.received()
    assert answer[40:42] == bytes(UNREACHABLE_V6[1:])


def test_a_name_that_makes_place_leaves_the_tables_with_its_flows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_PROXIES", 2)
    bench = NamesBench()
    bench.set_up("10.9.0.1", proxies=PROXIES[:1])
    bench.through(bench.udp(server=PROXIES[0]))
    for place in (1, 2):
        bench.set_up("10.9.0.2", domain=f"n{place}.corp.test", proxies=PROXIES[place : place + 1])
    assert bench.gateway.tables.nat.counts(0) == (0, 1, 2)
    assert bench.through(bench.udp(server=PROXIES[0])) == PROHIBITED_V4
    bench.set_up("10.9.0.3", domain="n3.corp.test", proxies=PROXIES[:1])
    assert bench.through(bench.udp(server=PROXIES[0])) == ("10.9.0.3", 5000)


def test_waiting_announcements_are_bounded_over_all_and_per_client() -> None:
    waiting = Resolutions()
    for client in range(5):
        for _ in range(MAX_WAITING_PER_CLIENT):
            waiting.add("x", Waiting(f"client {client}", ResourceId("r"), "x", ()), 0)  # type: ignore[arg-type]
    assert waiting.add("y", Waiting("client 0", ResourceId("r"), "y", ()), 0) is None  # type: ignore[arg-type]
    assert waiting.deadline() == 10 * SECOND
    assert waiting.take_late(10 * SECOND - 1) == []
    assert len(waiting.take_late(10 * SECOND)) == MAX_WAITING
    assert waiting.deadline() is None
    assert waiting.add("y", Waiting("client 0", ResourceId("r"), "y", ()), 0)  # type: ignore[arg-type]
