"""Channels: bound, cooling, gone; and what the tables then do with data (rows 39 to 46, and the tables' part of 47 to 52)."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.proto.relay.allocations import RelayLimits
from firezone.wire.stun import Attribute, Method
from tests.harness.relay import PUBLIC4, PUBLIC6, RelayBench, TurnClient, code_of

PEER = Endpoint.from_text("192.0.2.33", 34567)
OTHER = Endpoint.from_text("192.0.2.34", 34567)
PEER6 = Endpoint.from_text("2001:db8::33", 34567)


@pytest.fixture
def bench() -> RelayBench:
    return RelayBench()


@pytest.fixture
def client(bench: RelayBench) -> TurnClient:
    client = TurnClient(bench)
    client.allocate()
    bench.take_log()
    return client


def port_of(bench: RelayBench, client: TurnClient) -> int:
    allocation = bench.server._allocations.of_client(client.endpoint)
    assert allocation is not None
    return allocation.port


def test_row_39_a_bind_without_allocation_is_a_mismatch(bench: RelayBench) -> None:
    assert code_of(TurnClient(bench).bind(0x4000, PEER)) == 437


@pytest.mark.parametrize(
    ("only", "peer", "code"), [(4, PEER6, 443), (6, PEER, 443), (4, PEER, 0), (6, PEER6, 0), (None, PEER, 0), (None, PEER6, 0)]
)
def test_row_39_peers_of_a_family_that_was_not_allocated(only: int | None, peer: Endpoint, code: int) -> None:
    client = TurnClient(RelayBench(only=only))
    client.allocate()
    assert code_of(client.bind(0x4000, peer)) == code


def test_row_39_one_family_asked_on_a_dual_relay(bench: RelayBench) -> None:
    client = TurnClient(bench)
    client.allocate(additional=False)
    assert code_of(client.bind(0x4000, PEER6)) == 443


def test_row_40_conflicts_are_bad_requests(bench: RelayBench, client: TurnClient) -> None:
    assert code_of(client.bind(0x4000, PEER)) == 0
    assert code_of(client.bind(0x4000, OTHER)) == 400
    assert code_of(client.bind(0x4001, PEER)) == 400
    bench.advance(100)
    assert code_of(client.bind(0x4000, PEER)) == 0
    client.refresh(3600)
    assert bench.next_wake() == 700
    assert bench.channels.by_number.keys() == {(client.endpoint, 0x4000)}


def test_a_channel_is_in_the_tables_before_the_answer_and_again_with_every_refresh(bench: RelayBench, client: TurnClient) -> None:
    port = port_of(bench, client)
    for _ in range(2):
        client.bind(0x4000, PEER)
        assert bench.take_log() == [("bind", client.endpoint, 0x4000, PEER, port), ("send", client.endpoint)]


def test_row_41_a_channel_expires_once(bench: RelayBench, client: TurnClient) -> None:
    client.refresh(3600)
    client.bind(0x4000, PEER)
    bench.take_log()
    assert bench.next_wake() == 600
    bench.advance(599.9)
    assert bench.take_log() == []
    bench.advance(1.1)
    assert bench.take_log() == [("unbind", client.endpoint, 0x4000)]
    assert bench.next_wake() == 900
    bench.advance(298)
    assert bench.take_log() == []
    assert bench.server.counters.channels == 0


def test_row_42_a_cooling_channel_takes_back_its_own_peer_only(bench: RelayBench, client: TurnClient) -> None:
    client.refresh(3600)
    client.bind(0x4000, PEER)
    bench.advance(700)
    port = port_of(bench, client)
    assert code_of(client.bind(0x4000, OTHER)) == 400
    assert code_of(client.bind(0x4001, PEER)) == 400
    assert bench.channels.from_peer(port, PEER, b"x") is None
    bench.take_log()
    assert code_of(client.bind(0x4000, PEER)) == 0
    assert bench.take_log()[0] == ("bind", client.endpoint, 0x4000, PEER, port)
    assert bench.channels.from_client(client.endpoint, b"\x40\x00\x00\x01x") == (port, PEER, b"x")
    assert bench.channels.from_peer(port, PEER, b"x") == (client.endpoint, b"\x40\x00\x00\x01x")
    assert bench.next_wake() == 1300


def test_row_43_after_the_cool_down_number_and_peer_are_free(bench: RelayBench, client: TurnClient) -> None:
    client.refresh(3600)
    client.bind(0x4000, PEER)
    client.bind(0x4001, OTHER)
    bench.advance(901)
    assert code_of(client.bind(0x4000, OTHER)) == 0
    assert code_of(client.bind(0x4002, PEER)) == 0


def test_row_43_a_late_wake_does_both_steps_at_once(bench: RelayBench, client: TurnClient) -> None:
    client.refresh(3600)
    client.bind(0x4000, PEER)
    bench.take_log()
    bench.now = 2000 * 10**9
    bench.server.handle_timeout(bench.now)
    assert bench.take_log() == [("unbind", client.endpoint, 0x4000)]
    assert code_of(client.bind(0x4000, OTHER)) == 0


def test_row_44_numbers_and_peers_belong_to_one_client(bench: RelayBench, client: TurnClient) -> None:
    second = TurnClient(bench, "198.51.100.8")
    third = TurnClient(bench, "198.51.100.9")
    second.allocate()
    third.allocate()
    assert code_of(client.bind(0x4000, PEER)) == 0
    assert code_of(second.bind(0x4000, OTHER)) == 0
    assert code_of(third.bind(0x4000, PEER)) == 0
    data = b"\x40\x00\x00\x01x"
    for who, peer in ((client, PEER), (second, OTHER), (third, PEER)):
        port = port_of(bench, who)
        assert bench.channels.from_client(who.endpoint, data) == (port, peer, b"x")
        assert bench.channels.from_peer(port, peer, b"x") == (who.endpoint, data)
    assert bench.channels.from_peer(port_of(bench, client), OTHER, b"x") is None


def test_row_45_two_peers_arrive_on_two_channels(bench: RelayBench, client: TurnClient) -> None:
    client.bind(0x4000, PEER)
    client.bind(0x4FFF, OTHER)
    port = port_of(bench, client)
    assert bench.channels.from_peer(port, PEER, b"a") == (client.endpoint, b"\x40\x00\x00\x01a")
    assert bench.channels.from_peer(port, OTHER, b"b") == (client.endpoint, b"\x4f\xff\x00\x01b")


def test_row_46_permissions_are_granted_to_whoever_asks(bench: RelayBench, client: TurnClient) -> None:
    assert code_of(client.permit(PEER)) == 0
    assert code_of(client.permit()) == 0
    assert code_of(TurnClient(bench, port=9).permit()) == 0
    assert bench.channels.allowed == {}


@pytest.mark.parametrize("size", [0, 1, 1280, 1472, 65_000])
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_row_48_payloads_pass_without_their_padding(bench: RelayBench, client: TurnClient, size: int, padding: int) -> None:
    client.bind(0x4000, PEER)
    datagram = b"\x40\x00" + size.to_bytes(2, "big") + bytes(size) + bytes(padding)
    assert bench.channels.from_client(client.endpoint, datagram) == (port_of(bench, client), PEER, bytes(size))


def test_row_49_what_names_no_channel_is_dropped(bench: RelayBench, client: TurnClient) -> None:
    client.bind(0x4000, PEER)
    for datagram in (b"\x40\x00\x00\x02x", b"\x40\x01\x00\x01x", b"\x50\x00\x00\x01x", b"\x40\x00\x00"):
        assert bench.channels.from_client(client.endpoint, datagram) is None
    bench.advance(600)
    assert bench.channels.from_client(client.endpoint, b"\x40\x00\x00\x01x") is None


def test_row_50_a_peer_is_its_address_and_port(bench: RelayBench, client: TurnClient) -> None:
    client.bind(0x4000, PEER)
    assert bench.channels.from_peer(port_of(bench, client), Endpoint(PEER.ip, PEER.port + 1), b"x") is None


@pytest.mark.parametrize(("address", "peer"), [("198.51.100.7", PEER6), ("2001:db8::7", PEER)])
def test_row_51_clients_and_peers_of_different_families(bench: RelayBench, address: str, peer: Endpoint) -> None:
    client = TurnClient(bench, address)
    client.allocate()
    assert code_of(client.bind(0x4000, peer)) == 0
    port = port_of(bench, client)
    assert bench.channels.from_client(client.endpoint, b"\x40\x00\x00\x01x") == (port, peer, b"x")
    assert bench.channels.from_peer(port, peer, b"x") == (client.endpoint, b"\x40\x00\x00\x01x")


@pytest.mark.parametrize("a", ["198.51.100.7", "2001:db8::7"])
@pytest.mark.parametrize("b", ["198.51.100.8", "2001:db8::8"])
@pytest.mark.parametrize("ours", [PUBLIC4, PUBLIC6])
def test_row_52_two_clients_of_one_relay_reach_each_other(bench: RelayBench, a: str, b: str, ours: Endpoint) -> None:
    first, second = TurnClient(bench, a), TurnClient(bench, b)
    first.allocate()
    second.allocate()
    relayed = {client: Endpoint(ours.ip, port_of(bench, client)) for client in (first, second)}
    assert code_of(first.bind(0x4000, relayed[second])) == code_of(second.bind(0x4001, relayed[first])) == 0
    for sender, number, receiver, expected in ((first, 0x4000, second, 0x4001), (second, 0x4001, first, 0x4000)):
        sent = bench.channels.from_client(sender.endpoint, number.to_bytes(2, "big") + b"\x00\x01x")
        assert sent == (port_of(bench, sender), relayed[receiver], b"x")
        arrived = bench.channels.from_peer(port_of(bench, receiver), relayed[sender], b"x")
        assert arrived == (receiver.endpoint, expected.to_bytes(2, "big") + b"\x00\x01x")


def test_channels_of_one_allocation_are_limited() -> None:
    bench = RelayBench(limits=RelayLimits(channels_per_allocation=2))
    client = TurnClient(bench)
    client.allocate()
    peers = [Endpoint(PEER.ip, port) for port in (1, 2, 3)]
    assert [code_of(client.bind(0x4000 + i, peer)) for i, peer in enumerate(peers)] == [0, 0, 508]
    assert code_of(client.bind(0x4000, peers[0])) == 0, "refreshing is no new channel"
    assert len(bench.channels.by_number) == 2


def test_channels_in_all_are_limited_and_come_back() -> None:
    bench = RelayBench(limits=RelayLimits(channels=1))
    first, second = TurnClient(bench, "198.51.100.1"), TurnClient(bench, "198.51.100.2")
    first.allocate()
    second.allocate()
    assert code_of(first.bind(0x4000, PEER)) == 0
    assert code_of(second.bind(0x4000, PEER)) == 508
    first.refresh(0)
    assert code_of(second.bind(0x4000, PEER)) == 0


def test_all_channel_numbers_can_be_bound(bench: RelayBench, client: TurnClient) -> None:
    for number in range(0x4000, 0x5000):
        assert code_of(client.bind(number, Endpoint(PEER.ip, number))) == 0
    assert bench.server.counters.channels == 4096


def test_any_peer_is_accepted(client: TurnClient) -> None:
    peers = [
        ("127.0.0.1", 1),
        ("::ffff:127.0.0.1", 1),
        ("255.255.255.255", 0),
        ("224.0.0.1", 5),
        ("10.0.0.1", 3478),
        ("fe80::1", 1),
        ("203.0.113.101", 3478),
    ]
    for number, (host, port) in enumerate(peers):
        assert code_of(client.bind(0x4000 + number, Endpoint.from_text(host, port))) == 0


def test_the_answer_to_a_bind_says_nothing_but_yes(client: TurnClient) -> None:
    message = client.bind(0x4000, PEER)
    assert message.method == Method.CHANNEL_BIND
    assert [kind for kind, _ in message.attributes] == [Attribute.SOFTWARE]
