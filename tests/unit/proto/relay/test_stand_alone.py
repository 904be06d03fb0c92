"""The relay as an ordinary TURN server: permissions, Send and Data indications (RFC 8656 sections 9 to 11)."""

from __future__ import annotations

import pytest

from firezone.base.net import Endpoint
from firezone.proto.relay.allocations import RelayLimits
from firezone.proto.relay.server import MAX_INDICATION_DATA
from firezone.proto.relay.tables import RelayTransmit
from firezone.wire import stun
from firezone.wire.stun import Attribute, MessageClass, Method
from tests.harness.relay import PUBLIC4, PUBLIC6, USERNAME, RelayBench, TurnClient, code_of

PEER = Endpoint.from_text("192.0.2.33", 34567)
OTHER = Endpoint.from_text("192.0.2.34", 34567)
PEER6 = Endpoint.from_text("2001:db8::33", 34567)


@pytest.fixture
def bench() -> RelayBench:
    return RelayBench(stands_alone=True)


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


def test_a_permitted_peer_is_sent_to_from_the_allocation(bench: RelayBench, client: TurnClient) -> None:
    assert client.indicate(PEER, b"early") == []
    assert code_of(client.permit(PEER)) == 0
    assert bench.channels.allowed == {(port_of(bench, client), PEER.ip): client.endpoint}
    assert client.indicate(PEER, b"hello") == [RelayTransmit(port_of(bench, client), None, PEER, b"hello")]
    assert client.indicate(Endpoint(PEER.ip, 1), b"") == [RelayTransmit(port_of(bench, client), None, Endpoint(PEER.ip, 1), b"")]
    assert client.indicate(OTHER, b"no") == []


def test_a_permitted_peer_reaches_the_client_as_data_indication(bench: RelayBench, client: TurnClient) -> None:
    client.permit(PEER)
    bench.server.handle_peer_datagram(port_of(bench, client), PEER, b"hello", bench.now)
    (sent,) = bench.drain()
    assert (sent.port, sent.remote) == (None, client.endpoint)
    message = stun.decode(sent.payload).message
    assert (message.message_class, message.method) == (MessageClass.INDICATION, Method.DATA)
    assert message.attributes == ((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"hello"))


def test_a_peer_with_a_channel_arrives_on_it(bench: RelayBench, client: TurnClient) -> None:
    client.bind(0x4000, PEER)
    bench.server.handle_peer_datagram(port_of(bench, client), PEER, b"hello", bench.now)
    assert [sent.payload for sent in bench.drain()] == [b"\x40\x00\x00\x05hello"]


def test_a_peer_without_permission_is_dropped(bench: RelayBench, client: TurnClient) -> None:
    client.permit(PEER)
    bench.server.handle_peer_datagram(port_of(bench, client), OTHER, b"hello", bench.now)
    bench.server.handle_peer_datagram(port_of(bench, client) ^ 1, PEER, b"hello", bench.now)
    assert bench.drain() == []
    assert bench.server.counters.ignored == 2


def test_a_permission_ends_after_five_minutes_and_is_renewed_by_asking(bench: RelayBench, client: TurnClient) -> None:
    client.permit(PEER)
    bench.advance(200)
    client.permit(PEER)
    assert bench.server.counters.permissions == 1
    bench.advance(299)
    assert client.indicate(PEER, b"x")
    bench.take_log()
    bench.advance(1)
    assert client.indicate(PEER, b"x") == []
    assert bench.take_log() == [("revoke", port_of(bench, client), client.endpoint, PEER.ip)]
    assert bench.server.counters.permissions == 0


def test_a_channel_is_a_permission_as_long_as_it_stands(bench: RelayBench, client: TurnClient) -> None:
    client.refresh(3600)
    client.bind(0x4000, PEER)
    client.permit(PEER)
    bench.advance(599)
    assert client.indicate(Endpoint(PEER.ip, 9), b"x")
    bench.advance(1)
    assert client.indicate(Endpoint(PEER.ip, 9), b"x") == []
    assert bench.channels.allowed == {}


def test_several_peers_are_permitted_at_once_or_none(bench: RelayBench, client: TurnClient) -> None:
    assert code_of(client.permit(PEER, OTHER, PEER6)) == 0
    assert bench.server.counters.permissions == 3
    narrow = TurnClient(bench, "198.51.100.99")
    narrow.allocate(additional=False)
    assert code_of(narrow.permit(PEER, PEER6)) == 443
    assert bench.server.counters.permissions == 3


def test_permissions_need_an_allocation_and_a_peer(bench: RelayBench, client: TurnClient) -> None:
    assert code_of(client.permit()) == 400
    assert code_of(TurnClient(bench, "198.51.100.99").permit(PEER)) == 437


