"""The portal against devices that behave as the original's: sections 9, 10.2, 12 and 13 of the portal protocol."""

from __future__ import annotations

import json

import pytest

from firezone.base.ids import ResourceId
from firezone.base.timing import SECOND
from firezone.proto.portal.login import LoginRejected, Upgrade
from firezone.wire.phoenix import encode_frame
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import PublicKey

from .bench import UTC, Bench, MemoryStore, ScriptedDevice, book

NET = next(r.id for r in book(Bench().policy).resources.values() if r.name == "Net")
PRINTER = next(r.id for r in book(Bench().policy).resources.values() if r.name == "Printer")
WEEK = 604800


def kinds(device: ScriptedDevice) -> list[str]:
    found = [type(message).__name__ for message in device.heard]
    device.heard.clear()
    return found


# 10.2: must


@pytest.mark.parametrize(
    ("role", "token", "agent", "status"),
    [
        ("client", "", "", 401),
        ("client", "wrong", "", 401),
        ("client", "gateway-token", "", 401),
        ("gateway", "client-token", "", 401),
        ("client", "client-token", "curl/8", 422),
        ("relay", "client-token", "relay/0.1.0", 401),
    ],
)
def test_a_login_is_judged_before_101(role: str, token: str, agent: str, status: int) -> None:
    bench = Bench()
    with pytest.raises(LoginRejected) as caught:
        bench.service.check_login(bench.upgrade(role, token, agent=agent or "Debian/12 connlib/1.5.4"), UTC)
    assert caught.value.status == status
    assert token == "" or token not in str(caught.value)


def test_the_texts_of_401_are_the_original_s() -> None:
    bench = Bench()
    for token, text in (("", "Missing token"), ("nope", "Invalid token")):
        with pytest.raises(LoginRejected, match=text):
            bench.service.check_login(bench.upgrade("client", token), UTC)


@pytest.mark.parametrize("missing", ["external_id", "public_key"])
def test_a_missing_parameter_is_422(missing: str) -> None:
    bench = Bench()
    good = bench.upgrade("client", "client-token")
    upgrade = Upgrade(good.path, {k: v for k, v in good.parameters.items() if k != missing}, good.user_agent, good.remote_ip)
    with pytest.raises(LoginRejected, match=missing) as caught:
        bench.service.check_login(upgrade, UTC)
    assert caught.value.status == 422


def test_the_token_may_come_in_the_header() -> None:
    bench = Bench()
    good = bench.upgrade("client", "")
    upgrade = Upgrade(good.path, good.parameters, good.user_agent, good.remote_ip, "Bearer client-token")
    assert bench.service.check_login(upgrade, UTC).token.name == "c"


def test_joins_and_heartbeats_are_answered_with_the_same_numeric_ref() -> None:
    device = Bench().connect("client")
    device.ref = 41
    assert isinstance(device.join(), client.Init)
    assert device.replies == [{"topic": "client", "event": "phx_reply", "ref": 41,
                               "payload": {"status": "ok", "response": {}}}]  # fmt: skip
    reply = device.say("heartbeat", {}, topic="phoenix")
    assert reply == {"topic": "phoenix", "event": "phx_reply", "ref": 42, "payload": {"status": "ok", "response": {}}}


def test_init_follows_every_join_also_on_the_same_socket() -> None:
    device = Bench().connect("client")
    assert device.join() == device.join()


def test_messages_before_the_join_are_answered_unmatched_topic() -> None:
    device = Bench().connect("gateway")
    for topic in ("gateway", "client"):
        reply = device.say("flow_authorized", {"ref": "x"}, topic=topic)
        assert reply is not None
        assert reply["payload"] == {"status": "error", "response": {"reason": "unmatched topic"}}


def test_flow_created_comes_after_flow_authorized_and_before_candidates() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    asker.flow(NET)
    assert asker.heard == []
    order = served.heard[0]
    served.say("flow_authorized", {"ref": order.ref})
    served.say("broadcast_ice_candidates", {"client_ids": [order.client.id], "candidates": ["candidate:x"]})
    assert kinds(asker) == ["FlowCreated", "IceCandidates"]


