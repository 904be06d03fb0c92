"""What the client's state makes of the portal's word, of switches and of a new network: `client` 3.6, 10-12, 17.1, 17.7."""

from __future__ import annotations

import pytest

from firezone.base.ids import ResourceId
from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.kernels.types import Reason
from firezone.proto.client.pending_flows import REMEMBERED
from firezone.proto.client.resources import Status
from firezone.proto.client.state import ClientState, ResourcesUpdated, TunConfig
from firezone.proto.tunnel_state import ReconnectPortal
from firezone.proto.updates import PeerFilterSet, RouteRemoved
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import ClientInterface, Filter
from tests.harness import packets
from tests.harness.roles import SITE, cidr, dns, interface_of, network, uid
from tests.harness.sessions import SlowSessionStore
from tests.unit.proto.client.bench import FIXED, NET, OWN_V4, OWN_V6, Client, connected, failed, granted, init, texts, udp
from tests.unit.proto.client.names_bench import PATTERN, named

# 17.1 resources, routes, display


def test_the_first_init_configures_the_device_with_the_six_fixed_routes() -> None:
    config = Client().config()
    assert (config.ipv4, config.ipv6) == (OWN_V4, OWN_V6)
    assert texts(config) == {
        "100.64.0.0/11", "100.96.0.0/11", "100.100.111.0/24", "fd00:2021:1111::/107", "fd00:2021:1111:8000::/107",
        "fd00:2021:1111:8000:100:100:111:0/120",
    }  # fmt: skip


def test_routes_follow_the_resources() -> None:
    client = Client(cidr(10, NET), cidr(11, "fd00:1::/64"))
    assert texts(client.config()) == FIXED | {NET, "fd00:1::/64"}
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
    assert texts(client.config()) == FIXED | {"fd00:1::/64"}
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(12, "10.0.1.0/24")))
    assert texts(client.config()) == FIXED | {"fd00:1::/64", "10.0.1.0/24"}
    client.tell(init())
    assert texts(client.config()) == FIXED


def test_the_compiled_routes_ask_for_resources_nobody_serves() -> None:
    client = Client(cidr(10, NET))
    assert client.routes() == {NET: None}
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
    assert [type(update) for update in client.updates()] == [RouteRemoved]


def test_a_name_that_becomes_a_network_is_routed() -> None:
    name = wire.DnsResource(id=ResourceId(uid(10)), name="x", address="x.example.com", sites=(SITE,))
    client = Client(name)
    assert texts(client.config()) == FIXED
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)))
    assert texts(client.config()) == FIXED | {NET}
    assert len(client.state._book.views()) == 1


def test_another_description_is_shown_and_touches_nothing_else() -> None:
    client = connected()
    changed = wire.CidrResource(
        id=ResourceId(uid(10)), name="resource 10", address=network(NET), sites=(SITE,), address_description="new"
    )  # fmt: skip
    client.tell(wire.ResourceCreatedOrUpdated(resource=changed))
    assert [type(event) for event in client.events()] == [ResourcesUpdated]
    assert client.updates() == []


def test_an_equal_init_says_nothing_and_touches_nothing() -> None:
    client = connected()
    client.tell(init(cidr(10, NET)))
    assert client.events() == []
    assert client.updates() == []


def test_several_updates_before_polling_leave_one_event_of_each_kind_with_the_final_state() -> None:
    client = Client(cidr(10, NET))
    for number in range(11, 15):
        client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(number, f"10.0.{number}.0/24")))
    events = client.events()
    assert sorted(type(event).__name__ for event in events) == ["ResourcesUpdated", "TunConfig"]
    (config,) = [event for event in events if isinstance(event, TunConfig)]
    assert "10.0.14.0/24" in texts(config)
    (updated,) = [event for event in events if isinstance(event, ResourcesUpdated)]
    assert len(updated.resources) == 5


def test_only_an_address_that_changes_is_told_too() -> None:
    client = Client()
    client.events()
    ipv4, ipv6 = interface_of(7)
    client.tell(wire.ConfigChanged(interface=ClientInterface(ipv4=ipv4, ipv6=ipv6)))
    assert client.config().ipv4 == str(ipv4)