def test_permissions_are_limited() -> None:
    bench = RelayBench(stands_alone=True, limits=RelayLimits(permissions_per_allocation=2))
    client = TurnClient(bench)
    client.allocate()
    assert code_of(client.permit(PEER, OTHER)) == 0
    assert code_of(client.permit(PEER)) == 0
    assert code_of(client.permit(PEER6)) == 508


def test_permissions_in_all_are_limited_and_those_that_stand_are_renewed() -> None:
    bench = RelayBench(stands_alone=True, limits=RelayLimits(permissions=3))
    one, other = TurnClient(bench), TurnClient(bench, port=2)
    peers = [Endpoint(bytes([192, 0, 2, n]), 1) for n in range(4)]
    for client in (one, other):
        client.allocate()
    assert code_of(one.permit(*peers[:2])) == 0
    assert code_of(other.permit(*peers[:2])) == 508
    assert code_of(other.permit(peers[0])) == 0
    assert code_of(one.permit(*peers[:2])) == 0
    assert code_of(other.bind(0x4000, peers[3])) == 0, "channels have a bound of their own"
    assert code_of(one.permit(peers[0])) == 0
    one.refresh(0)
    assert code_of(other.permit(peers[1])) == 0


def test_freeing_the_allocation_revokes_its_permissions(bench: RelayBench, client: TurnClient) -> None:
    client.permit(PEER, OTHER)
    client.refresh(0)
    assert bench.channels.allowed == {}
    assert bench.next_wake() is None
    assert client.indicate(PEER, b"x") == []


@pytest.mark.parametrize("ours", [PUBLIC4, PUBLIC6])
def test_two_clients_of_one_relay_reach_each_other_without_a_network(bench: RelayBench, client: TurnClient, ours: Endpoint) -> None:
    other = TurnClient(bench, "198.51.100.8")
    other.allocate()
    relayed, theirs = Endpoint(ours.ip, port_of(bench, client)), Endpoint(ours.ip, port_of(bench, other))
    client.permit(theirs)
    assert client.indicate(theirs, b"x") == [], "the other has not permitted us"
    other.permit(relayed)
    (sent,) = client.indicate(theirs, b"x")
    assert (sent.port, sent.remote) == (None, other.endpoint)
    assert stun.decode(sent.payload).message.attributes == ((Attribute.XOR_PEER_ADDRESS, relayed), (Attribute.DATA, b"x"))


def test_one_user_may_hold_several_allocations(bench: RelayBench) -> None:
    clients = [TurnClient(bench, port=port) for port in (1, 2)]
    assert [code_of(client.allocate()) for client in clients] == [0, 0]
    assert [code_of(client.refresh()) for client in clients] == [0, 0]


def test_a_device_of_a_portal_holds_one_allocation_here_too(bench: RelayBench) -> None:
    first, second = [TurnClient(bench, port=port, username=USERNAME) for port in (1, 2)]
    assert [code_of(client.allocate()) for client in (first, second)] == [0, 0]
    assert [code_of(client.refresh()) for client in (first, second)] == [437, 0]


def test_indications_that_lack_something_are_ignored(bench: RelayBench, client: TurnClient) -> None:
    client.permit(PEER)
    for attributes in (((Attribute.XOR_PEER_ADDRESS, PEER),), ((Attribute.DATA, b"x"),), ()):
        datagram = client.build(Method.SEND, *attributes, kind=MessageClass.INDICATION, sign=False)
        assert bench.send(client.endpoint, datagram) == []
    both = ((Attribute.XOR_PEER_ADDRESS, PEER), (Attribute.DATA, b"x"))
    assert bench.send(client.endpoint, client.build(Method.DATA, *both, kind=MessageClass.INDICATION, sign=False)) == []


@pytest.mark.parametrize("peer", [PEER, PEER6])
def test_the_largest_datagram_that_fits_an_indication(bench: RelayBench, client: TurnClient, peer: Endpoint) -> None:
    client.permit(peer)
    bench.server.handle_peer_datagram(port_of(bench, client), peer, bytes(MAX_INDICATION_DATA), bench.now)
    (sent,) = bench.drain()
    assert len(sent.payload) <= 65_507
    bench.server.handle_peer_datagram(port_of(bench, client), peer, bytes(MAX_INDICATION_DATA + 1), bench.now)
    assert bench.drain() == []


def test_with_a_portal_indications_do_nothing() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.allocate()
    client.permit(PEER)
    client.bind(0x4000, PEER)
    assert client.indicate(PEER, b"x") == []
    assert bench.channels.allowed == {}


@pytest.mark.parametrize(("number", "code"), [(0x4FFF, 0), (0x5000, 0), (0x7FFF, 0), (0x8000, 400), (0x3FFF, 400)])
def test_channel_numbers_of_older_clients_are_taken(bench: RelayBench, client: TurnClient, number: int, code: int) -> None:
    received = client.ask(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, number), (Attribute.XOR_PEER_ADDRESS, PEER))
    assert code_of(received) == code
    assert len(bench.channels.by_number) == (code == 0)