@pytest.mark.parametrize(("role", "seconds"), [("client", 307), ("gateway", 37)])
def test_a_silent_device_is_closed_and_any_frame_counts(role: str, seconds: int) -> None:
    bench = Bench()
    device = bench.connect(role)
    device.join()
    bench.advance(seconds - 1)
    device.say("heartbeat", {}, topic="phoenix")
    bench.advance(seconds - 1)
    assert device.closed is None
    bench.advance(1)
    assert device.closed == 1001


def test_addresses_keys_and_grants_outlive_the_portal() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    created = next(message for message in asker.heard if isinstance(message, client.FlowCreated))
    before = bench.store.committed
    bench.restart()
    served, asker = bench.connect("gateway", key=b"\x02"), bench.connect("client")
    init = served.join()
    assert [(grant.client_id, grant.resource_id, grant.expires_at) for grant in init.authorizations] == [
        (next(d.id for d in before[0].values() if d.role.value == "client"), NET, UTC // SECOND + WEEK)
    ]
    asker.join()
    asker.flow(NET)
    again = next(message for message in asker.heard if isinstance(message, client.FlowCreated))
    assert again == created


def test_everything_is_committed_before_it_is_said() -> None:
    bench = Bench()
    _served, asker = bench.pair()
    bench.service.handle_text(
        asker.number,
        encode_frame("client", "create_flow", json.dumps({"resource_id": NET, "connected_gateway_ids": []}).encode(), 9),
        bench.now, bench.utc,
    )  # fmt: skip
    assert len(bench.store.committed[1]) == 1
    assert len(bench.store.committed[0]) == 2


def test_a_repeated_create_flow_goes_to_the_same_gateway() -> None:
    bench = Bench()
    gateways = [bench.connect("gateway", key=bytes([n]), device_id=f"g{n}") for n in range(2, 8)]
    for device in gateways:
        device.join()
    asker = bench.connect("client")
    asker.join()
    asker.flow(NET)
    first = next(message for message in asker.heard if isinstance(message, client.FlowCreated)).gateway_id
    for _ in range(20):
        asker.heard.clear()
        asker.flow(NET, [first, "d2c4e6a8-1b3d-4f5a-8c7e-9f0a1b2c3d04"])
        assert {m.gateway_id for m in asker.heard if isinstance(m, client.FlowCreated)} == {first}


def test_candidates_are_forwarded_unchanged_both_ways_and_invalidated() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    client_id = served.heard[0].client.id
    gateway_id = next(message for message in asker.heard if isinstance(message, client.FlowCreated)).gateway_id
    served.heard.clear()
    asker.heard.clear()
    lines = ["candidate:ä 1 udp", "candidate:2"]
    asker.say("broadcast_ice_candidates", {"gateway_ids": [gateway_id], "candidates": lines})
    assert served.take(gateway.IceCandidates) == gateway.IceCandidates(client_id=client_id, candidates=tuple(lines))
    asker.say("broadcast_invalidated_ice_candidates", {"gateway_ids": [gateway_id], "candidates": lines})
    assert served.take(gateway.InvalidateIceCandidates).candidates == tuple(lines)
    served.say("broadcast_invalidated_ice_candidates", {"client_ids": [client_id], "candidates": lines})
    assert asker.take(client.InvalidateIceCandidates).gateway_id == gateway_id


# 9.2 to 9.6: devices


def test_tunnel_addresses_are_unique_and_in_the_pool() -> None:
    bench = Bench()
    inits = [bench.connect("client", device_id=f"c{n}").join() for n in range(50)]
    inits += [bench.connect("gateway", device_id=f"g{n}").join() for n in range(50)]
    assert len({init.interface.ipv4 for init in inits}) == len({init.interface.ipv6 for init in inits}) == 100
    for init in inits:
        assert str(init.interface.ipv4).startswith("100.")
        assert int(init.interface.ipv4) & 0x1FFFFF == int(init.interface.ipv6) & 0x1FFFFF


def test_an_external_id_is_opaque() -> None:
    bench = Bench()
    first = bench.connect("gateway", device_id='{"id":"abc"}').join()
    second = bench.connect("gateway", device_id="abc").join()
    assert first.interface != second.interface
    assert bench.connect("gateway", device_id='{"id":"abc"}').join().interface == first.interface


def test_a_client_that_logs_in_again_replaces_the_older_socket_and_tells_it_to_stop() -> None:
    bench = Bench()
    older = bench.connect("client")
    older.join()
    newer = bench.connect("client", key=b"\x09")
    assert older.closed == 1000
    assert older.is_told_to_stop
    assert isinstance(newer.join(), client.Init)


def test_a_second_gateway_of_one_identity_is_asked_to_wait_and_the_first_keeps_working() -> None:
    bench = Bench()
    first = bench.connect("gateway", key=b"\x02")
    first.join()
    with pytest.raises(LoginRejected) as caught:
        bench.connect("gateway", key=b"\x03")
    assert (caught.value.status, caught.value.retry_after_s) == (503, 5)
    assert first.closed is None
    bench.advance(37)
    assert isinstance(bench.connect("gateway", key=b"\x03").join(), gateway.Init)


def test_a_gateway_that_comes_back_with_its_key_replaces_its_own_dead_socket() -> None:
    bench = Bench()
    first = bench.connect("gateway", key=b"\x02")
    first.join()
    assert isinstance(bench.connect("gateway", key=b"\x02").join(), gateway.Init)
    assert first.closed == 1000
    assert not first.is_told_to_stop


# 9.7, 9.8: resources and flows


def test_a_client_sees_exactly_what_a_policy_gives_it() -> None:
    bench = Bench()
    init = bench.connect("client").join()
    assert [(r.name, str(r.address), [s.name for s in r.sites]) for r in init.resources] == [
        ("Net", "10.20.0.0/16", ["Lab"]), ("Printer", "10.30.7.9/32", ["Lab", "Annex"]),
    ]  # fmt: skip
    assert bench.connect("client", "bob-token").join().resources == ()


def test_the_flow_carries_credentials_that_depend_on_both_keys_only() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    order, (first, _) = served.heard[0], asker.heard
    assert order.client.preshared_key == first.preshared_key
    assert (order.client_ice_credentials, order.gateway_ice_credentials) == (
        first.client_ice_credentials, first.gateway_ice_credentials,
    )  # fmt: skip
    assert order.expires_at == UTC // SECOND + WEEK
    assert order.resource.filters == ()
    asker.heard.clear()
    asker.flow(PRINTER)
    second = asker.heard[0]
    assert second.preshared_key == first.preshared_key
    assert second.gateway_ice_credentials == first.gateway_ice_credentials
    asker.disconnect()
    moved = bench.connect("client", key=b"\x07")
    moved.join()
    moved.flow(NET)
    third = moved.heard[0]
    assert third.preshared_key != first.preshared_key
    assert third.client_ice_credentials != first.client_ice_credentials


def test_no_gateway_online_is_offline() -> None:
    bench = Bench()
    asker = bench.connect("client")
    asker.join()
    asker.flow(NET)
    assert asker.take(client.FlowCreationFailed).reason == "offline"
    bench.connect("gateway")  # Connected, not joined.
    asker.flow(NET)
    assert asker.take(client.FlowCreationFailed).reason == "offline"


@pytest.mark.parametrize(("version", "fits"), [("1.3.9", False), ("1.4.0", True), ("1.6.9", True), ("1.7.0", False), ("x", False)])
def test_only_gateways_inside_the_version_window_serve(version: str, fits: bool) -> None:
    bench = Bench()
    bench.connect("gateway", agent=f"Debian/12 connlib/{version}").join()
    asker = bench.connect("client", agent="Debian/12 connlib/1.5.9")
    asker.join()
    asker.flow(NET)
    assert isinstance(asker.heard[0], client.FlowCreated if fits else client.FlowCreationFailed)


def test_a_gateway_of_another_site_does_not_serve() -> None:
    bench = Bench()
    bench.connect("gateway", "annex-token").join()
    asker = bench.connect("client")
    asker.join()
    asker.flow(NET)
    assert asker.take(client.FlowCreationFailed).reason == "offline"
    asker.flow(PRINTER)
    assert kinds(asker) == ["FlowCreated", "IceCandidates"]


@pytest.mark.parametrize("resource_id", ["3c9a5a3e-2d60-4d0b-9d1b-6a2f1e0c7b11", NET])
def test_what_no_policy_gives_is_not_found(resource_id: str) -> None:
    bench = Bench()
    bench.connect("gateway").join()
    asker = bench.connect("client", "bob-token")
    asker.join()
    asker.flow(resource_id)
    assert asker.take(client.FlowCreationFailed).reason == "not_found"


def test_a_condition_that_fails_is_forbidden_and_named() -> None:
    bench = Bench()
    served, asker = bench.pair()
    bench.reload(('resource = "Net"', 'resource = "Net"\nremote_ip = ["203.0.113.0/24"]'))
    asker.heard.clear()
    asker.flow(NET)
    failed = asker.take(client.FlowCreationFailed)
    assert (failed.reason, failed.violated_properties) == ("forbidden", ("remote_ip",))
    assert served.heard == []


def test_a_gateway_that_does_not_answer_is_offline_after_15_s() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    asker.flow(NET)
    bench.advance(14)
    assert asker.heard == []
    bench.advance(1.1)
    assert asker.take(client.FlowCreationFailed).reason == "offline"
    reply = served.say("flow_authorized", {"ref": served.heard[0].ref})
    assert reply is not None
    assert reply["payload"]["response"] == {"reason": "invalid_ref"}
    assert asker.heard == []


def test_a_gateway_that_goes_while_it_is_asked_is_offline_at_once() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    asker.flow(NET)
    served.disconnect()
    assert asker.take(client.FlowCreationFailed).reason == "offline"


def test_no_gateway_can_answer_for_another() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    thief = bench.connect("gateway", "annex-token", device_id="thief")
    thief.join()
    asker.flow(NET)
    thief.say("flow_authorized", {"ref": served.heard[0].ref})
    assert asker.heard == []
    served.say("flow_authorized", {"ref": served.heard[0].ref})
    assert kinds(asker) == ["FlowCreated"]


def test_a_flow_of_a_client_that_has_a_new_key_is_not_announced_with_the_old_one() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    asker.flow(NET)
    newer = bench.connect("client", key=b"\x07")
    newer.join()
    served.say("flow_authorized", {"ref": served.heard[0].ref})
    assert newer.heard == []


# 10, 12: bad input


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("create_flow", {"resource_id": "no uuid", "connected_gateway_ids": []}),
        ("create_flow", {"resource_id": NET}),
        ("create_flow", None),
        ("request_authorization", {"resource_id": NET, "connected_gateway_ids": []}),
        ("broadcast_ice_candidates", {"gateway_ids": ["x"], "candidates": []}),
        ("nonsense", []),
    ],
)
def test_a_message_that_is_not_understood_is_an_error_for_its_sender_only(event: str, payload: object) -> None:
    bench = Bench()
    _served, asker = bench.pair()
    reply = asker.say(event, payload)
    assert reply is not None
    assert reply["payload"] == {"status": "error", "response": {"reason": "unknown_message"}}
    assert asker.closed is None
    asker.flow(NET)
    assert kinds(asker) == ["FlowCreated", "IceCandidates"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"topic":"client","event":"x","payload":{}}', b"\xff\xfe"])
