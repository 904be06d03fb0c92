"""Relays in the portal: portal protocol 5.1, 8, 9.10, 9.13, 11.6, 11.7, scenarios 13.6."""

from __future__ import annotations

import random
import tomllib
from zoneinfo import ZoneInfo

import pytest

from firezone.base.secret import SecretText
from firezone.base.timing import SECOND
from firezone.proto.portal.config import read_policy
from firezone.proto.portal.config_values import PolicyError
from firezone.proto.portal.login import LoginRejected, Upgrade
from firezone.proto.portal.model import OnlineRelay, token_hash
from firezone.proto.portal.relays import distance_km, relay_id_of, turn_entries
from firezone.proto.relay.auth import Username
from firezone.wire.portal.relay import Init
from firezone.wire.portal.shared import PublicKey, RelaysPresence, TurnRelay, UnixSeconds

from .bench import AGENTS, POLICY, UTC, Bench, ScriptedDevice

RELAY_POLICY = (
    POLICY
    + f"""
[[relay_token]]
name = "r"
sha256 = "{token_hash("relay-token")}"
"""
)
SECRETS = [digit * 64 for digit in "0123456789abcdef"]


def bench(*more: str) -> Bench:
    return Bench(RELAY_POLICY + "".join(more))


def presence(device: ScriptedDevice) -> RelaysPresence:
    message = device.take(RelaysPresence)
    assert isinstance(message, RelaysPresence)
    return message


def ids(entries: object) -> list[str]:
    return list(dict.fromkeys(entry.id for entry in entries))  # type: ignore[attr-defined]


def test_ids_and_credentials_are_those_of_the_vectors() -> None:
    """Portal protocol 9.10 and 11.6: 32 bytes of ab."""
    secret = SecretText("ab" * 32)
    assert relay_id_of(secret) == "271a413b-d339-4570-9fdc-eaec41f14f11"
    key = PublicKey.from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    portal = bench()
    portal.relay("ab" * 32, ipv4="203.0.113.50", ipv6="2001:db8::50")
    online = list(portal.service._relays.online().values())
    first, second = turn_entries(online, key, UnixSeconds(1_900_000_000))
    assert first == TurnRelay(
        id="271a413b-d339-4570-9fdc-eaec41f14f11",  # type: ignore[arg-type]
        addr="203.0.113.50:3478",
        username="1900000000:kF8o3vGOqsBa5vErLDRSdEr69ibaE0PVezlbVE4FGbY",
        password=SecretText("Tr2vpuFvI9VvYB1wM4GJADoiHkbUgZDhK/1tOzGV0HE"),
        expires_at=UnixSeconds(1_900_000_000),
    )
    assert (second.id, second.addr, second.username) == (first.id, "[2001:db8::50]:3478", first.username)
    known = Username.from_text(first.username)
    assert known is not None
    assert known.key(secret).hex() == "8bcc1533902bbbbbbb5960badd564ae5"


def test_a_relay_joins_and_devices_are_told_in_their_init() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    assert isinstance(relay.take(Init), Init)
    gateway, client = portal.connect("gateway", key=b"\x02").join(), portal.connect("client").join()
    assert ids(gateway.relays) == ids(client.relays) == [relay_id_of(SecretText(SECRETS[1]))]
    assert client.relays[0].expires_at == UTC // SECOND + 604_800, "with the client's token"
    assert gateway.relays[0].expires_at == 2_145_916_800
    assert gateway.relays[0].username != client.relays[0].username


def test_a_relay_that_comes_later_is_pushed_after_the_debounce() -> None:
    portal = bench()
    gateway, client = portal.pair()
    portal.relay(SECRETS[1])
    portal.advance(0.9)
    assert gateway.heard == client.heard == []
    portal.advance(0.2)
    for device in (gateway, client):
        news = presence(device)
        assert (news.disconnected_ids, ids(news.connected)) == ((), [relay_id_of(SecretText(SECRETS[1]))])


def test_a_websocket_that_drops_and_returns_is_not_heard_of() -> None:
    """Scenario 45: the same secret within the debounce."""
    portal = bench()
    relay = portal.relay(SECRETS[1])
    gateway, client = portal.pair()
    portal.advance(2)
    relay.disconnect()
    portal.advance(0.8)
    portal.relay(SECRETS[1])
    portal.advance(5)
    assert gateway.heard == client.heard == []


def test_a_relay_with_another_secret_replaces_the_former() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    _, client = portal.pair()
    portal.advance(2)
    relay.disconnect()
    portal.relay(SECRETS[2])
    portal.advance(1.1)
    news = presence(client)
    assert news.disconnected_ids == (relay_id_of(SecretText(SECRETS[1])),)
    assert ids(news.connected) == [relay_id_of(SecretText(SECRETS[2]))]


