"""The Internet resource: off until it is wanted, behind everything else, and never for the tunnel's own addresses."""

from __future__ import annotations

from firezone.base.ids import ResourceId, SiteId
from firezone.proto.client.state import ResourcesUpdated
from firezone.proto.updates import PeerFilterSet
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import Site
from tests.harness.roles import SITE, cidr, uid
from tests.unit.proto.client.bench import FIXED, NET, Client, granted, init, texts, udp

DEFAULTS = {"0.0.0.0/0", "::/0"}
FAR, FAR_V6 = "8.8.8.8", "2001:db8::7"


def internet(number: int = 9, site: int = 0x51) -> wire.InternetResource:
    return wire.InternetResource(id=ResourceId(uid(number)), sites=(Site(id=SiteId(uid(site)), name="Berlin"),))


def active(*more: wire.Resource) -> Client:
    client = Client(internet(), *more)
    client.state.set_internet_resource_state(True, client.now)
    return client


def test_off_there_are_no_default_routes_and_no_intents() -> None:
    client = Client(internet())
    assert texts(client.config()) == FIXED
    assert client.routes() == {}
    client.send(udp(FAR))
    assert client.intents() == []


def test_on_there_are_default_routes_and_a_packet_asks() -> None:
    client = active()
    assert texts(client.config()) == FIXED | DEFAULTS
    client.send(udp(FAR))
    client.send(udp(FAR_V6))
    (intent,) = client.intents()
    assert intent.resource_id == uid(9)


def test_what_must_not_leak_keeps_a_route_of_its_own() -> None:
    client = active(cidr(10, NET))
    client.send(udp(FAR))
    client.tell(granted(9))
    routes = client.routes()
    row = client.state.node.row_of(uid(2))  # type: ignore[arg-type]
    assert routes.pop("0.0.0.0/0") == routes.pop("::/0") == row is not None
    assert routes.pop("100.64.0.2/32") == routes.pop("fd00:2021:1111::2/128") == row
    assert routes == dict.fromkeys([*FIXED, "224.0.0.0/4", "ff00::/8", NET])
    client.events()
    for closed in ("100.64.0.99", "100.96.0.1", "100.100.111.9", "224.0.0.22", "ff02::2"):
        client.send(udp(closed))
    assert client.events() == []


def test_its_gateway_may_answer_from_anywhere() -> None:
    client = active()
    client.send(udp(FAR))
    client.updates()
    client.tell(granted(9))
    (wanted,) = [update for update in client.updates() if isinstance(update, PeerFilterSet)]
    assert set(map(str, wanted.remote)) >= DEFAULTS


def test_off_again_while_connected_says_goodbye_and_takes_the_default_routes() -> None:
    client = active()
    client.send(udp(FAR))
    client.tell(granted(9))
    client.events()
    client.state.set_internet_resource_state(False, client.now)
    assert len(client.state.node) == 0
    assert texts(client.config()) == FIXED


def test_what_waited_when_it_was_switched_off_is_gone() -> None:
    client = active()
    client.send(udp(FAR))
    client.state.set_internet_resource_state(False, client.now)
    client.tell(granted(9))
    assert len(client.state.node) == 0


def test_the_same_wish_twice_changes_nothing() -> None:
    client = active()
    client.events()
    client.updates()
    client.state.set_internet_resource_state(True, client.now)
    assert client.events() == []
    assert client.updates() == []


def test_a_wish_before_the_first_list_holds_for_it() -> None:
    client = Client()
    client.state.set_internet_resource_state(True, client.now)
    client.tell(init(internet()))
    assert texts(client.config()) == FIXED | DEFAULTS


def test_one_that_the_portal_takes_away_is_off_when_it_comes_back() -> None:
    client = active()
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(9))))
    client.tell(wire.ResourceCreatedOrUpdated(resource=internet()))
    assert texts(client.config()) == FIXED
    client.state.set_internet_resource_state(True, client.now)
    assert texts(client.config()) == FIXED | DEFAULTS


def test_one_that_moves_to_another_site_is_off() -> None:
    client = active()
    client.tell(wire.ResourceCreatedOrUpdated(resource=internet(site=0x52)))
    assert texts(client.config()) == FIXED


def test_one_that_comes_again_unchanged_stays_on() -> None:
    client = active()
    client.events()
    client.tell(wire.ResourceCreatedOrUpdated(resource=internet()))
    client.tell(init(internet()))
    assert client.events() == []


def test_users_see_whether_it_is_on() -> None:
    client = Client(internet())
    for is_on in (False, True):
        client.state.set_internet_resource_state(is_on, client.now)
        (view,) = client.state._book.views()
        assert view.is_enabled is is_on
    assert SITE.name in view.sites
    assert [type(event) for event in client.events()].count(ResourcesUpdated) == 1
