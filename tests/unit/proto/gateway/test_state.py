"""The gateway's state against `gateway` 3.3, 12, 15.3 and the list of its section 18: who may reach what, and for how long."""

from __future__ import annotations

import msgspec
import pytest

from firezone.base.errors import StillConnecting, UnknownConnection
from firezone.base.ids import ClientId, ConnectionId, ResourceId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.kernels.types import Reason
from firezone.proto.gateway.state import GatewayState, GatewayTunConfig
from firezone.proto.tunnel_state import ReconnectPortal, SendToPortal
from firezone.proto.updates import PeerFilterRemoved, PeerFilterSet, RouteRemoved, RouteSet
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.shared import Filter, PublicKey, RelaysPresence, convert
from tests.harness import packets
from tests.harness.roles import World, cidr, interface_of, network, uid
from tests.harness.sessions import SlowSessionStore
from tests.unit.proto.gateway.bench import (
    PROHIBITED_V4,
    V4,
    Bench,
    init,
    outputs,
    tcp_filter,
    udp_filter,
)

# authorisations


def test_each_of_two_grants_of_one_network_ends_at_its_own_time_and_the_last_with_a_goodbye() -> None:
    bench = Bench()
    now = bench.world.utc
    bench.grant(10, "10.0.0.0/24", tcp_filter(20, 100), expires_at=now + 10)
    bench.grant(11, "10.0.0.0/24", udp_filter(20, 100), expires_at=now + 20)
    bench.revoke(9)
    assert bench.passes(bench.tcp())
    assert bench.passes(bench.udp())
    bench.world.run(8)
    assert bench.passes(bench.tcp())
    bench.world.run(now + 11 - bench.world.utc)
    assert not bench.passes(bench.tcp())
    assert bench.passes(bench.udp())
    assert not bench.says_goodbye
    bench.world.run(now + 21 - bench.world.utc)
    assert bench.says_goodbye
    assert bench.gateway.machine.node.row_of(bench.client.cid) is None
    assert bench.changes()[-2:] == ["expired", "expired"]


def test_a_grant_without_expiry_outlives_hours() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    assert bench.passes(bench.udp())
    bench.world.run(3 * 3600)
    assert bench.client.machine.node.path_of(bench.gateway.cid) is not None
    assert bench.passes(bench.udp())


def test_an_expiry_is_enforced_while_nothing_at_all_happens() -> None:
    bench = Bench()
    bench.grant(10, "10.0.0.0/24", expires_at=bench.world.utc + 3600)
    bench.revoke(9)
    bench.world.run(3602)
    assert bench.says_goodbye


def test_rejecting_one_resource_leaves_the_other_and_rejecting_that_too_says_goodbye() -> None:
    bench = Bench(("10.0.0.0/24", ()), ("10.0.1.0/24", ()))
    bench.revoke(10)
    assert bench.out(bench.udp()) == PROHIBITED_V4
    assert bench.passes(bench.udp(server="10.0.1.7"))
    assert bench.changes()[-1] == "revoked"
    assert not bench.says_goodbye
    bench.revoke(11)
    assert bench.says_goodbye
    assert bench.gateway.machine.poll_packet() is None


def test_rejecting_what_nobody_knows_changes_nothing() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    before = bench.changes()
    bench.revoke(77)
    assert bench.changes() == before
    bench.gateway.tell(wire.RejectAccess(client_id=ClientId(uid(99)), resource_id=ResourceId(uid(10))))
    assert bench.passes(bench.udp())


def test_init_takes_away_what_it_does_not_list() -> None:
    bench = Bench(("10.0.0.0/24", ()), ("10.0.1.0/24", ()))
    bench.gateway.tell(init(bench.world, (bench.client.id, 10, bench.world.utc + 1000)))
    assert bench.passes(bench.udp())
    assert not bench.passes(bench.udp(server="10.0.1.7"))
    assert bench.changes()[-1] == "revoked"


def test_init_takes_everything_from_clients_it_does_not_name_and_they_are_told_within_two_seconds() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    bench.gateway.tell(init(bench.world))
    assert not bench.passes(bench.udp())
    bench.world.run(2)
    assert bench.says_goodbye