def test_a_relay_that_does_not_return_is_taken_back_after_a_second() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    _, client = portal.pair()
    portal.advance(2)
    relay.disconnect()
    portal.advance(0.9)
    assert client.heard == []
    portal.advance(0.2)
    news = presence(client)
    assert (news.disconnected_ids, news.connected) == ((relay_id_of(SecretText(SECRETS[1])),), ())


def test_a_second_connection_with_one_secret_closes_the_first() -> None:
    portal = bench()
    first = portal.relay(SECRETS[1])
    second = portal.relay(SECRETS[1])
    assert first.closed == 1000
    assert second.closed is None


def test_logging_in_again_costs_nobody_an_allocation() -> None:
    """Scenario 48: the same key gives the same credentials, for a gateway whenever it is."""
    portal = bench()
    portal.relay(SECRETS[1])
    before = portal.connect("gateway", key=b"\x02").join().relays
    portal.advance(30)
    next(device for device in portal.devices.values() if device.role == "gateway").disconnect()
    assert portal.connect("gateway", key=b"\x02").join().relays == before


def test_no_relays_is_answered_with_what_there_is() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    gateway, client = portal.pair()
    for device in (gateway, client):
        device.say("no_relays", {})
        news = presence(device)
        assert (news.disconnected_ids, ids(news.connected)) == ((), [relay_id_of(SecretText(SECRETS[1]))])
    relay.disconnect()
    portal.advance(2)
    client.heard.clear()
    client.say("no_relays", {})
    assert presence(client).connected == ()


def test_two_are_told_and_a_third_only_when_one_goes() -> None:
    portal = bench()
    relays = [portal.relay(SECRETS[n], ipv4=f"203.0.113.{n}") for n in (1, 2)]
    client = portal.connect("client")
    told = ids(client.join().relays)
    assert sorted(told) == sorted(relay_id_of(SecretText(SECRETS[n])) for n in (1, 2))
    portal.relay(SECRETS[3], ipv4="203.0.113.3")
    portal.advance(5)
    assert client.heard == []
    relays[0].disconnect()
    portal.advance(2)
    news = presence(client)
    assert news.disconnected_ids == (relay_id_of(SecretText(SECRETS[1])),)
    assert ids(news.connected) == [relay_id_of(SecretText(SECRETS[n])) for n in (2, 3)], "what it has, and one more"


def test_entries_of_one_relay_are_neighbours() -> None:
    portal = bench()
    for n in (1, 2):
        portal.relay(SECRETS[n], ipv4=f"203.0.113.{n}", ipv6=f"2001:db8::{n}")
    entries = portal.connect("client").join().relays
    assert [entry.id for entry in entries] == [entries[0].id] * 2 + [entries[2].id] * 2
    assert [entry.addr.startswith("[") for entry in entries] == [False, True, False, True]


def test_no_id_is_ever_gone_and_present_at_once_under_1000_flaps() -> None:
    """Scenario 46, and after every message the device's list is what is online, as far as it has room."""
    rng, portal = random.Random(5), bench()
    gateway, client = portal.pair()
    relays: dict[int, ScriptedDevice] = {}
    held: dict[ScriptedDevice, set[str]] = {gateway: set(), client: set()}
    for _ in range(1000):
        n = rng.randrange(4)
        if n in relays:
            relays.pop(n).disconnect()
        else:
            relays[n] = portal.relay(SECRETS[n], ipv4=f"203.0.113.{n + 1}")
        portal.advance(rng.choice((0.1, 0.5, 1.5)))
        keep_alive(portal)
        for device, known in held.items():
            for news in device.heard:
                assert isinstance(news, RelaysPresence)
                connected = set(ids(news.connected))
                assert not connected & set(news.disconnected_ids)
                assert known >= set(news.disconnected_ids)
                known.difference_update(news.disconnected_ids)
                known.update(connected)
            device.heard.clear()
    portal.advance(2)
    online = {relay_id_of(SecretText(SECRETS[n])) for n in relays}
    for device, known in held.items():
        for news in device.heard:
            known.difference_update(news.disconnected_ids)
            known.update(ids(news.connected))
        assert known <= online
        assert len(known) >= min(2, len(online))


def keep_alive(portal: Bench) -> None:
    for device in list(portal.devices.values()):
        device.say("heartbeat", {}, topic="phoenix")


def test_a_silent_relay_is_closed_after_41_seconds() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    portal.advance(40)
    assert relay.closed is None
    portal.advance(2)
    assert relay.closed == 1001


