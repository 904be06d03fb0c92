"""The second version of the protocol at the portal: its path, names, rejections, tokens, and both versions side by side."""

from __future__ import annotations

import json

import pytest

from firezone.proto.portal.login import LoginRejected, Upgrade
from firezone.wire.portal import client, gateway
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2 import gateway as gateway2
from firezone.wire.portal.v2.shared import read_ingest_token
from tests.unit.proto.portal.bench import NEWEST, Bench, ScriptedDevice
from tests.unit.proto.portal.kinds import EVERYTHING, KINDS, NET, WIKI


def refused(bench: Bench, upgrade: Upgrade) -> LoginRejected:
    with pytest.raises(LoginRejected) as caught:
        bench.service.check_login(upgrade, bench.utc)
    return caught.value


def pair(bench: Bench, asker: int, served: int) -> tuple[ScriptedDevice, ScriptedDevice]:
    gateway_device = bench.connect("gateway", key=b"\x02", protocol=served)
    client_device = bench.connect("client", protocol=asker)
    gateway_device.join()
    client_device.join()
    return gateway_device, client_device


@pytest.mark.parametrize("asker", [1, 2])
@pytest.mark.parametrize("served", [1, 2])
def test_a_flow_between_any_two_versions_and_each_hears_its_own_names_only(asker: int, served: int) -> None:
    bench = Bench(KINDS)
    gateway_device, client_device = pair(bench, asker, served)
    client_device.flow(NET)
    order = gateway_device.take(gateway2.CreateAuthorization if served == 2 else gateway.AuthorizeFlow)
    created, lines = client_device.heard
    assert type(created) is (client2.AuthorizationCreated if asker == 2 else client.FlowCreated)
    assert isinstance(lines, client.IceCandidates)
    assert order.client.preshared_key == created.preshared_key
    client_device.heard.clear()
    event = "broadcast_ice_candidates" if asker == 1 else "new_gateway_ice_candidates"
    whom = {"gateway_ids": [created.gateway_id]} if asker == 1 else {"gateway_id": created.gateway_id}
    client_device.say(event, {**whom, "candidates": ["candidate:c"]})
    assert gateway_device.take(gateway.IceCandidates).candidates == ("candidate:c",)
    client_device.say(event.replace("broadcast_ice", "broadcast_invalidated_ice").replace("new_", "invalidate_"),
                      {**whom, "candidates": ["candidate:c"]})  # fmt: skip
    assert gateway_device.take(gateway.InvalidateIceCandidates).candidates == ("candidate:c",)


@pytest.mark.parametrize(
    ("role", "protocol", "event", "payload"),
    [
        ("client", 1, "request_authorization", {"resource_id": NET, "connected_gateway_ids": []}),
        ("client", 2, "create_flow", {"resource_id": NET, "connected_gateway_ids": []}),
        ("client", 1, "new_gateway_ice_candidates", {"gateway_id": NET, "candidates": []}),
        ("gateway", 1, "authorization_created", {"ref": "x"}),
        ("gateway", 2, "flow_authorized", {"ref": "x"}),
    ],
)
def test_the_other_version_s_name_is_an_unknown_message(role: str, protocol: int, event: str, payload: object) -> None:
    device = Bench(KINDS).connect(role, protocol=protocol)
    device.join()
    reply = device.say(event, payload)
    assert reply is not None
    assert reply["payload"] == {"status": "error", "response": {"reason": "unknown_message"}}


def test_the_newest_init_has_what_the_newest_devices_insist_on() -> None:
    bench = Bench(
        KINDS.replace('slug = "lab"', 'slug = "lab"\nupstream_dns = ["10.0.0.53"]\nupstream_doh = ["https://dns.test/q"]')
    )
    served, asker = bench.connect("gateway", key=b"\x02", protocol=2), bench.connect("client", protocol=2)
    init = asker.join()
    assert (init.flow_logs.upload_interval_secs, init.authorizations) == (0, ())
    assert served.join().flow_logs == init.flow_logs
    assert [server.ip for server in init.interface.upstream_do53] == ["10.0.0.53"]
    assert [server.url for server in init.interface.upstream_doh] == ["https://dns.test/q"]
    assert [server.address for server in init.interface.upstream_dns] == ["10.0.0.53:53"]


