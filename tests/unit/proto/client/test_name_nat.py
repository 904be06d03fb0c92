"""The table of how gateways are told of names, cell by cell: `client` 9.3, 17.6."""

from __future__ import annotations

import ipaddress

import pytest

from firezone.base.ids import ConnectionId, ResourceId
from firezone.base.timing import SECOND
from firezone.proto.client import name_nat
from firezone.proto.client.name_nat import ANNOUNCE_INTERVAL, MAX_HELD, MAX_HELD_PER_NAME, MAX_SET_UPS, NameNat, SetUp, SetUpState
from firezone.wire.control import decode_assigned_ips, decode_control
from firezone.wire.ip import decode_ip
from tests.harness import packets
from tests.harness.roles import uid

G, H = ConnectionId(uid(2)), ConnectionId(uid(3))
R, S = ResourceId(uid(20)), ResourceId(uid(21))
NAME = "App.corp.test"
PROXIES = tuple(ipaddress.ip_network(f"100.96.0.{n}") for n in range(1, 5))
PENDING, CONFIRMED, FAILED = SetUpState.PENDING, SetUpState.CONFIRMED, SetUpState.FAILED


def begun(state: SetUpState = PENDING, *, at: int = 0) -> tuple[NameNat, SetUp]:
    nat = NameNat()
    set_up = nat.begin(G, NAME, R, PROXIES, at)
    if state is not PENDING:
        nat.handle_status(G, NAME, R, is_active=state is CONFIRMED)
    assert set_up.state is state
    return nat, set_up


def send(nat: NameNat, set_up: SetUp, number: int = 0, now: int = 0) -> tuple[bool, bool]:
    packet = packets.udp("100.64.0.1", "100.96.0.1", number.to_bytes(4, "big"))
    return nat.handle_packet(G, set_up, packet, decode_ip(packet), now)


def held(set_up: SetUp) -> list[int]:
    return [int.from_bytes(packet[28:32], "big") for packet in set_up.buffer.packets]


def test_the_announcement_is_made_once_and_names_the_case_that_was_asked_for() -> None:
    _, set_up = begun()
    told = decode_assigned_ips(decode_control(set_up.announcement).body)
    assert (told.domain, told.resource, told.proxy_ips) == (NAME, R, tuple(str(p.network_address) for p in PROXIES))


@pytest.mark.parametrize(
    ("state", "expected"), [(PENDING, (False, False)), (CONFIRMED, (True, False)), (FAILED, (True, False))]
)  # fmt: skip
def test_a_packet_waits_only_while_the_gateway_has_not_answered(state: SetUpState, expected: tuple[bool, bool]) -> None:
    nat, set_up = begun(state)
    assert send(nat, set_up, 7) == expected
    assert held(set_up) == ([7] if state is PENDING else [])
    assert set_up.is_open is (state is not PENDING)


def test_a_packet_announces_again_after_two_seconds_and_not_before() -> None:
    nat, set_up = begun()
    assert send(nat, set_up, 1, ANNOUNCE_INTERVAL - 1) == (False, False)
    assert send(nat, set_up, 2, ANNOUNCE_INTERVAL) == (False, True)
    assert send(nat, set_up, 3, 2 * ANNOUNCE_INTERVAL - 1) == (False, False)
    assert held(set_up) == [1, 2, 3]


def test_active_releases_what_waited_in_order() -> None:
    nat, set_up = begun()
    for number in range(5):
        send(nat, set_up, number)
    answered = nat.handle_status(G, NAME.upper(), R, is_active=True)
    assert answered is not None
    assert [packet[31] for packet in answered[1]] == [0, 1, 2, 3, 4]
    assert nat.handle_status(G, NAME, R, is_active=True) == (set_up, [])


def test_inactive_forgets_what_waited_and_later_packets_pass() -> None:
    nat, set_up = begun()
    send(nat, set_up, 1)
    assert nat.handle_status(G, NAME, R, is_active=False) == (set_up, [])
    assert send(nat, set_up, 2) == (True, False)
    assert held(set_up) == []


def test_a_failed_name_that_works_after_all_is_confirmed_and_a_confirmed_one_can_fail() -> None:
    nat, set_up = begun(FAILED)
    nat.handle_status(G, NAME, R, is_active=True)
    assert set_up.state is CONFIRMED
    nat, set_up = begun(CONFIRMED)
    assert nat.handle_query(G, set_up, 0)
    nat.handle_status(G, NAME, R, is_active=False)
    assert set_up.state is FAILED


