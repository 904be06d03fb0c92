"""What the gateway lets through and what it answers otherwise: `gateway` 6.3, 6.4, 9.1, 15.4 and 18, probed by a real client."""

from __future__ import annotations

import ipaddress

import pytest

from firezone.base.errors import StillConnecting
from firezone.base.ids import ConnectionId, ResourceId
from firezone.base.timing import SECOND
from firezone.kernels.types import Reason
from firezone.proto.gateway.state import REFUSALS_PER_SECOND
from firezone.wire.control import ControlEvent, encode_control
from firezone.wire.portal import gateway as wire
from tests.harness import packets
from tests.harness.packets import ICMP
from tests.harness.roles import interface_of, uid
from tests.unit.proto.gateway.bench import (
    GRE,
    PROHIBITED_V4,
    PROHIBITED_V6,
    UNREACHABLE_V4,
    UNREACHABLE_V6,
    V4,
    V6,
    Bench,
    outputs,
    tcp_filter,
    udp_filter,
)

# admission out of the tunnel


@pytest.mark.parametrize("source", ["100.64.0.9", "10.0.0.7", "100.64.0.2", "192.0.2.1", "0.0.0.0"])
def test_a_foreign_ipv4_source_is_prohibited(source: str) -> None:
    bench = Bench(("10.0.0.0/24", ()))
    assert bench.out(bench.udp(source=source)) == PROHIBITED_V4


@pytest.mark.parametrize("source", ["fd00:2021:1111::9", "fd00:1::7", "fd00:2021:1111::2", "fe80::1"])
def test_a_foreign_ipv6_source_is_prohibited(source: str) -> None:
    bench = Bench(("fd00:1::/64", ()))
    assert bench.out(bench.udp(server=V6, source=source)) == PROHIBITED_V6


def test_without_filters_every_protocol_reaches_the_resource() -> None:
    bench = Bench(("10.0.0.0/24", ()), ("fd00:1::/64", ()))
    own = str(bench.client.ipv4)
    for packet in (bench.tcp(), bench.udp(), packets.echo(own, V4), packets.ip(own, V4, GRE, b"gre"), bench.udp(server=V6)):
        assert bench.out(packet) == packet


def test_a_filter_for_one_port_refuses_all_else() -> None:
    bench = Bench(("10.0.0.0/24", (tcp_filter(443),)))
    own = str(bench.client.ipv4)
    assert bench.passes(bench.tcp(443))
    for packet in (bench.udp(443), bench.tcp(442), packets.echo(own, V4), packets.ip(own, V4, GRE, b"gre")):
        assert bench.out(packet) == PROHIBITED_V4


def test_taking_the_inner_of_two_nested_resources_closes_its_ports() -> None:
    bench = Bench(("10.0.0.0/8", (tcp_filter(80),)), ("10.0.0.0/24", (udp_filter(53),)))
    assert bench.passes(bench.udp(53))
    assert bench.passes(bench.tcp(80))
    bench.revoke(11)
    assert not bench.passes(bench.udp(53))
    assert bench.passes(bench.tcp(80))


def test_an_unauthorised_destination_is_prohibited() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    assert bench.out(bench.udp(server="10.0.1.7")) == PROHIBITED_V4
    assert bench.out(bench.udp(server=V6)) == PROHIBITED_V6


def test_the_gateways_own_addresses_are_reached_whatever_is_granted_and_answer() -> None:
    bench = Bench(("10.0.0.0/24", (tcp_filter(443),)))
    own = str(bench.gateway.ipv4)
    for packet in (bench.udp(53535, own), bench.tcp(22, own), packets.echo(str(bench.client.ipv4), own)):
        assert bench.out(packet) == packet
    assert bench.into(packets.udp(own, str(bench.client.ipv4), ports=(53535, 5000)))
    assert bench.into(packets.udp(str(bench.gateway.ipv6), str(bench.client.ipv6), ports=(53535, 5000)))