def test_servers_at_other_ports_are_told_in_the_older_list_alone() -> None:
    bench = Bench(KINDS.replace('slug = "lab"', 'slug = "lab"\nupstream_dns = ["10.0.0.53", "10.0.0.54:5353"]'))
    init = bench.connect("client", protocol=2).join()
    assert init.interface.upstream_do53 == ()
    assert [server.address for server in init.interface.plain_servers] == ["10.0.0.53:53", "10.0.0.54:5353"]


def test_ingest_tokens_name_the_flow_and_forbid_uploads() -> None:
    bench = Bench(KINDS)
    served, asker = bench.newest_pair()
    asker.flow(NET)
    responder = read_ingest_token(served.heard[0].flow_logs_ingest_token)
    initiator = read_ingest_token(asker.heard[0].flow_logs_ingest_token)
    assert (initiator.role, responder.role) == ("initiator", "responder")
    assert not initiator.uploads_enabled
    assert (initiator.resource_id, initiator.resource_address, initiator.resource_name) == (NET, "10.20.0.0/16", "Net")
    assert initiator.policy_id == "11111111-1111-4111-8111-111111111111"
    assert initiator.exp == served.heard[0].expires_at + 30 * 86400
    assert (initiator.initiator_actor_name, initiator.authorization_expires_at) == ("alice", "2025-06-22T15:06:40Z")
    assert initiator.policy_authorization_id == responder.policy_authorization_id


def test_capabilities_are_heard_in_silence_and_iceless_is_never_ordered() -> None:
    bench = Bench(KINDS)
    served, asker = bench.newest_pair()
    for device in (served, asker):
        assert device.say("set_snownet_capabilities", {"iceless": True, "more": 1}) is None
    asker.flow(NET)
    assert not served.heard[0].use_iceless
    assert not asker.heard[0].use_iceless


def test_names_of_pools_are_not_known_here() -> None:
    _, asker = Bench(KINDS).newest_pair()
    asker.say("resolve_device_pool_domain", {"resource_id": NET, "domain": "a.test"})
    assert asker.take(client2.DevicePoolDomainResolutionFailed).domain == "a.test"


def test_gateways_outside_the_window_are_a_version_mismatch_and_offline_to_the_baseline() -> None:
    for protocol, reason in ((1, "offline"), (2, "version_mismatch")):
        bench = Bench(KINDS)
        bench.connect("gateway", key=b"\x02", protocol=2, agent="Debian/12 gateway/1.9.0").join()
        asker = bench.connect("client", protocol=protocol)
        asker.join()
        asker.flow(NET)
        assert asker.take(client.FlowCreationFailed).reason == reason


def test_a_gateway_that_names_no_version_is_let_in_and_never_chosen() -> None:
    bench = Bench(KINDS)
    bench.connect("gateway", key=b"\x02", protocol=2, agent="curl").join()
    asker = bench.connect("client", protocol=2)
    asker.join()
    asker.flow(NET)
    assert asker.take(client.FlowCreationFailed).reason == "version_mismatch"


def test_a_gateway_that_does_not_answer_is_offline_after_15_s_and_a_late_answer_is_refused() -> None:
    bench = Bench(KINDS)
    served, asker = bench.newest_pair()
    served.answers_flows = False
    asker.flow(NET)
    order = served.take(gateway2.CreateAuthorization)
    bench.advance(14.9)
    assert asker.heard == []
    bench.advance(0.2)
    failed = asker.take(client2.AuthorizationCreationFailed)
    assert (failed.resource_id, failed.reason) == (NET, "offline")
    reply = served.say("authorization_created", {"ref": order.ref})
    assert reply is not None
    assert reply["payload"]["response"] == {"reason": "invalid_ref"}