def test_what_is_no_message_closes_that_socket_only(text: str | bytes) -> None:
    bench = Bench()
    served, asker = bench.pair()
    bench.service.handle_text(asker.number, text, bench.now, bench.utc)
    bench.deliver()
    assert asker.closed == 1002
    assert served.closed is None


def test_pending_flows_of_one_client_are_bounded() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    for _ in range(300):
        asker.flow(NET)
    refs = [message.ref for message in served.heard]
    answered = [served.say("flow_authorized", {"ref": ref}) for ref in refs]
    assert sum(reply is not None and reply["payload"]["status"] == "ok" for reply in answered) == 256


def test_nothing_the_service_prints_holds_a_secret() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    asker.say("nonsense", {})
    order, created = served.heard[0], asker.heard[0]
    init = served.say("phx_join", None)
    printed = repr((bench.notices, served.heard, asker.heard, bench.store.committed, bench.service.__dict__, init))
    for secret in (
        "client-token", "gateway-token", order.client_ice_credentials.password.reveal(),
        created.gateway_ice_credentials.password.reveal(), repr(order.client.preshared_key.reveal())[2:-1],
    ):  # fmt: skip
        assert secret not in printed


# 9.12 to 9.14: what changes


def test_removing_a_policy_takes_the_resource_and_rejects_access() -> None:
    bench = Bench()
    served, asker = bench.pair()
    for resource in (NET, PRINTER):
        asker.flow(resource)
    client_id = served.heard[0].client.id
    served.heard.clear()
    asker.heard.clear()
    bench.reload(('resource = "Net"\n[[policy]]', 'resource = "Net"\nenabled = false\n[[policy]]'))
    assert served.take(gateway.RejectAccess) == gateway.RejectAccess(client_id=client_id, resource_id=NET)
    assert asker.take(client.ResourceDeleted).resource_id == NET
    assert len(bench.store.committed[1]) == 1
    asker.flow(NET)
    assert asker.take(client.FlowCreationFailed).reason == "not_found"