def test_a_join_without_a_good_secret_is_refused() -> None:
    portal = bench()
    for payload in (None, {}, {"stamp_secret": "short"}, {"stamp_secret": "X" * 64}, {"stamp_secret": 5}):
        relay = portal.relay(SECRETS[1])
        relay.heard.clear()
        answer = relay.say("phx_join", payload)
        assert answer is not None
        assert answer["payload"] == {"status": "error", "response": {"reason": "join crashed"}}


def test_what_a_relay_may_not_say() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    for event, topic in (("create_flow", "relay"), ("phx_join", "client")):
        answer = relay.say(event, {}, topic=topic)
        assert answer is not None
        assert answer["payload"]["status"] == "error"
    heartbeat = relay.say("heartbeat", {}, topic="phoenix")
    assert heartbeat is not None
    assert heartbeat["payload"]["status"] == "ok"
    portal.service.handle_text(relay.number, "no json", portal.now, portal.utc)
    portal.deliver()
    assert relay.closed == 1002


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, "neither ipv4 nor ipv6"),
        ({"ipv4": "2001:db8::1"}, "other family"),
        ({"ipv6": "::g"}, "no address"),
        ({"ipv4": "203.0.113.1", "port": "0"}, "no UDP port"),
        ({"ipv4": "203.0.113.1", "port": "65536"}, "no UDP port"),
        ({"ipv4": "203.0.113.1", "name": "x" * 256}, "255 characters"),
    ],
)
def test_a_relays_login_is_judged(parameters: dict[str, str], why: str) -> None:
    upgrade = Upgrade("/relay/websocket", {"token": "relay-token", **parameters}, AGENTS["relay"], "192.0.2.9")
    with pytest.raises(LoginRejected, match=why) as caught:
        bench().service.check_login(upgrade, UTC)
    assert caught.value.status == 422


def test_a_revoked_token_ends_its_relay() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    _, client = portal.pair()
    portal.reload((f'sha256 = "{token_hash("relay-token")}"', f'sha256 = "{token_hash("relay-token")}"\nrevoked = true'))
    assert relay.closed == 1000
    portal.advance(1.1)
    assert presence(client).disconnected_ids == (relay_id_of(SecretText(SECRETS[1])),)


STATIC = f"""
[[relay]]
name = "alone"
ipv4 = "203.0.113.77"
ipv6 = "2001:db8::77"
secret = "{SECRETS[7]}"
"""


def test_a_relay_of_the_policy_needs_no_connection() -> None:
    portal = bench(STATIC)
    entries = portal.connect("client").join().relays
    assert [entry.addr for entry in entries] == ["203.0.113.77:3478", "[2001:db8::77]:3478"]
    username = Username.from_text(entries[0].username)
    assert username is not None
    assert entries[0].password.reveal() == username.password(SecretText(SECRETS[7]))


def test_a_relay_put_into_the_policy_or_out_of_it_is_told() -> None:
    portal = bench(STATIC)
    _, client = portal.pair()
    portal.reload((STATIC, ""))
    portal.advance(1.1)
    assert presence(client).disconnected_ids == (relay_id_of(SecretText(SECRETS[7])),)
    portal.reload((RELAY_POLICY, RELAY_POLICY + STATIC))
    portal.advance(1.1)
    assert ids(presence(client).connected) == [relay_id_of(SecretText(SECRETS[7]))]


@pytest.mark.parametrize(
    ("change", "message", "where"),
    [
        (('ipv4 = "203.0.113.77"', 'ipv4 = "2001:db8::1"'), "no IPv4 address", ("relay", 0, "ipv4")),
        (('ipv4 = "203.0.113.77"', 'ipv4 = "here"'), "no IP address", ("relay", 0, "ipv4")),
        (('ipv4 = "203.0.113.77"\nipv6 = "2001:db8::77"', ""), "needs an address", ("relay", 0)),
        (('ipv4 = "203.0.113.77"', 'ipv4 = "203.0.113.77"\nport = 0'), "no UDP port", ("relay", 0, "port")),
        ((SECRETS[7], "secret"), "64 lower-case hex digits", ("relay", 0, "secret")),
        (('name = "alone"', 'name = "alone"\nlocation = [91, 0]'), "latitude", ("relay", 0, "location")),
        (('name = "alone"', 'name = "alone"\nlocation = [1]'), "latitude", ("relay", 0, "location")),
        ((STATIC, STATIC + STATIC), "one secret", ("relay", 1, "secret")),
    ],
)
def test_a_wrong_policy_names_the_place(change: tuple[str, str], message: str, where: tuple[str | int, ...]) -> None:
    text = (RELAY_POLICY + STATIC).replace(*change)
    with pytest.raises(PolicyError, match=message) as caught:
        read_policy(tomllib.loads(text), ZoneInfo)
    assert caught.value.where == where