def test_other_clients_cannot_be_reached() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    bench.grant(11, "100.0.0.0/8")
    bench.grant(12, "", resource=wire.InternetResource(id=ResourceId(uid(12))))
    assert bench.out(bench.udp(server="100.64.0.3")) == PROHIBITED_V4
    assert bench.out(bench.udp(server="fd00:2021:1111::3")) == PROHIBITED_V6
    injected = packets.udp("100.64.0.3", str(bench.client.ipv4))
    assert not bench.into(injected)


def test_multicast_is_dropped_without_a_word() -> None:
    bench = Bench(("0.0.0.0/0", ()), ("::/0", ()))
    assert bench.out(bench.udp(5353, "224.0.0.251")) is None
    assert bench.out(bench.udp(5353, "ff02::fb")) is None


@pytest.mark.parametrize("kind", [3, 11])
def test_icmp_errors_of_a_client_are_neither_forwarded_nor_answered(kind: int) -> None:
    bench = Bench(("10.0.0.0/24", ()))
    for server in (V4, "10.0.1.7"):
        error = packets.ip(str(bench.client.ipv4), server, ICMP, bytes([kind, 0]) + bytes(34))
        assert bench.out(error) is None
    assert bench.gateway.dropped(Reason.NOT_PERMITTED) == 2


def test_with_the_internet_the_gateways_own_network_is_unreachable_and_asking_again_is_not_invited() -> None:
    bench = Bench()
    bench.grant(10, "", resource=wire.InternetResource(id=ResourceId(uid(10))))
    assert bench.passes(bench.udp(server="1.1.1.1"))
    for address in ("10.1.2.3", "169.254.169.254", "100.100.0.1"):
        assert bench.out(bench.udp(server=address)) == UNREACHABLE_V4
    assert bench.out(bench.udp(server="fd12::1")) == UNREACHABLE_V6
    assert bench.out(bench.udp(server="fd12::1", source="fd12::2")) == PROHIBITED_V6


@pytest.mark.parametrize("size", [0, 8, 600, 1252])
def test_large_packets_are_refused_too(size: int) -> None:
    bench = Bench(("10.0.0.0/24", ()))
    assert bench.out(packets.udp(str(bench.client.ipv4), "10.0.1.7", bytes(size))) == PROHIBITED_V4
    assert bench.out(packets.udp(str(bench.client.ipv6), V6, bytes(min(size, 1232)))) == PROHIBITED_V6


def test_refusals_are_bounded_per_second_and_the_next_second_has_its_own() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    machine, cid, now = bench.gateway.machine, bench.client.cid, bench.world.clock.time
    row = machine.node.row_of(cid)
    assert row is not None
    packet = bench.udp(server="10.0.1.7")

    def answers(count: int, at: int) -> int:
        for _ in range(count):
            machine.handle_refused(row, packet, Reason.REFUSED_DESTINATION, at)
        return sum(transmit.payload[0] == 4 for transmit in outputs(machine.poll_transmit))  # type: ignore[attr-defined]

    assert answers(REFUSALS_PER_SECOND, now) == REFUSALS_PER_SECOND
    assert answers(10, now + SECOND - 1) == 0
    assert answers(10, now + SECOND) == 10


def test_what_a_removed_connection_still_had_under_way_is_dropped() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    row = bench.gateway.machine.node.row_of(bench.client.cid)
    assert row is not None
    bench.gateway.machine.node.remove_connection(bench.client.cid)
    bench.gateway.machine.handle_refused(row, bench.udp(), Reason.REFUSED_SOURCE, bench.world.clock.time)
    bench.gateway.machine.handle_control(row, b"", bench.world.clock.time)
    assert bench.gateway.machine.poll_transmit() is None


# admission into the tunnel