def test_access_is_not_rejected_while_another_policy_grants_it() -> None:
    bench = Bench(Bench().policy + '\n[[policy]]\ngroup = "Everyone"\nresource = "Net"\nexpires = 2025-06-15T16:06:40Z\n')
    served, asker = bench.pair()
    asker.flow(NET)
    assert served.heard[0].expires_at == UTC // SECOND + WEEK
    served.heard.clear()
    asker.heard.clear()
    bench.reload(('group = "Staff"\nresource = "Net"', 'group = "Staff"\nenabled = false\nresource = "Net"'))
    assert served.take(gateway.AccessAuthorizationExpiryUpdated).expires_at == UTC // SECOND + 3600
    assert asker.heard == []


def test_new_filters_reach_every_gateway_and_the_client() -> None:
    bench = Bench()
    served, asker = bench.pair()
    idle = bench.connect("gateway", "annex-token", device_id="idle")
    idle.join()
    asker.flow(PRINTER)
    holder, other = (served, idle) if served.heard else (idle, served)
    holder.heard.clear()
    asker.heard.clear()
    bench.reload(('"tcp/443", "icmp"', '"udp"'))
    assert [f.protocol for f in holder.take(gateway.ResourceUpdated).resource.filters] == ["udp"]
    assert asker.take(client.ResourceCreatedOrUpdated).resource.id == PRINTER
    assert [f.protocol for f in other.take(gateway.ResourceUpdated).resource.filters] == ["udp"]