def test_the_nearest_are_chosen_and_unknown_places_come_last() -> None:
    """Berlin's gateway gets Frankfurt and Paris, not Sydney or the one nobody knows where."""
    places = {1: (50.1, 8.7), 2: (48.9, 2.4), 3: (-33.9, 151.2), 4: None}
    more = "".join(
        f'[[relay]]\nname = "{n}"\nipv4 = "203.0.113.{n}"\nsecret = "{SECRETS[n]}"\n'
        + (f"location = [{place[0]}, {place[1]}]\n" if place else "")
        for n, place in places.items()
    )
    portal = Bench(RELAY_POLICY.replace('name = "Lab"', 'name = "Lab"\nlocation = [52.5, 13.4]', 1) + more)
    entries = portal.connect("gateway", key=b"\x02").join().relays
    assert ids(entries) == [relay_id_of(SecretText(SECRETS[n])) for n in (1, 2)]
    chosen = set()
    for n in range(40):
        chosen.update(ids(portal.connect("client", device_id=f"d{n}").join().relays))
    assert len(chosen) == 4, "a client whose place nobody knows gets any two"


def test_distance() -> None:
    assert distance_km((52.52, 13.405), (48.857, 2.352)) == pytest.approx(878, abs=5)
    assert distance_km((0, 0), (0, 180)) == pytest.approx(20_015, abs=5)
    assert distance_km(None, (0, 0)) == float("inf")


def test_a_portal_that_starts_again_knows_no_relay_until_it_joins() -> None:
    portal = bench()
    portal.relay(SECRETS[1])
    portal.pair()
    portal.restart()
    assert portal.connect("client").join().relays == ()


def test_entries_keep_secrets_out_of_texts() -> None:
    entry = OnlineRelay(relay_id_of(SecretText(SECRETS[1])), "r", (), SecretText(SECRETS[1]), None)
    assert SECRETS[1] not in repr(entry)


def test_a_relay_that_comes_and_goes_without_end_does_not_hold_back_the_others() -> None:
    portal = bench()
    _, client = portal.pair()
    portal.relay(SECRETS[2])
    for _ in range(11):
        flapping = portal.relay(SECRETS[1])
        portal.advance(0.25)
        flapping.disconnect()
        portal.advance(0.25)
    assert any(relay_id_of(SecretText(SECRETS[2])) in ids(news.connected) for news in client.heard)


def test_a_device_that_logs_in_again_gets_the_relays_it_has_among_many() -> None:
    """Others would come on top, since a list takes nothing away."""
    portal = bench()
    for number, secret in enumerate(SECRETS[:8]):
        portal.relay(secret, ipv4=f"203.0.113.{number}")
    for role, key in (("gateway", b"\x02"), ("client", b"\x01")):
        seen = set()
        for _ in range(5):
            device = portal.connect(role, key=key)
            seen.add(device.join().relays)
            device.disconnect()
        assert len(seen) == 1


def test_relays_share_the_devices() -> None:
    portal = bench()
    for number, secret in enumerate(SECRETS[:4]):
        portal.relay(secret, ipv4=f"203.0.113.{number}")
    relays, counts = portal.service._relays, dict.fromkeys(portal.service._relays.online(), 0)
    for device in range(2000):
        for chosen in relays.select(str(device), None):
            counts[chosen.id] += 1
    assert all(850 < count < 1150 for count in counts.values())


def test_a_relay_with_its_secret_at_another_address_is_told_again() -> None:
    portal = bench()
    relay = portal.relay(SECRETS[1])
    _, client = portal.pair()
    relay.disconnect()
    portal.relay(SECRETS[1], ipv4="203.0.113.99")
    portal.advance(1.1)
    news = presence(client)
    assert (news.disconnected_ids, [entry.addr for entry in news.connected]) == ((), ["203.0.113.99:3478"])


def test_a_longer_login_brings_credentials_that_last_as_long() -> None:
    portal = bench()
    portal.relay(SECRETS[1])
    gateway, client = portal.pair()
    portal.reload(("2025-06-22T15:06:40Z", "2025-06-23T15:06:40Z"))
    portal.advance(1.1)
    assert presence(client).connected[0].expires_at == UTC // SECOND + 604_800 + 86_400  # type: ignore[union-attr]
    assert gateway.heard == []


def test_what_a_device_had_before_its_last_question_is_taken_back_too() -> None:
    portal = bench()
    first = portal.relay(SECRETS[1])
    gateway, client = portal.pair()
    first.disconnect()
    portal.relay(SECRETS[2])
    for device in (gateway, client):  # Within the debounce: the answer names the new one alone.
        device.say("no_relays", {})
        assert ids(presence(device).connected) == [relay_id_of(SecretText(SECRETS[2]))]
    portal.advance(1.1)
    for device in (gateway, client):
        assert presence(device).disconnected_ids == (relay_id_of(SecretText(SECRETS[1])),)
