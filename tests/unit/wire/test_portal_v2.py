"""Version 2 of the messages: every member of portal-protocol 11.4 and 11.5, the names of each path, ingest tokens."""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
from typing import Any

import pytest

from firezone.base.errors import WireError
from firezone.base.secret import SecretText
from firezone.wire.portal import client as client1
from firezone.wire.portal import gateway as gateway1
from firezone.wire.portal.shared import Vocabulary
from firezone.wire.portal.v2 import client, gateway
from firezone.wire.portal.v2.shared import SnownetCapabilities, read_ingest_token

CLAIMS: dict[str, Any] = {
    "account_id": "a", "iat": 1, "exp": 2, "uploads_enabled": False, "role": "initiator", "initiator_device_id": "c",
    "responder_device_id": "g", "policy_authorization_id": "p", "policy_id": "q", "resource_id": "r", "resource_name": "n",
    "initiator_actor_id": "u", "initiator_actor_name": "me", "authorized_at": "2026-01-01T00:00:00Z",
    "authorization_expires_at": "2026-01-02T00:00:00Z",
}  # fmt: skip
RESOURCE = "a4c5d6e7-f809-4a1b-8c2d-3e4f50617244"
PEER = "0b7f1d52-5f0e-4c77-9d0a-3a9c8e5f1a01"
GATEWAY = "d2c4e6a8-1b3d-4f5a-8c7e-9f0a1b2c3d04"
SITE = "6f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f5"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
LINES = {"candidates": ["candidate:x"]}
CREDENTIALS = {"username": "cip5", "password": "poeo4p3rpgtzk6khutnzjv"}