def test_answers_come_from_the_resources_port_only() -> None:
    bench = Bench(("10.0.0.0/24", (udp_filter(80),)))
    own = str(bench.client.ipv4)
    assert bench.into(packets.udp(V4, own, ports=(80, 5000)))
    assert not bench.into(packets.udp(V4, own, ports=(81, 80)))
    assert bench.gateway.dropped(Reason.NOT_PERMITTED) == 1
    assert bench.gateway.received() == [], "no ICMP goes to the resource"


@pytest.mark.parametrize("destination", ["ff02::16", "224.0.0.22", "10.0.0.1", "100.64.0.77"])
def test_noise_on_the_device_is_dropped_without_an_error(destination: str) -> None:
    bench = Bench(("10.0.0.0/24", ()))
    source = V4 if "." in destination else "fe80::1"
    assert not bench.into(packets.udp(source, destination))
    assert bench.gateway.dropped(Reason.NO_ROUTE) == 1
    assert not bench.gateway.errors


def test_icmp_errors_of_routers_reach_the_client_unchanged() -> None:
    bench = Bench(("10.0.0.0/24", (tcp_filter(443),)))
    quoted = bench.tcp(443)[:28]
    for kind in (3, 11):
        assert bench.into(packets.ip("192.0.2.99", str(bench.client.ipv4), ICMP, bytes([kind, 0]) + bytes(6) + quoted))


def test_a_client_without_a_path_gets_nothing() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    other = bench.world.client(3, "192.0.2.3")
    bench.client, first = other, bench.client
    bench.grant(10, "10.0.0.0/24")
    bench.gateway.expected_errors = (StillConnecting,)
    bench.gateway.send(packets.udp(V4, str(other.ipv4), ports=(80, 5000)))
    assert first.received() == []
    assert [type(error) for error in bench.gateway.errors] == [StillConnecting]


def test_addresses_are_ipv4_and_ipv6_of_the_plan() -> None:
    assert interface_of(2) == (ipaddress.ip_address("100.64.0.2"), ipaddress.ip_address("fd00:2021:1111::2"))


@pytest.mark.parametrize(
    "packet",
    [
        packets.ip("192.0.2.1", V4, ICMP, bytes([3, 1]) + bytes(34)),
        packets.udp("100.64.0.1", "224.0.0.251"),
        packets.udp("224.0.0.251", V4),
        packets.udp("ff02::1", "fd00:1::7"),
    ],
    ids=["an ICMP error", "to multicast", "from multicast", "from IPv6 multicast"],
)
def test_what_must_never_be_answered_is_not(packet: bytes) -> None:
    bench = Bench(("10.0.0.0/24", ()))
    row = bench.gateway.machine.node.row_of(bench.client.cid)
    assert row is not None
    bench.gateway.machine.handle_refused(row, packet, Reason.REFUSED_SOURCE, bench.world.clock.time)
    assert bench.gateway.machine.poll_transmit() is None


def test_packets_opened_off_the_fast_path_are_judged_alike() -> None:
    bench = Bench(("10.0.0.0/24", (udp_filter(80),)))
    machine, now, own = bench.gateway.machine, bench.world.clock.time, str(bench.client.ipv4)
    fragment = packets.udp(own, V4, ports=(5000, 80), flags=0x2000)
    silent = [b"\x45", fragment, packets.udp(own, "224.0.0.251")]
    for packet in [*silent, bench.udp(81), bench.udp(80, source="192.0.2.1")]:
        machine._admit(bench.client.cid, packet, now)
        assert machine.poll_packet() is None
        assert (machine.poll_transmit() is None) == (packet in silent)
    machine._admit(bench.client.cid, bench.udp(80), now)
    assert machine.poll_packet() == bench.udp(80)
    machine._admit(ConnectionId("nobody"), bench.udp(80), now)
    assert machine.poll_packet() is None
    machine._admit(bench.client.cid, encode_control(ControlEvent.GOODBYE), now)
    assert machine.node.row_of(bench.client.cid) is None
    assert bench.client.cid not in machine._clients