def test_the_same_init_again_disturbs_nothing_and_tells_the_host_again() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    again = init(bench.world, (bench.client.id, 10, bench.world.utc + 1000))
    bench.gateway.tell(again)
    bench.gateway.tell(again)
    assert bench.passes(bench.udp())
    configurations = bench.gateway.events_of(GatewayTunConfig)
    assert len(configurations) == 3
    assert len(set(configurations)) == 1
    assert bench.passes(bench.udp(server=str(bench.gateway.ipv4)))


def test_init_sets_expiries() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    bench.gateway.tell(init(bench.world, (bench.client.id, 10, bench.world.utc + 5)))
    bench.world.run(4)
    assert bench.passes(bench.udp())
    bench.world.run(3)
    assert bench.says_goodbye


def test_another_own_address_in_init_counts_for_clients_that_are_here() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    bench.gateway.tell(init(bench.world, (bench.client.id, 10, bench.world.utc + 1000), number=7))
    own = str(interface_of(7)[0])
    assert bench.passes(bench.udp(server=own))
    assert not bench.passes(bench.udp(server=str(bench.gateway.ipv4)))


def test_filters_that_tighten_refuse_the_next_packet_and_filters_that_widen_admit_it() -> None:
    bench = Bench(("10.0.0.0/24", (udp_filter(80),)))
    assert bench.passes(bench.udp(80))

    def update(*filters: Filter, address: str = "10.0.0.0/24") -> None:
        resource = wire.CidrResource(id=ResourceId(uid(10)), name="r", address=network(address), filters=filters)
        bench.gateway.tell(wire.ResourceUpdated(resource=resource))

    update(udp_filter(81))
    assert not bench.passes(bench.udp(80))
    assert bench.passes(bench.udp(81))
    update()
    assert bench.passes(bench.udp(80))


def test_an_update_changes_filters_only() -> None:
    bench = Bench(("10.0.0.0/24", (udp_filter(80),)))
    moved = wire.CidrResource(id=ResourceId(uid(10)), name="r", address=network("10.0.1.0/24"), filters=())
    bench.gateway.tell(wire.ResourceUpdated(resource=moved))
    assert not bench.passes(bench.udp(server="10.0.1.7"))
    assert bench.passes(bench.udp(81))


def test_an_update_of_an_unknown_resource_grants_nothing() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    other = wire.CidrResource(id=ResourceId(uid(11)), name="r", address=network("10.0.1.0/24"), filters=())
    bench.gateway.tell(wire.ResourceUpdated(resource=other))
    assert not bench.passes(bench.udp(server="10.0.1.7"))


def test_granted_twice_the_later_expiry_and_the_newer_filters_count() -> None:
    bench = Bench()
    now = bench.world.utc
    bench.grant(10, "10.0.0.0/24", udp_filter(80), expires_at=now + 5)
    bench.grant(10, "10.0.0.0/24", udp_filter(81), expires_at=now + 50)
    bench.world.run(20)
    assert bench.passes(bench.udp(81))
    assert not bench.passes(bench.udp(80))


def test_a_grant_of_another_kind_under_a_known_id_changes_nothing() -> None:
    bench = Bench(("10.0.0.0/24", (udp_filter(80),)))
    bench.grant(10, "", resource=wire.InternetResource(id=ResourceId(uid(10))))
    assert bench.passes(bench.udp(80))
    assert not bench.passes(bench.udp(server="1.1.1.1"))
    assert bench.changes().count("granted") == 2


def test_an_expiry_set_to_the_past_ends_access_at_the_next_sweep() -> None:
    bench = Bench(("10.0.0.0/24", ()), ("10.0.1.0/24", ()))
    bench.gateway.tell(
        wire.AccessAuthorizationExpiryUpdated(
            client_id=ClientId(bench.client.id), resource_id=ResourceId(uid(10)), expires_at=1,  # type: ignore[arg-type]
        )
    )  # fmt: skip
    assert bench.changes()[-1] == "updated"
    bench.world.run(1.1)
    assert not bench.passes(bench.udp())
    assert bench.passes(bench.udp(server="10.0.1.7"))