def jwt(claims: dict[str, Any] | None = None, header: dict[str, Any] | None = None, signature: str | None = None) -> str:
    parts = [json.dumps(part).encode() for part in (header or {"alg": "HS256", "typ": "JWT"}, claims or CLAIMS)]
    text = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(b"key", text.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return f"{text}.{mac if signature is None else signature}"


FLOW_LOGS = {"api_url": "https://flow-api.firezone.dev/", "upload_interval_secs": 60, "upload_batch_size": 1000}
INTERFACE = {
    "ipv4": "100.67.12.9", "ipv6": "fd00:2021:1111::7:3a10", "upstream_dns": [{"protocol": "ip_port", "address": "10.9.0.53:53"}],
    "upstream_do53": [{"ip": "10.9.0.53"}], "upstream_doh": [{"url": "https://dns.quad9.net/dns-query"}], "search_domain": None,
}  # fmt: skip
STATIC_POOL: dict[str, Any] = {"type": "static_device_pool", "id": RESOURCE, "name": "Build hosts", "filters": [],
               "devices": [{"client_id": PEER, "ipv4": "100.70.1.2/32", "ipv6": "fd00:2021:1111::3:1/128"}]}  # fmt: skip
DYNAMIC_POOL: dict[str, Any] = {
    "type": "dynamic_device_pool",
    "id": RESOURCE,
    "name": "Laptops",
    "address": "*.laptops.corp.test",
    "filters": [],
}
DNS: dict[str, Any] = {"type": "dns", "id": RESOURCE, "name": "Wiki", "address": "*.wiki.test", "ip_stack": "ipv4_only",
                       "filters": [], "address_description": None, "sites": [{"id": SITE, "name": "Frankfurt"}]}  # fmt: skip
ACCESS = {
    "client_id": PEER, "client_name": "laptop-7", "client_public_key": KEY, "client_ipv4": "100.67.12.9",
    "client_ipv6": "fd00:2021:1111::7:3a10", "preshared_key": KEY, "local_ice_credentials": CREDENTIALS,
    "remote_ice_credentials": CREDENTIALS, "ice_role": "controlled", "use_iceless": False,
    "resource": {"id": RESOURCE, "filters": [{"protocol": "tcp", "port_range_start": 22, "port_range_end": 22}]},
    "expires_at": 1900000000, "flow_logs_ingest_token": jwt(),
}  # fmt: skip
CREATED = {
    "resource_id": RESOURCE, "gateway_id": GATEWAY, "site_id": SITE, "gateway_public_key": KEY, "gateway_ipv4": "100.80.3.4",
    "gateway_ipv6": "fd00:2021:1111::10:21", "preshared_key": KEY, "client_ice_credentials": CREDENTIALS,
    "gateway_ice_credentials": CREDENTIALS, "use_iceless": True, "flow_logs_ingest_token": jwt(),
}  # fmt: skip
CREATE = {
    "ref": "authz-000031", "resource": {"type": "internet", "id": RESOURCE},
    "client": {"id": PEER, "public_key": KEY, "preshared_key": KEY, "ipv4": "100.67.12.9", "ipv6": "fd00:2021:1111::7:3a10"},
    "client_ice_credentials": CREDENTIALS, "gateway_ice_credentials": CREDENTIALS, "expires_at": None, "use_iceless": False,
    "flow_logs_ingest_token": jwt(CLAIMS | {"role": "responder"}),
}  # fmt: skip
GATEWAY_INIT = {
    "account_slug": "acme", "interface": {"ipv4": "100.80.3.4", "ipv6": "fd00:2021:1111::10:21"}, "flow_logs": FLOW_LOGS,
    "config": {"ipv4_masquerade_enabled": True, "ipv6_masquerade_enabled": True}, "relays": [],
    "authorizations": [{"client_id": PEER, "resource_id": RESOURCE, "expires_at": 1900000000}],
}  # fmt: skip

TO_CLIENT: list[tuple[str, Any]] = [
    ("init", {"interface": INTERFACE, "resources": [STATIC_POOL, DYNAMIC_POOL, DNS], "relays": [], "flow_logs": FLOW_LOGS,
              "authorizations": [{"client_id": PEER, "resource_id": RESOURCE, "expires_at": 1900000000}]}),
    ("config_changed", {"interface": INTERFACE}),
    ("resource_created_or_updated", STATIC_POOL), ("resource_created_or_updated", DNS), ("resource_deleted", RESOURCE),
    ("relays_presence", {"disconnected_ids": [PEER], "connected": []}),
    ("authorization_created", CREATED),
    ("authorization_creation_failed", {"resource_id": RESOURCE, "reason": "version_mismatch", "violated_properties": []}),
    ("ice_candidates", {"gateway_id": GATEWAY, **LINES}), ("invalidate_ice_candidates", {"gateway_id": GATEWAY, **LINES}),
    ("client_ice_candidates", {"client_id": PEER, **LINES}), ("invalidate_client_ice_candidates", {"client_id": PEER, **LINES}),
    ("client_ice_candidate_error", {"client_id": PEER, "reason": "offline"}),
    ("client_device_access_authorized", ACCESS),
    ("client_device_access_denied", {"ipv4": "100.70.1.2", "ipv6": None, "reason": "offline"}),
    ("device_pool_domain_resolved", {"resource_id": RESOURCE, "domain": "a.test", "ipv4": "100.70.1.2", "ipv6": "fd00::1"}),
    ("device_pool_domain_resolution_failed", {"resource_id": RESOURCE, "domain": "a.test", "reason": "not_found"}),
    ("resource_filters_updated", {"id": RESOURCE, "filters": [{"protocol": "icmp"}]}),
    ("reject_access", {"client_id": PEER, "resource_id": RESOURCE}),
    ("access_authorization_expiry_updated", {"client_id": PEER, "resource_id": RESOURCE, "expires_at": 5}),
]  # fmt: skip
FROM_CLIENT: list[tuple[str, Any]] = [
    ("request_authorization", {"resource_id": RESOURCE, "connected_gateway_ids": [GATEWAY]}),
    ("request_authorization", {"resource_id": RESOURCE, "connected_gateway_ids": [], "ipv4": "100.70.1.2"}),
    ("new_gateway_ice_candidates", {"gateway_id": GATEWAY, **LINES}),
    ("invalidate_gateway_ice_candidates", {"gateway_id": GATEWAY, **LINES}),
    ("new_client_ice_candidates", {"client_id": PEER, **LINES}),
    ("invalidate_client_ice_candidates", {"client_id": PEER, **LINES}),
    ("broadcast_ice_candidates", {"gateway_ids": [GATEWAY], **LINES}),
    ("broadcast_invalidated_ice_candidates", {"gateway_ids": [GATEWAY], **LINES}),
    ("resolve_device_pool_domain", {"resource_id": RESOURCE, "domain": "a.laptops.corp.test"}),
    ("no_relays", {}), ("set_snownet_capabilities", {"iceless": True}),
]  # fmt: skip
TO_GATEWAY: list[tuple[str, Any]] = [
    ("init", GATEWAY_INIT), ("create_authorization", CREATE), ("reject_access", {"client_id": PEER, "resource_id": RESOURCE}),
    ("access_authorization_expiry_updated", {"client_id": PEER, "resource_id": RESOURCE, "expires_at": 5}),
    ("resource_updated", {"type": "cidr", "id": RESOURCE, "name": "n", "address": "10.0.0.0/8", "filters": []}),
    ("ice_candidates", {"client_id": PEER, **LINES}), ("invalidate_ice_candidates", {"client_id": PEER, **LINES}),
    ("relays_presence", {"disconnected_ids": [], "connected": []}),
]  # fmt: skip
FROM_GATEWAY: list[tuple[str, Any]] = [
    ("authorization_created", {"ref": "authz-000031"}), ("no_relays", {}), ("set_snownet_capabilities", {"iceless": True}),
    ("broadcast_ice_candidates", {"client_ids": [PEER], **LINES}),
    ("broadcast_invalidated_ice_candidates", {"client_ids": [PEER], **LINES}),
]  # fmt: skip
ALL = [
    *((client.FROM_PORTAL, *frame) for frame in TO_CLIENT), *((client.TO_PORTAL, *frame) for frame in FROM_CLIENT),
    *((gateway.FROM_PORTAL, *frame) for frame in TO_GATEWAY), *((gateway.TO_PORTAL, *frame) for frame in FROM_GATEWAY),
]  # fmt: skip


def decode(words: Vocabulary, event: str, payload: Any) -> Any:
    return words.decode(event, json.dumps(payload).encode())


def with_more(value: Any) -> Any:
    """Adds a member nobody knows to every object."""
    if isinstance(value, dict):
        return {**{key: with_more(item) for key, item in value.items()}, "no_such_member": {"a": [1, None]}}
    return [with_more(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("words", "event", "payload"), ALL, ids=lambda value: value if isinstance(value, str) else "")
def test_every_message_decodes_and_encodes_to_the_same_json(words: Vocabulary, event: str, payload: Any) -> None:
    message = decode(words, event, payload)
    assert words.encode(message)[0] == event
    assert json.loads(words.encode(message)[1]) == payload
    assert decode(words, event, with_more(payload)) == message


def test_every_event_of_both_roles_has_a_fixture() -> None:
    for words, frames in (
        (client.FROM_PORTAL, TO_CLIENT), (client.TO_PORTAL, FROM_CLIENT), (gateway.FROM_PORTAL, TO_GATEWAY),
        (gateway.TO_PORTAL, FROM_GATEWAY),
    ):  # fmt: skip
        assert {event for event, _ in frames} == set(words.names.values())


@pytest.mark.parametrize(
    ("words", "event", "payload", "key"),
    [
        (client.FROM_PORTAL, "init", TO_CLIENT[0][1], "flow_logs"),
        (gateway.FROM_PORTAL, "init", GATEWAY_INIT, "flow_logs"),
        (client.FROM_PORTAL, "authorization_created", CREATED, "flow_logs_ingest_token"),
        (client.FROM_PORTAL, "client_device_access_authorized", ACCESS, "flow_logs_ingest_token"),
        (gateway.FROM_PORTAL, "create_authorization", CREATE, "flow_logs_ingest_token"),
        (gateway.FROM_PORTAL, "create_authorization", CREATE, "expires_at"),
    ],
)
def test_what_the_newest_devices_insist_on(words: Vocabulary, event: str, payload: dict[str, Any], key: str) -> None:
    missing = copy.deepcopy(payload)
    del missing[key]
    with pytest.raises(WireError):
        decode(words, event, missing)


@pytest.mark.parametrize("name", ["use_iceless"])
def test_what_has_a_default(name: str) -> None:
    for words, event, payload in (
        (client.FROM_PORTAL, "authorization_created", CREATED), (gateway.FROM_PORTAL, "create_authorization", CREATE),
        (client.FROM_PORTAL, "client_device_access_authorized", ACCESS),
    ):  # fmt: skip
        assert decode(words, event, {key: item for key, item in payload.items() if key != name}).use_iceless is False


def test_each_path_has_its_own_names() -> None:
    for words, foreign in (
        (client.TO_PORTAL, "create_flow"), (client.FROM_PORTAL, "flow_created"), (client.FROM_PORTAL, "flow_creation_failed"),
        (gateway.FROM_PORTAL, "authorize_flow"), (gateway.TO_PORTAL, "flow_authorized"),
        (client1.TO_PORTAL, "request_authorization"), (gateway1.TO_PORTAL, "authorization_created"),
    ):  # fmt: skip
        assert foreign not in words.accepted


def test_whoever_handles_a_message_of_version_1_handles_its_successor() -> None:
    assert isinstance(decode(client.FROM_PORTAL, "authorization_created", CREATED), client1.FlowCreated)
    assert isinstance(decode(gateway.FROM_PORTAL, "create_authorization", CREATE), gateway1.AuthorizeFlow)
    assert isinstance(decode(client.TO_PORTAL, *FROM_CLIENT[0]), client1.CreateFlow)
    assert client.TO_PORTAL.encode(client1.CreateFlow(resource_id=RESOURCE, connected_gateway_ids=())) == (  # type: ignore[arg-type]
        "request_authorization", b'{"resource_id":"' + RESOURCE.encode() + b'","connected_gateway_ids":[]}',
    )  # fmt: skip
    assert gateway.TO_PORTAL.encode(gateway1.FlowAuthorized(ref="r")) == ("authorization_created", b'{"ref":"r"}')


def test_both_spellings_of_both_renamed_members_are_read() -> None:
    older = {("gateway_group_id" if key == "site_id" else key): item for key, item in CREATED.items()}
    assert decode(client.FROM_PORTAL, "authorization_created", older) == decode(
        client.FROM_PORTAL, "authorization_created", CREATED
    )
    old_dns = {("gateway_groups" if key == "sites" else key): item for key, item in DNS.items()}
    event = "resource_created_or_updated"
    assert decode(client.FROM_PORTAL, event, old_dns) == decode(client.FROM_PORTAL, event, DNS)


def test_a_pool_device_may_call_its_client_id() -> None:
    pool = copy.deepcopy(STATIC_POOL)
    device = pool["devices"][0]
    device["id"] = device.pop("client_id")
    event = "resource_created_or_updated"
    assert decode(client.FROM_PORTAL, event, pool) == decode(client.FROM_PORTAL, event, STATIC_POOL)


def test_addresses_of_a_pool_name_may_have_a_prefix() -> None:
    event, payload = "device_pool_domain_resolved", dict(TO_CLIENT[15][1])
    bare = decode(client.FROM_PORTAL, event, payload)
    assert decode(client.FROM_PORTAL, event, payload | {"ipv4": "100.70.1.2/32", "ipv6": "fd00::1/128"}) == bare
    with pytest.raises(WireError):
        decode(client.FROM_PORTAL, event, payload | {"ipv4": "100.70.1.2/31"})


def test_a_resource_that_is_not_understood_is_left_out_and_one_without_a_type_spoils_the_message() -> None:
    payload = copy.deepcopy(TO_CLIENT[0][1])
    payload["resources"] += [{"type": "teleport", "id": RESOURCE}, {"type": "static_device_pool", "id": RESOURCE, "devices": 5}]
    assert len(decode(client.FROM_PORTAL, "init", payload).resources) == 3
    payload["resources"].append({"id": RESOURCE})
    with pytest.raises(WireError):
        decode(client.FROM_PORTAL, "init", payload)


def test_older_upstream_servers_count_only_without_newer_ones() -> None:
    interface = decode(client.FROM_PORTAL, "config_changed", {"interface": INTERFACE}).interface
    assert [server.address for server in interface.plain_servers] == ["10.9.0.53:53"]
    older = {"interface": INTERFACE | {"upstream_do53": [], "upstream_dns": [{"protocol": "ip_port", "address": "1.1.1.1:53"}]}}
    assert [server.address for server in decode(client.FROM_PORTAL, "config_changed", older).interface.plain_servers] == [
        "1.1.1.1:53"
    ]
    newer = {"interface": INTERFACE | {"upstream_do53": [{"ip": "fd00::53"}]}}
    assert [server.address for server in decode(client.FROM_PORTAL, "config_changed", newer).interface.plain_servers] == [
        "[fd00::53]:53"
    ]


def test_capabilities_that_are_not_named_are_not_there() -> None:
    assert decode(client.TO_PORTAL, "set_snownet_capabilities", {"teleport": True}) == SnownetCapabilities(iceless=False)


def test_an_ingest_token_that_is_well_formed_is_read() -> None:
    claims = read_ingest_token(SecretText(jwt(CLAIMS | {"resource_address": "10.0.0.0/8", "more": [1]})))
    assert (claims.role, claims.resource_address, claims.uploads_enabled) == ("initiator", "10.0.0.0/8", False)


@pytest.mark.parametrize("claim", sorted(CLAIMS))
def test_every_claim_is_required_and_typed(claim: str) -> None:
    for broken in ({key: item for key, item in CLAIMS.items() if key != claim}, CLAIMS | {claim: None}, CLAIMS | {claim: [1]}):
        with pytest.raises(ValueError, match="ingest token"):
            read_ingest_token(SecretText(jwt(broken)))


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "..", "a.b.c.d", jwt(header={"alg": "none"}), jwt(header={"typ": "JWT"}), jwt(signature=""),
     jwt(signature="!"), jwt(CLAIMS | {"role": "bystander"}), "é.é.é", jwt().replace(".", "=.", 1)],
)  # fmt: skip
def test_a_malformed_ingest_token_drops_the_authorisation(token: str) -> None:
    with pytest.raises(WireError):
        decode(client.FROM_PORTAL, "authorization_created", CREATED | {"flow_logs_ingest_token": token})
    with pytest.raises(WireError):
        decode(gateway.FROM_PORTAL, "create_authorization", CREATE | {"flow_logs_ingest_token": token})


def test_no_repr_shows_an_ingest_token() -> None:
    messages = (
        decode(client.FROM_PORTAL, "authorization_created", CREATED),
        decode(gateway.FROM_PORTAL, "create_authorization", CREATE),
        decode(gateway.TO_PORTAL, "authorization_created", {"ref": "authz-000031"}),
    )
    shown = "".join(map(repr, messages))
    assert jwt().split(".")[2] not in shown
    assert "authz-000031" not in shown