def test_another_address_is_another_resource_for_the_gateway() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    asker.heard.clear()
    bench.reload(("10.20.0.0/16", "10.21.0.0/16"))
    assert kinds(served) == ["RejectAccess"]
    assert str(asker.take(client.ResourceCreatedOrUpdated).resource.address) == "10.21.0.0/16"


def test_a_moved_or_renamed_site_deletes_the_resource_first() -> None:
    bench = Bench()
    _served, asker = bench.pair()
    bench.reload(('sites = ["Lab"]', 'sites = ["Annex"]'))
    assert kinds(asker) == ["ResourceDeleted", "ResourceCreatedOrUpdated"]
    site_id = bench.service._book.resources[NET].site_ids[0]
    bench.reload(('name = "Annex"', f'name = "Annex"\nid = "{site_id}"'))
    assert kinds(asker) == []
    bench.policy = bench.policy.replace('"Annex"', '"Attic"')
    bench.reload()
    assert kinds(asker) == ["ResourceDeleted", "ResourceDeleted", "ResourceCreatedOrUpdated", "ResourceCreatedOrUpdated"]


def test_a_revoked_token_closes_its_sockets_and_rejects_its_grants() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    bench.reload(("expires = 2025-06-22T15:06:40Z", "revoked = true"))
    assert asker.closed == 1000
    assert kinds(served) == ["RejectAccess"]
    with pytest.raises(LoginRejected, match="Invalid token"):
        bench.connect("client")


def test_a_disabled_user_is_out_at_once() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    bench.reload(('name = "alice"', 'name = "alice"\nenabled = false'))
    assert asker.closed == 1000
    assert kinds(served) == ["RejectAccess"]
    with pytest.raises(LoginRejected):
        bench.connect("client")


def test_a_token_ends_to_the_second() -> None:
    bench = Bench(Bench().policy.replace("2025-06-22T15:06:40Z", "2025-06-15T15:08:10Z"))
    served, asker = bench.pair()
    for _ in range(3):
        bench.advance(29.9)
        served.say("heartbeat", {}, topic="phoenix")
    assert asker.closed is None
    bench.advance(0.4)
    assert asker.closed == 1000