def test_at_the_very_moment_of_its_expiry_a_grant_is_expired() -> None:
    bench = Bench()
    expiry = bench.world.utc + 10
    bench.grant(10, "10.0.0.0/24", expires_at=expiry)
    client = bench.gateway.machine._clients[bench.client.cid]
    assert client.expire(expiry * SECOND - 1) == []
    assert client.expire(expiry * SECOND) == [uid(10)]


def test_expiry_of_what_is_not_here_is_ignored() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    for client, resource in ((uid(99), 10), (bench.client.id, 77)):
        bench.gateway.tell(
            wire.AccessAuthorizationExpiryUpdated(
                client_id=ClientId(client), resource_id=ResourceId(uid(resource)), expires_at=1,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    assert "updated" not in bench.changes()
    bench.world.run(2)
    assert bench.passes(bench.udp())


def test_after_a_failed_connection_the_old_grants_still_hold() -> None:
    bench = Bench(("10.0.0.0/24", ()), ("10.0.1.0/24", ()))
    bench.client.machine.node.remove_connection(bench.gateway.cid)
    bench.client.settle()
    bench.world.run(30)
    assert bench.gateway.machine.node.row_of(bench.client.cid) is None
    assert (bench.gateway.machine._rows, bench.gateway.machine._routes) == ({}, {})
    bench.world.portal.add(cidr(12, "10.0.2.0/24"))
    bench.client.machine._on_gone(bench.gateway.cid, bench.world.clock.time)
    bench.ask(12)
    bench.gateway.received()
    bench.open_up()
    assert bench.passes(bench.udp())
    assert bench.passes(bench.udp(server="10.0.1.7"))


def test_after_a_goodbye_of_the_client_everything_must_be_granted_anew() -> None:
    bench = Bench(("10.0.0.0/24", ()), ("10.0.1.0/24", ()))
    bench.client.machine.shutdown(bench.world.clock.time)
    bench.client.settle()
    bench.world.run(0.1)
    assert bench.gateway.machine.node.row_of(bench.client.cid) is None
    bench.world.portal.add(cidr(12, "10.0.2.0/24"))
    bench.ask(12)
    bench.gateway.received()
    bench.open_up()
    assert not bench.passes(bench.udp())
    assert bench.passes(bench.udp(server="10.0.2.7"))


def test_a_client_whose_tunnel_addresses_change_is_known_by_the_new_ones_alone() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    old = str(bench.client.ipv4)
    bench.client.ipv4, bench.client.ipv6 = interface_of(55)
    bench.grant(10, "10.0.0.0/24")
    assert bench.passes(bench.udp())
    assert not bench.passes(bench.udp(source=old))
    assert bench.into(packets.udp(V4, str(bench.client.ipv4), ports=(80, 5000)))
    assert not bench.into(packets.udp(V4, old, ports=(80, 5000)))
    assert set(bench.gateway.machine._by_address) == {bench.client.ipv4, bench.client.ipv6}


def test_an_address_that_went_to_another_client_stays_with_it_when_the_first_goes() -> None:
    bench = Bench(("10.0.0.0/24", ()))
    other = bench.world.client(3, "192.0.2.3")
    other.ipv4, other.ipv6 = bench.client.ipv4, bench.client.ipv6
    first, bench.client = bench.client, other
    bench.grant(10, "10.0.0.0/24")
    assert bench.gateway.machine._by_address[other.ipv4] == other.cid
    bench.client = first
    bench.revoke(10)
    assert bench.gateway.machine._by_address[other.ipv4] == other.cid
    packet = packets.udp(V4, str(other.ipv4))
    with pytest.raises(StillConnecting):
        bench.gateway.machine.handle_packet(packet, 0, Reason.NO_PATH, bench.world.clock.time)


# a gateway alone


def alone() -> GatewayState:
    return GatewayState(store=SlowSessionStore(), rng=SeededRng(1), now=0, utc=1_700_000_000 * SECOND)


def flow(number: int = 1) -> wire.AuthorizeFlow:
    value = {
        "ref": "opaque",
        "resource": {"type": "cidr", "id": uid(10), "name": "db", "address": "10.0.0.0/24", "filters": []},
        "gateway_ice_credentials": {"username": "gw01", "password": "0123456789abcdefghijkl"},
        "client_ice_credentials": {"username": "cl01", "password": "lkjihgfedcba9876543210"},
        "client": {
            "id": uid(number), "public_key": "CQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "preshared_key": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "ipv4": "100.70.1.2", "ipv6": "fd00:2021:1111::7:102",
        },
        "expires_at": None,
    }  # fmt: skip
    return convert(value, wire.AuthorizeFlow)


def test_a_grant_before_the_first_init_is_not_answered() -> None:
    state = alone()
    state.set_local_addresses([Endpoint.from_text("198.51.100.1", 1)], 0)
    state.handle_portal(flow(), 0, 0)
    assert outputs(state.poll_event) == []
    assert len(state.node) == 0


def test_a_grant_without_any_address_to_offer_is_not_answered_but_logs_in_again() -> None:
    state = alone()
    state.handle_portal(init(World()), 0, 0)
    outputs(state.poll_event)
    state.handle_portal(flow(), 0, 0)
    (event,) = outputs(state.poll_event)
    assert isinstance(event, ReconnectPortal)
    assert event.public_key == state.public_key
    assert not any(isinstance(update, (PeerFilterSet, RouteSet)) for update in outputs(state.poll_update))


def test_the_answer_goes_out_before_our_candidates() -> None:
    state = alone()
    state.set_local_addresses([Endpoint.from_text("198.51.100.1", 1)], 0)
    state.handle_portal(init(World()), 0, 0)
    state.handle_portal(flow(), 0, 0)
    sent = [event.message for event in outputs(state.poll_event) if isinstance(event, SendToPortal)]
    assert sent[0] == wire.FlowAuthorized(ref="opaque")
    (candidates,) = sent[1:]
    assert isinstance(candidates, wire.BroadcastIceCandidates)
    assert candidates.client_ids == (uid(1),)
    assert len(candidates.candidates) == 1
    filters = [update for update in outputs(state.poll_update) if isinstance(update, PeerFilterSet)]
    assert [update.remote for update in filters] == [(network("100.70.1.2/32"), network("fd00:2021:1111::7:102/128"))]


def test_a_gone_local_address_is_taken_back_from_clients() -> None:
    state = alone()
    state.set_local_addresses([Endpoint.from_text("198.51.100.1", 1)], 0)
    state.handle_portal(init(World()), 0, 0)
    state.handle_portal(flow(), 0, 0)
    outputs(state.poll_event)
    state.set_local_addresses([Endpoint.from_text("198.51.100.9", 1)], 0)
    sent = [event.message for event in outputs(state.poll_event) if isinstance(event, SendToPortal)]
    assert {type(message) for message in sent} == {wire.BroadcastIceCandidates, wire.BroadcastInvalidatedIceCandidates}


def test_of_candidate_lines_the_readable_ones_count() -> None:
    state = alone()
    state.set_local_addresses([Endpoint.from_text("198.51.100.1", 1)], 0)
    state.handle_portal(init(World()), 0, 0)
    state.handle_portal(flow(), 0, 0)
    good = "candidate:fffeff021cfeb5f2 1 udp 2130706431 192.0.2.1 52625 typ host"
    lines = ("", "candidate:", "garbage \u20ac", good)
    state.handle_portal(wire.IceCandidates(client_id=ClientId(uid(1)), candidates=lines), 0, 0)
    assert state.node.counters.ignored_candidates == 3
    assert state.poll_transmit() is None or state.poll_timeout() is not None
    state.handle_portal(wire.IceCandidates(client_id=ClientId(uid(99)), candidates=(good,)), 0, 0)
    state.handle_portal(wire.InvalidateIceCandidates(client_id=ClientId(uid(99)), candidates=(good,)), 0, 0)
    state.handle_portal(wire.InvalidateIceCandidates(client_id=ClientId(uid(1)), candidates=lines), 0, 0)


def test_relays_of_the_portal_are_taken_and_dropped() -> None:
    state = alone()
    value = {"type": "turn", "id": uid(5), "addr": "203.0.113.1:3478", "username": "u", "password": "p", "expires_at": 1}
    present = convert({"disconnected_ids": [], "connected": [value]}, RelaysPresence)
    state.handle_portal(present, 0, 0)
    state.handle_portal(init(World()), 0, 0)
    state.handle_portal(flow(), 0, 0)
    assert len(state.node) == 1, "a relay will do where there is no address"
    state.handle_portal(convert({"disconnected_ids": [uid(5)], "connected": []}, RelaysPresence), 0, 0)


def test_relays_of_init_are_taken() -> None:
    state = alone()
    value = {"type": "turn", "id": uid(5), "addr": "203.0.113.1:3478", "username": "u", "password": "p", "expires_at": 1}
    message = convert(
        {
            "interface": {"ipv4": "100.64.0.2", "ipv6": "fd00:2021:1111::2"},
            "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True},
            "relays": [value],
        },
        wire.Init,
    )
    state.handle_portal(message, 0, 0)
    state.handle_portal(flow(), 0, 0)
    assert len(state.node) == 1


def test_packets_for_nobody_are_an_error_to_count() -> None:
    state = alone()
    with pytest.raises(UnknownConnection):
        state.handle_packet(packets.udp("10.0.0.7", "100.70.1.2"), 0, Reason.NO_PEER, 0)


def test_thousands_of_clients_cost_each_other_nothing() -> None:
    state = alone()
    state.set_local_addresses([Endpoint.from_text("198.51.100.1", 1)], 0)
    state.handle_portal(init(World()), 0, 0)
    message = flow()
    count = 300
    for number in range(1, count + 1):
        ipv4, ipv6 = interface_of(number)
        key = PublicKey(bytes([number % 250 + 2, number // 250 + 1]) + bytes(30))
        client = msgspec.structs.replace(message.client, id=ClientId(uid(number)), public_key=key, ipv4=ipv4, ipv6=ipv6)
        outputs(state.poll_update)
        state.handle_portal(msgspec.structs.replace(message, client=client), 0, 0)
        assert len(outputs(state.poll_update)) == 3, "one filter and two routes, however many others there are"
    triples = [(uid(number), 10, 2_000_000_000) for number in range(1, count)]
    state.handle_portal(init(World(), *triples), 0, 0)
    assert len(outputs(state.poll_update)) == 1, "the filter of the one that lost its grant"
    assert len(state._routes) == 2 * count


def test_an_idle_gateway_without_clients_sleeps() -> None:
    state = alone()
    state.handle_portal(init(World()), 0, 0)
    outputs(state.poll_event)
    state.handle_timeout(0, 0)
    assert state.poll_timeout() is None


def test_a_client_that_is_gone_leaves_nothing_in_the_tables() -> None:
    state = alone()
    state.set_local_addresses([Endpoint.from_text("198.51.100.1", 1)], 0)
    state.handle_portal(init(World()), 0, 0)
    state.handle_portal(flow(), 0, 0)
    row = state.node.row_of(ConnectionId(uid(1)))
    routes = {update.network for update in outputs(state.poll_update) if isinstance(update, RouteSet)}
    assert routes == {network("100.70.1.2/32"), network("fd00:2021:1111::7:102/128")}
    state.handle_portal(wire.RejectAccess(client_id=ClientId(uid(1)), resource_id=ResourceId(uid(10))), 0, 0)
    updates = outputs(state.poll_update)
    assert PeerFilterRemoved(row) in updates  # type: ignore[arg-type]
    assert {update.network for update in updates if isinstance(update, RouteRemoved)} == routes
    assert (state._clients, state._by_address, state._refusals, state._filters, state._rows) == ({}, {}, {}, {}, {})