def test_a_gateway_that_had_no_relay_is_told_again_when_it_has_one() -> None:
    bench = Bench(KINDS)
    served, asker = bench.newest_pair()
    served.answers_flows = False
    asker.flow(NET)
    order = served.take(gateway2.CreateAuthorization)
    served.say("no_relays", {})
    assert type(served.heard.pop()).__name__ == "RelaysPresence"
    bench.advance(0.9)
    assert served.heard == []
    served.answers_flows = True
    bench.advance(0.2)
    assert served.take(gateway2.CreateAuthorization).ref == order.ref
    assert isinstance(asker.heard[0], client2.AuthorizationCreated)


# Rejections


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"authorization": ""}, 401, "missing_token"),
        ({"authorization": "Bearer wrong"}, 401, "invalid_token"),
        ({"authorization": "Bearer gateway-token"}, 401, "invalid_token"),
        ({"user_agent": "curl"}, 400, "invalid_connect_params"),
        ({"parameters": {"external_id": "x", "public_key": "x"}}, 400, "invalid_connect_params"),
        ({"parameters": {}}, 400, "invalid_connect_params"),
    ],
)
def test_a_rejection_is_a_problem_with_a_code(change: dict[str, object], status: int, code: str) -> None:
    bench = Bench(KINDS)
    good = bench.upgrade("client", "client-token", protocol=2)
    given = {"path": good.path, "parameters": good.parameters, "user_agent": good.user_agent, "remote_ip": good.remote_ip,
             "authorization": good.authorization} | change  # fmt: skip
    error = refused(bench, Upgrade(**given))  # type: ignore[arg-type]
    assert error.content_type == "application/problem+json"
    problem = json.loads(error.body)
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, "about:blank")
    assert problem["title"] in ("Unauthorized", "Bad Request")
    assert problem["detail"]


def test_the_example_of_the_protocol_comes_out_word_for_word() -> None:
    bench = Bench(KINDS)
    error = refused(bench, bench.upgrade("client", "wrong", protocol=2))
    assert json.loads(error.body) == {
        "type": "about:blank", "title": "Unauthorized", "status": 401, "detail": "Invalid token", "code": "invalid_token",
    }  # fmt: skip


def test_version_1_is_refused_in_plain_text() -> None:
    bench = Bench(KINDS)
    error = refused(bench, bench.upgrade("client", "wrong"))
    assert (error.status, error.content_type, error.body) == (401, "text/plain; charset=utf-8", b"Invalid token")


def test_the_relay_has_one_version_and_there_is_no_third() -> None:
    bench = Bench(KINDS)
    for path in ("/relay/v2/websocket", "/client/v3/websocket", "/client/v1/websocket"):
        assert refused(bench, Upgrade(path, {}, NEWEST["client"], "192.0.2.1")).status == 404


def test_a_second_gateway_is_a_conflict_and_the_first_keeps_working() -> None:
    bench = Bench(KINDS)
    served, asker = bench.newest_pair()
    error = refused(bench, bench.upgrade("gateway", "gateway-token", key=b"\x09", protocol=2, ip="192.0.2.7"))
    assert (error.status, error.code) == (409, "gateway_already_connected")
    asker.flow(NET)
    served.take(gateway2.CreateAuthorization)


def test_a_second_client_ends_the_first_for_good() -> None:
    bench = Bench(KINDS)
    _, asker = bench.newest_pair()
    bench.advance(2)
    newer = bench.connect("client", key=b"\x05", protocol=2)
    assert asker.is_told_to_stop
    assert asker.closed is not None
    newer.join()