def test_nothing_is_configured_before_the_first_init() -> None:
    state = ClientState(store=SlowSessionStore(), rng=SeededRng(1), now=0, utc=0)
    state.handle_portal(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)), 0, 0)
    assert state.poll_event() is None
    state.handle_packet(udp(), 0, Reason.NO_PEER, 0)
    assert state.poll_event() is None


def test_switching_off_ends_traffic_and_switching_on_asks_anew() -> None:
    client = connected()
    client.state.set_disabled_resources({ResourceId(uid(10))}, client.now)
    assert len(client.state.node) == 0
    config = client.config()
    assert texts(config) == FIXED
    client.send(udp())
    assert client.intents() == []
    client.state.set_disabled_resources({ResourceId(uid(10))}, client.now)
    assert client.events() == []
    client.state.set_disabled_resources(set(), client.now)
    assert texts(client.config()) == FIXED | {NET}
    client.send(udp())
    assert len(client.intents()) == 1


@pytest.mark.parametrize(
    "changed",
    [cidr(10, "10.0.9.0/24"), cidr(10, NET, Filter(protocol="icmp")), cidr(10, NET, sites=())],
    ids=["address", "filters", "sites"],
)
def test_a_resource_that_changes_in_earnest_is_cut_and_asked_for_anew(changed: wire.CidrResource) -> None:
    client = connected()
    client.tell(wire.ResourceCreatedOrUpdated(resource=changed))
    assert len(client.state.node) == 0
    client.events()
    server = str(changed.address[7])
    client.send(packets.echo(OWN_V4, server))
    assert len(client.intents()) == 1


def test_what_waited_for_a_resource_that_was_switched_off_is_gone() -> None:
    client = Client(cidr(10, NET))
    client.send(udp(number=1))
    client.state.set_disabled_resources({ResourceId(uid(10))}, client.now)
    client.state.set_disabled_resources(set(), client.now)
    client.events()
    client.send(udp(number=2))
    assert len(client.intents()) == 1
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=2)]


def test_a_connection_under_way_to_a_gateway_without_use_is_dropped() -> None:
    client = connected()
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
    assert len(client.state.node) == 0
    assert len(client.state._gateways) == 0
    assert client.state._gateways.of(ResourceId(uid(10))) is None
    assert (client.state._filters, client.state._rows) == ({}, {})


# 17.7 reset


def test_reset_has_a_new_key_and_no_connections_and_keeps_resources_and_device() -> None:
    client = connected()
    key = client.state.public_key
    client.state.reset(client.now)
    events = client.events()
    assert [event for event in events if isinstance(event, ReconnectPortal)] == [
        ReconnectPortal(client.state.public_key, "the network changed")
    ]
    assert client.state.public_key != key
    assert not [event for event in events if isinstance(event, TunConfig)]
    assert len(client.state.node) == 0
    assert client.routes() == {NET: None}
    client.send(udp())
    (intent,) = client.intents()
    assert intent.connected_gateway_ids == (uid(2),), "connections of applications live on if the same gateway is chosen"


def test_reset_keeps_what_waits_with_its_time() -> None:
    client = Client(cidr(10, NET))
    client.send(udp(number=1), 0)
    client.state.reset(client.now)
    client.events()
    client.send(udp(number=2), 1.0)
    assert client.intents() == []
    client.tell(granted(10))
    (connection,) = client.state.node._connections
    assert list(connection._packets) == [udp(number=1), udp(number=2)]


def test_reset_makes_online_sites_unknown_and_leaves_offline_ones() -> None:
    client = connected(cidr(11, "10.0.1.0/24", sites=()))
    client.state._on_established(uid(2), client.now)  # type: ignore[arg-type]
    assert client.statuses()[uid(10)] is Status.ONLINE
    client.events()
    client.state.reset(client.now)
    assert client.statuses()[uid(10)] is Status.UNKNOWN
    assert len([event for event in client.events() if isinstance(event, ResourcesUpdated)]) == 1
    client.tell(failed(10, "offline"))
    client.state.reset(client.now)
    assert client.statuses()[uid(10)] is Status.OFFLINE