@pytest.mark.parametrize(("state", "holds"), [(CONFIRMED, False), (FAILED, True)])
def test_asked_for_again_it_is_announced_again_and_holds_only_what_did_not_work(state: SetUpState, holds: bool) -> None:
    nat, set_up = begun(state)
    assert nat.handle_query(G, set_up, SECOND)
    assert (set_up.state, set_up.is_holding, set_up.is_open) == (PENDING, holds, not holds)
    assert send(nat, set_up, 1, SECOND) == (not holds, False)
    assert send(nat, set_up, 2, SECOND + ANNOUNCE_INTERVAL) == (not holds, True)


def test_asked_for_while_pending_nothing_that_waits_is_lost_and_two_seconds_are_kept() -> None:
    nat, set_up = begun()
    send(nat, set_up, 1)
    assert not nat.handle_query(G, set_up, ANNOUNCE_INTERVAL - 1)
    assert nat.handle_query(G, set_up, ANNOUNCE_INTERVAL)
    assert held(set_up) == [1]


def test_another_names_query_announces_what_has_no_answer_and_nothing_else() -> None:
    nat, first = begun()
    second = nat.begin(G, "b.corp.test", R, PROXIES, SECOND)
    failed = nat.begin(G, "c.corp.test", R, PROXIES, 0)
    nat.handle_status(G, "c.corp.test", R, is_active=False)
    assert nat.take_due(ANNOUNCE_INTERVAL - 1) == []
    assert nat.take_due(ANNOUNCE_INTERVAL) == [(G, first)]
    assert nat.take_due(ANNOUNCE_INTERVAL) == []
    assert nat.take_due(SECOND + ANNOUNCE_INTERVAL) == [(G, second)]
    assert failed.state is FAILED


def test_an_answer_to_nothing_is_ignored() -> None:
    nat, set_up = begun()
    for cid, name, resource in ((H, NAME, R), (G, "b.corp.test", R), (G, NAME, S)):
        assert nat.handle_status(cid, name, resource, is_active=True) is None
    assert set_up.state is PENDING


def test_two_resources_of_one_name_are_told_each_for_itself() -> None:
    nat, first = begun()
    second = nat.begin(G, NAME, S, PROXIES, 0)
    nat.handle_status(G, NAME, S, is_active=True)
    assert (first.state, second.state) == (PENDING, CONFIRMED)


def test_what_ends_takes_its_set_ups_along() -> None:
    for number in range(3):
        nat, set_up = begun()
        forget = (lambda: nat.forget_connection(G), lambda: nat.forget_resource(R), lambda: nat.forget_names({NAME.lower()}))  # noqa: B023
        send(nat, set_up, 1)
        nat.begin(H, "other.test", S, PROXIES, 0)
        forget[number]()
        assert nat.get(G, NAME, R) is None
        assert (len(nat), nat._held, nat.names(), len(nat._pending)) == (1, 0, {"other.test"}, 1)


def test_the_last_packets_of_a_name_are_kept() -> None:
    nat, set_up = begun()
    for number in range(MAX_HELD_PER_NAME + 8):
        send(nat, set_up, number)
    assert held(set_up) == list(range(8, MAX_HELD_PER_NAME + 8))


def test_a_repeated_syn_is_kept_once() -> None:
    nat, set_up = begun()
    for _ in range(4):
        packet = packets.tcp("100.64.0.1", "100.96.0.1")
        nat.handle_packet(G, set_up, packet, decode_ip(packet), 0)
    assert len(set_up.buffer) == nat._held == 1


def test_packets_of_many_names_that_do_not_resolve_are_bounded() -> None:
    nat = NameNat()
    for number in range(2 * MAX_HELD // MAX_HELD_PER_NAME):
        set_up = nat.begin(G, f"n{number}.test", R, PROXIES, 0)
        for count in range(MAX_HELD_PER_NAME):
            send(nat, set_up, count)
    assert nat._held == MAX_HELD == sum(len(set_up.buffer) for set_up in nat.at(G))
    nat.forget_connection(G)
    assert nat._held == 0


def test_when_there_are_too_many_names_those_that_were_only_asked_for_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_nat, "MAX_SET_UPS", 16)
    nat = NameNat()
    for number in range(16):
        set_up = nat.begin(G, f"n{number}.test", R, PROXIES, 0)
        if number < 10:
            send(nat, set_up, number)
    assert nat.shrunk == set()
    nat.begin(G, "n16.test", R, PROXIES, 0)
    assert nat.shrunk == {G}
    assert [set_up.name for set_up in nat.at(G)] == [f"n{number}.test" for number in (*range(10), 14, 15, 16)]
    assert MAX_SET_UPS == 16_384