def test_a_grant_that_has_expired_is_not_listed_to_a_gateway() -> None:
    bench = Bench(Bench().policy.replace('resource = "Net"\n[', 'resource = "Net"\nexpires = 2025-06-15T15:06:50Z\n[', 1))
    served, asker = bench.pair()
    asker.flow(NET)
    assert served.heard[0].expires_at == UTC // SECOND + 10
    served.disconnect()
    again = bench.connect("gateway", key=b"\x02")
    assert len(again.join().authorizations) == 1
    bench.advance(11)
    assert again.join().authorizations == ()
    assert bench.store.committed[1] == {}


def test_a_grant_revoked_while_its_gateway_was_away_is_not_listed() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    asker.flow(PRINTER)
    served.disconnect()
    bench.reload(('resource = "Net"\n[[policy]]', 'resource = "Net"\nenabled = false\n[[policy]]'))
    again = bench.connect("gateway", key=b"\x02")
    assert [grant.resource_id for grant in again.join().authorizations] == [PRINTER]


def test_the_policy_that_changed_while_the_portal_was_down_holds_at_once() -> None:
    bench = Bench()
    _served, asker = bench.pair()
    asker.flow(NET)
    bench.policy = bench.policy.replace('resource = "Net"\n[', 'resource = "Net"\nenabled = false\n[', 1)
    bench.restart()
    assert bench.connect("gateway", key=b"\x02").join().authorizations == ()


def test_hours_that_end_take_the_resource_within_a_minute_and_give_it_back() -> None:
    hours = 'hours = ["U/15:00-15:08/UTC", "U/15:12-16:00/UTC"]'
    bench = Bench(Bench().policy.replace('resource = "Net"\n[', f'resource = "Net"\n{hours}\n[', 1))
    served, asker = bench.pair()
    asker.flow(NET)
    assert served.heard[0].expires_at == UTC // SECOND + 80
    asker.heard.clear()
    bench.advance(145)
    assert asker.take(client.ResourceDeleted).resource_id == NET
    asker.say("heartbeat", {}, topic="phoenix")
    bench.advance(250)
    assert asker.take(client.ResourceCreatedOrUpdated).resource.id == NET


def test_dns_settings_reach_clients_and_the_slug_gateways() -> None:
    bench = Bench()
    served, asker = bench.pair()
    bench.reload(('slug = "lab"', 'slug = "lab"\nupstream_dns = ["192.0.2.53", "2001:db8::53"]\nsearch_domain = "corp.test"'))
    changed = asker.take(client.ConfigChanged)
    assert [str(server.endpoint) for server in changed.interface.upstream_dns] == ["192.0.2.53:53", "[2001:db8::53]:53"]
    assert changed.interface.search_domain == "corp.test"
    assert served.heard == []
    bench.reload(('slug = "lab"', 'slug = "lab2"'))
    assert served.take(gateway.Init).account_slug == "lab2"
    assert asker.heard == []


def test_a_reload_that_changes_nothing_says_nothing() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    kinds(served), kinds(asker)
    bench.reload()
    bench.advance(36)
    assert (served.heard, asker.heard) == ([], [])


def test_a_policy_with_an_address_condition_follows_the_client() -> None:
    bench = Bench(Bench().policy.replace('resource = "Net"\n[', 'resource = "Net"\nremote_ip = ["192.0.2.0/24"]\n[', 1))
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    asker.disconnect()
    moved = bench.connect("client", ip="198.51.100.1")
    assert [resource.id for resource in moved.join().resources] == [PRINTER]
    assert kinds(served) == ["RejectAccess"]
    assert [r.id for r in bench.connect("client", ip="::ffff:192.0.2.9").join().resources] == [NET, PRINTER]


def test_two_devices_with_a_secret_each_never_share_addresses_after_a_restart() -> None:
    store = MemoryStore()
    first = Bench(store=store).connect("client", device_id="one").join()
    second = Bench(store=store).connect("client", device_id="two").join()
    assert first.interface.ipv4 != second.interface.ipv4


def test_the_public_key_of_the_present_connection_counts() -> None:
    bench = Bench()
    bench.connect("gateway", key=b"\x02").disconnect()
    served = bench.connect("gateway", key=b"\x05")
    served.join()
    asker = bench.connect("client")
    asker.join()
    asker.flow(ResourceId(NET))
    assert asker.heard[0].gateway_public_key == PublicKey(b"\x05" * 32)
