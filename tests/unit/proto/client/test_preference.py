"""Which gateways are asked for, in which order: `client` 15.2."""

from __future__ import annotations

from firezone.base.ids import GatewayId, ResourceId
from firezone.proto.client.preference import MAX_GATEWAYS, MAX_RESOURCES, GatewayPreference
from tests.harness.roles import uid


def order(preference: GatewayPreference, resource: int, *connected: int) -> list[str]:
    return list(preference.order(ResourceId(uid(resource)), [GatewayId(uid(number)) for number in connected]))


def note(preference: GatewayPreference, resource: int, gateway: int) -> None:
    preference.note(ResourceId(uid(resource)), GatewayId(uid(gateway)))


def test_the_resources_own_gateway_comes_first_then_connected_ones_then_the_rest_by_id() -> None:
    preference = GatewayPreference()
    for resource, gateway in ((1, 5), (2, 4), (3, 3), (4, 2)):
        note(preference, resource, gateway)
    assert order(preference, 1, 4) == [uid(5), uid(4), uid(2), uid(3)]
    assert order(preference, 9, 3, 4) == [uid(3), uid(4), uid(2), uid(5)]
    assert order(preference, 9) == [uid(2), uid(3), uid(4), uid(5)]


def test_a_resource_that_moved_prefers_its_last_gateway() -> None:
    preference = GatewayPreference()
    note(preference, 1, 5)
    note(preference, 1, 3)
    assert order(preference, 1) == [uid(3), uid(5)]


def test_gateways_and_resources_of_long_ago_are_forgotten() -> None:
    preference = GatewayPreference()
    for number in range(MAX_RESOURCES + 50):
        note(preference, number, number % (MAX_GATEWAYS + 5))
    assert len(order(preference, 1)) == MAX_GATEWAYS
    assert len(preference._last) == MAX_RESOURCES