def test_logins_with_one_token_from_one_address_are_a_second_apart() -> None:
    bench = Bench(KINDS)
    upgrade = bench.upgrade("client", "client-token", protocol=2)
    bench.service.check_login(upgrade, bench.utc)
    bench.advance(0.5)
    error = refused(bench, upgrade)
    assert (error.status, error.code, error.retry_after_s) == (503, "rate_limit", 1)
    bench.service.check_login(bench.upgrade("client", "client-token", protocol=2, ip="192.0.2.77"), bench.utc)
    bench.service.check_login(bench.upgrade("client", "bob-token", protocol=2), bench.utc)
    bench.service.check_login(bench.upgrade("client", "client-token"), bench.utc)
    bench.advance(0.5)
    bench.service.check_login(upgrade, bench.utc)


def test_wrong_tokens_are_slowed_too_and_remembered_in_bounds() -> None:
    bench = Bench(KINDS)
    wrong = bench.upgrade("client", "wrong", protocol=2)
    assert [refused(bench, wrong).status for _ in range(3)] == [401, 503, 503]
    for number in range(5000):
        refused(bench, bench.upgrade("client", f"wrong-{number}", protocol=2))
    assert len(bench.service._rate._last) <= 4096


def test_a_token_that_ends_ends_the_session_for_good() -> None:
    bench = Bench(KINDS)
    _, asker = bench.newest_pair()
    bench.reload(("expires = 2025-06-22T15:06:40Z", "revoked = true"))
    assert asker.is_told_to_stop
    assert asker.closed is not None
    baseline = Bench(KINDS)
    _, older = baseline.pair()
    baseline.reload(("expires = 2025-06-22T15:06:40Z", "revoked = true"))
    assert older.closed is not None
    assert not older.is_told_to_stop


# What a client sees


@pytest.mark.parametrize(
    ("agent", "protocol", "seen"),
    [
        ("Debian/12 headless-client/1.5.12", 2, {"Net", "Wiki", "Everything"}),
        ("Ubuntu/24 connlib/1.5.4", 1, {"Net", "Wiki", "Everything"}),
        ("Ubuntu/24 connlib/1.3.0", 1, {"Net", "Wiki", "Everything"}),
        ("Ubuntu/24 connlib/1.2.9", 1, {"Net", "Wiki"}),
        ("Ubuntu/24 connlib/1.1.0", 1, {"Net", "Wiki"}),
    ],
)
def test_a_client_sees_what_its_version_understands(agent: str, protocol: int, seen: set[str]) -> None:
    init = Bench(KINDS).connect("client", agent=agent, protocol=protocol).join()
    assert {resource.name for resource in init.resources} == seen
    wiki = next(resource for resource in init.resources if resource.id == WIKI)
    assert wiki.ip_stack == "ipv4_only"
    assert wiki.address == ("?.wiki.example.com" if "1.1.0" in agent else "*.wiki.example.com")


def test_a_pattern_that_an_old_client_cannot_read_is_hidden_and_comes_when_it_can() -> None:
    bench = Bench(KINDS.replace('"*.Wiki.example.com"', '"wiki-*.example.com"'))
    asker = bench.connect("client", agent="Ubuntu/24 connlib/1.1.0")
    assert WIKI not in {resource.id for resource in asker.join().resources}
    bench.reload(('"wiki-*.example.com"', '"**.wiki.example.com"'))
    assert asker.take(client.ResourceCreatedOrUpdated).resource.address == "*.wiki.example.com"
    bench.reload(('"**.wiki.example.com"', '"wiki-*.example.com"'))
    assert asker.take(client.ResourceDeleted).resource_id == WIKI


def test_the_internet_resource_is_served_by_gateways_that_know_it() -> None:
    bench = Bench(KINDS)
    bench.connect("gateway", "annex-token", key=b"\x02", agent="Debian/12 connlib/1.2.5").join()
    asker = bench.connect("client", agent="Debian/12 connlib/1.3.1")
    asker.join()
    asker.flow(EVERYTHING)
    assert asker.take(client.FlowCreationFailed).reason == "offline"
    newer = bench.connect("gateway", "annex-token", key=b"\x03", device_id="newer", agent="Debian/12 connlib/1.3.0")
    newer.join()
    asker.flow(EVERYTHING)
    assert isinstance(newer.take(gateway.AuthorizeFlow).resource, gateway.InternetResource)