def test_after_a_reset_every_resource_asks_for_itself() -> None:
    client = connected(cidr(11, "10.0.1.0/24"))
    client.state.reset(client.now)
    client.send(udp("10.0.1.7"))
    client.tell(granted(11))
    client.events()
    client.send(udp())
    assert [intent.resource_id for intent in client.intents()] == [uid(10)]


# a portal that is away: 15.1, 17.7


def test_resources_wanted_while_the_portal_is_away_are_asked_for_once_when_it_is_back() -> None:
    client = Client(cidr(10, NET), cidr(11, "10.0.1.0/24"))
    client.send(udp())
    assert [intent.resource_id for intent in client.intents()] == [uid(10)]
    client.state.set_portal_reached(False, client.now)
    for second in range(1, 8):
        client.send(udp("10.0.1.7", number=second), second)
    assert client.intents() == []
    client.state.set_portal_reached(True, client.now)
    assert client.intents() == []  # The portal says first who we are.
    client.tell(init(cidr(10, NET), cidr(11, "10.0.1.0/24")))
    assert [intent.resource_id for intent in client.intents()] == [uid(10), uid(11)]
    client.tell(init(cidr(10, NET), cidr(11, "10.0.1.0/24")))
    assert client.intents() == []


def test_what_nobody_has_wanted_for_a_minute_is_not_asked_for() -> None:
    client = Client(cidr(10, NET))
    client.send(udp(), 0)
    client.intents()
    client.state.set_portal_reached(False, client.now)
    client.state.set_portal_reached(True, client.now)
    client.now += REMEMBERED + 1
    client.tell(init(cidr(10, NET)))
    assert client.intents() == []


def test_candidates_of_an_outage_are_told_as_they_stand_at_its_end() -> None:
    client = connected()
    first, second = (Endpoint.from_text(f"192.168.1.{n}", 52625) for n in (7, 8))
    client.state.set_portal_reached(False, client.now)
    client.state.set_local_addresses([first], client.now)
    client.state.set_local_addresses([second], client.now)
    assert client.sent() == []
    client.state.set_portal_reached(True, client.now)
    added, removed = client.sent()
    assert isinstance(added, wire.BroadcastIceCandidates)
    assert isinstance(removed, wire.BroadcastInvalidatedIceCandidates)
    # The address that came and went meanwhile is in neither.
    assert [line.split()[4] for line in added.candidates] == ["192.168.1.8"]
    assert [line.split()[4] for line in removed.candidates] == ["192.0.2.1"]


def test_candidates_of_a_connection_that_ended_in_an_outage_are_not_told() -> None:
    client = connected()
    client.state.set_portal_reached(False, client.now)
    client.state.set_local_addresses([Endpoint.from_text("192.168.1.7", 52625)], client.now)
    client.state.reset(client.now)
    client.state.set_portal_reached(True, client.now)
    assert client.sent() == []


def test_a_name_wanted_after_a_reset_while_the_portal_is_away_is_asked_for_once() -> None:
    client = named()
    client.state.reset(client.now)
    client.state.set_portal_reached(False, client.now)
    for second in range(1, 8):
        client.send(udp(client.ask(), number=second), second)
    client.events()
    client.state.set_portal_reached(True, client.now)
    client.tell(init(dns(20, PATTERN)))
    assert [intent.resource_id for intent in client.intents()] == [uid(20)]


def test_traffic_of_a_connected_network_stays_when_a_name_is_added() -> None:
    client = connected()
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(11, NET)))
    row = client.state.node.row_of(uid(2))  # type: ignore[arg-type]
    client.updates()
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN)))
    assert NET not in client.routes()
    assert client.state._routes[network(NET)] == row is not None


def test_of_two_resources_of_a_gateway_the_last_one_ends_the_connection() -> None:
    client = connected(cidr(11, "10.0.1.0/24"))
    client.send(udp("10.0.1.7"))
    client.tell(granted(11))
    client.updates()
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
    (wanted,) = [update for update in client.updates() if isinstance(update, PeerFilterSet)]
    assert NET not in map(str, wanted.remote)
    assert len(client.state.node) == 1
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(11))))
    assert len(client.state.node) == 0
