"""The portal against devices that behave as the original's: sections 9 and 10.2 of the portal protocol."""

from __future__ import annotations

import json

import pytest

from firezone.base.timing import SECOND
from firezone.proto.portal.login import LoginRejected, Upgrade
from firezone.wire.phoenix import encode_frame
from firezone.wire.portal import client, gateway

from .bench import NET, PRINTER, UTC, WEEK, Bench, kinds

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