@pytest.mark.parametrize(("resource_id", "kind"), [(WIKI, gateway.DnsResource), (NET, gateway.CidrResource)])
def test_every_kind_is_ordered_from_the_gateway(resource_id: str, kind: type) -> None:
    bench = Bench(KINDS)
    served, asker = bench.newest_pair()
    asker.flow(resource_id)
    assert type(served.take(gateway2.CreateAuthorization).resource) is kind


def test_a_resource_of_two_sites_is_served_by_either() -> None:
    bench = Bench(KINDS)
    annex = bench.connect("gateway", "annex-token", key=b"\x02", protocol=2)
    annex.join()
    asker = bench.connect("client", protocol=2)
    assert [len(resource.sites) for resource in asker.join().resources] == [1, 2, 1]
    asker.flow(WIKI)
    annex.take(gateway2.CreateAuthorization)
    assert asker.heard[0].site_id != next(site.id for site in bench.service._book.sites.values() if site.name == "Lab")


# Devices


def test_a_device_that_is_removed_comes_again_as_another() -> None:
    bench = Bench(KINDS)
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    (view,) = (view for view in bench.service.devices() if view.device.role.value == "client")
    assert (view.owner, view.is_online) == ("alice", True)
    bench.service.handle_device_removed(view.device.id, bench.now, bench.utc)
    bench.deliver()
    assert asker.is_channel_closed
    assert asker.closed is not None
    assert served.take(gateway.RejectAccess).resource_id == NET
    bench.connect("client").join()
    assert view.device.id not in bench.store.committed[0]
    assert len(bench.store.committed[0]) == 2


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_device_that_is_disabled_is_out_until_it_is_enabled(protocol: int) -> None:
    bench = Bench(KINDS)
    served, asker = pair(bench, protocol, protocol)
    asker.flow(NET)
    served.heard.clear()
    (view,) = (view for view in bench.service.devices() if view.device.role.value == "client")
    bench.service.handle_device_disabled(view.device.id, True, bench.now, bench.utc)
    bench.deliver()
    assert asker.closed is not None
    served.take(gateway.RejectAccess)
    bench.advance(2)
    error = refused(bench, bench.upgrade("client", "client-token", protocol=protocol))
    assert (error.status, error.code) == (403, "device_untrusted")
    bench.restart()
    assert refused(bench, bench.upgrade("client", "client-token", protocol=protocol, ip="192.0.2.6")).status == 403
    bench.service.handle_device_disabled(view.device.id, False, bench.now, bench.utc)
    bench.advance(2)
    bench.connect("client", protocol=protocol).join()


def test_clients_of_a_gateway_that_is_removed_ask_again_and_find_another() -> None:
    bench = Bench(KINDS)
    _, asker = bench.pair()
    asker.flow(NET)
    asker.heard.clear()
    (view,) = (view for view in bench.service.devices() if view.device.role.value == "gateway")
    bench.service.handle_device_removed(view.device.id, bench.now, bench.utc)
    bench.deliver()
    assert [type(message) for message in asker.heard] == [client.ResourceDeleted, client.ResourceCreatedOrUpdated]
    asker.heard.clear()
    again = bench.connect("gateway", key=b"\x04")
    again.join()
    asker.flow(NET)
    again.take(gateway.AuthorizeFlow)


def test_a_device_that_is_not_known_is_a_key_error() -> None:
    bench = Bench(KINDS)
    for act in (bench.service.handle_device_removed, lambda *more: bench.service.handle_device_disabled(more[0], True, *more[1:])):
        with pytest.raises(KeyError):
            act("nobody", bench.now, bench.utc)
