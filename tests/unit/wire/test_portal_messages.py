"""The typed messages: every frame printed in the protocol's description, and the rules of its decoders (sections 5 to 8, 13)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.base.net import Endpoint
from firezone.base.secret import SecretBytes, SecretText
from firezone.wire.phoenix import Push, decode_inbound, decode_request, encode_frame
from firezone.wire.portal import client, gateway, relay
from firezone.wire.portal.shared import PublicKey, StunRelay, TurnRelay, Vocabulary, parse_endpoint

LINES = json.loads((Path(__file__).parents[2] / "vectors" / "portal-frames.json").read_text())
FRAMES = [json.loads(line["text"]) for line in LINES if line["protocol"] == 1]
NEWER = [json.loads(line["text"]) for line in LINES if line["protocol"] == 2]
MODULES: dict[str, Any] = {"client": client, "gateway": gateway, "relay": relay}
FROM_DEVICE = {"create_flow", "broadcast_ice_candidates", "flow_authorized"}
CONTROL = {"phx_reply", "phx_error", "phx_close", "disconnect", "heartbeat"}


def words_for(frame: dict[str, Any]) -> Vocabulary:
    is_ours = frame["event"] in FROM_DEVICE or (frame["topic"], frame["event"]) == ("relay", "phx_join")
    words: Vocabulary = getattr(MODULES[frame["topic"]], "TO_PORTAL" if is_ours else "FROM_PORTAL")
    return words


def messages() -> list[dict[str, Any]]:
    return [f for f in FRAMES if f["event"] not in CONTROL and not (f["event"] == "phx_join" and f["payload"] is None)]


def frame_of(topic: str, event: str) -> dict[str, Any]:
    return copy.deepcopy(next(frame for frame in FRAMES if (frame["topic"], frame["event"]) == (topic, event)))


def decode(frame: dict[str, Any]) -> Any:
    return words_for(frame).decode(frame["event"], json.dumps(frame["payload"]).encode())


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every object inside a JSON value."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from objects(item)


def covers(ours: Any, theirs: Any) -> bool:
    """Tells whether everything printed is in what we write; defaults may be added."""
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and all(key in ours and covers(ours[key], item) for key, item in theirs.items())
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(covers(one, other) for one, other in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


@pytest.mark.parametrize("frame", messages(), ids=lambda frame: f"{frame['topic']}-{frame['event']}")
def test_every_printed_frame_decodes_and_encodes_again(frame: dict[str, Any]) -> None:
    words = words_for(frame)
    message = decode(frame)
    event, payload = words.encode(message)
    assert event == frame["event"]
    assert words.decode(event, payload) == message
    assert covers(json.loads(payload), frame["payload"])


@pytest.mark.parametrize("frame", [frame for frame in FRAMES if frame["event"] in CONTROL], ids=lambda frame: frame["event"])
def test_every_printed_control_frame_decodes(frame: dict[str, Any]) -> None:
    text = json.dumps(frame)
    assert decode_request(text).event == frame["event"]
    assert decode_inbound(text) is not None


@pytest.mark.parametrize("frame", messages(), ids=lambda frame: f"{frame['topic']}-{frame['event']}")
def test_unknown_members_at_every_level_change_nothing(frame: dict[str, Any]) -> None:
    more = copy.deepcopy(frame)
    for found in list(objects(more["payload"])):
        found["no_such_member"] = {"a": [1, None]}
    assert decode(more) == decode(frame)


@pytest.mark.parametrize("frame", messages(), ids=lambda frame: f"{frame['topic']}-{frame['event']}")
def test_whatever_is_done_to_a_frame_it_is_a_message_or_a_wire_error(frame: dict[str, Any]) -> None:
    replacements: list[Any] = [None, 5, -1, "x", [], {}, True, 1e300, ["x", 5], "100.64.0.1/32"]
    for replacement in replacements:
        for index, found in enumerate(objects(frame["payload"])):
            for key in found:
                broken = copy.deepcopy(frame)
                list(objects(broken["payload"]))[index][key] = replacement
                try:
                    decode(broken)
                except WireError:
                    continue


def test_the_newer_names_are_understood_by_devices() -> None:
    created = next(frame for frame in NEWER if (frame["topic"], frame["event"]) == ("client", "authorization_created"))
    message = client.FROM_PORTAL.decode("authorization_created", json.dumps(created["payload"]).encode())
    assert isinstance(message, client.FlowCreated)
    assert message == decode(frame_of("client", "flow_created"))
    order = next(frame for frame in NEWER if frame["event"] == "create_authorization")
    assert isinstance(
        gateway.FROM_PORTAL.decode("create_authorization", json.dumps(order["payload"]).encode()), gateway.AuthorizeFlow
    )
    lines = frame_of("client", "ice_candidates")["payload"]
    for event in ("gateway_ice_candidates", "invalidate_gateway_ice_candidates"):
        client.FROM_PORTAL.decode(event, json.dumps(lines).encode())


def test_sites_may_be_called_either_way() -> None:
    frame = frame_of("client", "resource_created_or_updated")
    frame["payload"]["sites"] = frame["payload"].pop("gateway_groups")
    assert decode(frame) == decode(frame_of("client", "resource_created_or_updated"))


def test_uuids_are_normalised() -> None:
    frame = frame_of("client", "create_flow")
    plain = decode(frame)
    frame["payload"]["resource_id"] = "{" + frame["payload"]["resource_id"].upper() + "}"
    assert decode(frame) == plain
    assert plain.resource_id == "3c9a5a3e-2d60-4d0b-9d1b-6a2f1e0c7b11"


REQUIRED = [
    ("client", "init", "interface"), ("client", "config_changed", "interface"), ("client", "relays_presence", "connected"),
    ("client", "relays_presence", "disconnected_ids"), ("client", "flow_creation_failed", "reason"),
    ("client", "ice_candidates", "candidates"), ("client", "create_flow", "connected_gateway_ids"),
    *(("client", "flow_created", key) for key in (
        "resource_id", "gateway_id", "gateway_group_id", "gateway_public_key", "gateway_ipv4", "gateway_ipv6", "preshared_key",
        "client_ice_credentials", "gateway_ice_credentials")),
    ("gateway", "init", "interface"), ("gateway", "init", "config"),
    *(("gateway", "authorize_flow", key) for key in (
        "ref", "resource", "client", "client_ice_credentials", "gateway_ice_credentials", "expires_at")),
    ("gateway", "access_authorization_expiry_updated", "expires_at"), ("gateway", "reject_access", "client_id"),
    ("gateway", "resource_updated", "filters"), ("relay", "phx_join", "stamp_secret"),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "event", "key"), REQUIRED)
def test_a_required_member_that_is_missing_drops_the_message(topic: str, event: str, key: str) -> None:
    frame = frame_of(topic, event)
    del frame["payload"][key]
    with pytest.raises(WireError):
        decode(frame)


OPTIONAL = [
    ("client", "init", "resources"), ("client", "init", "relays"), ("client", "flow_creation_failed", "violated_properties"),
    ("gateway", "init", "relays"), ("gateway", "init", "account_slug"), ("gateway", "init", "authorizations"),
    ("client", "resource_created_or_updated", "filters"), ("client", "resource_created_or_updated", "address_description"),
]  # fmt: skip


@pytest.mark.parametrize(("topic", "event", "key"), OPTIONAL)
def test_an_optional_member_has_a_default(topic: str, event: str, key: str) -> None:
    frame = frame_of(topic, event)
    del frame["payload"][key]
    decode(frame)


def test_an_expiry_may_be_null_but_not_missing() -> None:
    frame = frame_of("gateway", "authorize_flow")
    frame["payload"]["expires_at"] = None
    assert decode(frame).expires_at is None


def test_a_client_leaves_out_resources_it_cannot_read_and_keeps_the_others() -> None:
    frame = frame_of("client", "init")
    resources = frame["payload"]["resources"]
    good = [dict(resource) for resource in resources]
    resources[0]["address"] = "10.20.0.1/16"
    resources[1]["ip_stack"] = "ipv5_only"
    resources.append({"type": "static_device_pool", "id": good[0]["id"], "name": "x"})
    assert [resource.id for resource in decode(frame).resources] == [good[2]["id"]]
    resources.append({"id": good[0]["id"]})
    with pytest.raises(WireError):
        decode(frame)


def test_the_internet_resource_has_a_name_when_none_is_sent() -> None:
    assert decode(frame_of("client", "init")).resources[2].name == "Internet Resource"


@pytest.mark.parametrize(
    "change",
    [
        {"type": "device_pool"},
        {"address": "10.20.0.1/16"},
        {"address": "10.20.0.1"},
        {"filters": [{"protocol": "sctp"}]},
        {"filters": [{"protocol": "tcp", "port_range_start": 70000}]},
    ],
)
def test_a_gateway_drops_the_whole_message_for_a_bad_resource(change: dict[str, Any]) -> None:
    frame = frame_of("gateway", "authorize_flow")
    frame["payload"]["resource"] |= change
    with pytest.raises(WireError):
        decode(frame)


def test_filters_have_default_ports() -> None:
    resource = decode(frame_of("gateway", "resource_updated")).resource
    assert [(f.protocol, f.port_range_start, f.port_range_end) for f in resource.filters] == [("tcp", 80, 80), ("udp", 0, 65535)]


@pytest.mark.parametrize(
    ("key", "value"),
    [("ipv4", "100.67.12.9/32"), ("ipv4", "fd00::1"), ("ipv6", "fd00::1%eth0"), ("ipv4", 5), ("search_domain", "a b"),
     ("upstream_dns", [{"protocol": "doh", "address": "1.1.1.1:53"}]),
     ("upstream_dns", [{"protocol": "ip_port", "address": "1.1.1.1"}])],
)  # fmt: skip
def test_a_bad_interface_drops_the_message(key: str, value: object) -> None:
    frame = frame_of("client", "config_changed")
    frame["payload"]["interface"][key] = value
    with pytest.raises(WireError):
        decode(frame)


@pytest.mark.parametrize(
    "key", ["AAAA", "x" * 44, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "AAEC_wQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="]
)
def test_a_key_is_32_bytes_of_padded_standard_base64(key: str) -> None:
    frame = frame_of("client", "flow_created")
    frame["payload"]["gateway_public_key"] = key
    with pytest.raises(WireError):
        decode(frame)


def test_relays_are_typed_and_an_unknown_type_drops_the_message() -> None:
    frame = frame_of("client", "relays_presence")
    (turn,) = decode(frame).connected
    assert isinstance(turn, TurnRelay)
    assert turn.endpoint == Endpoint.from_text("203.0.113.50", 3478)
    frame["payload"]["connected"] = [{"type": "stun", "id": turn.id, "addr": "[2001:db8::1]:3478"}]
    assert isinstance(decode(frame).connected[0], StunRelay)
    for change in ({"type": "quic"}, {"type": "turn"}, {"addr": "relay.example:3478"}):
        broken = copy.deepcopy(frame)
        broken["payload"]["connected"][0] |= change
        with pytest.raises(WireError):
            decode(broken)


@pytest.mark.parametrize("text", ["1.2.3.4", "1.2.3.4:70000", "2001:db8::1:3478", "[::1]", "[::1%1]:5", "host:1", "1.2.3.4:", ""])
def test_what_is_no_socket_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"socket address|IPv"):
        parse_endpoint(text)


def test_no_repr_shows_a_secret() -> None:
    shown = ""
    for frame in messages():
        message = decode(frame)
        shown += repr(message) + str(message) + f"{message}"
        shown += repr(Push(frame["topic"], frame["event"], decode_request(json.dumps(frame)).payload))
    for secret in ("poeo4p3rpgtzk6khutnzjv", "l2gzcr3x7mmzbffacfx2ma", "Tr2vpuFvI9V", "mC9u2koxhOYO", "abababab", "flow-000017"):
        assert secret not in shown
    held = SecretBytes(b"hunter2"), SecretText("hunter2")
    assert "hunter2" not in f"{held} {held[0]} {held[1]!s:>20}"


def test_secrets_compare_by_what_they_hold() -> None:
    assert SecretBytes(b"a") == SecretBytes(b"a") != SecretBytes(b"b")
    assert SecretText("ä") == SecretText("ä") != SecretText("b")
    assert SecretText("a") != "a"
    assert len({SecretText("a"), SecretText("a")}) == 1


def test_a_public_key_is_bytes() -> None:
    key = PublicKey.from_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    assert key == bytes(range(32))
    assert key.to_text() == "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(ANY_JSON, st.sampled_from(sorted(MODULES)), st.sampled_from(["FROM_PORTAL", "TO_PORTAL"]))
def test_any_payload_of_any_event_is_a_message_or_a_wire_error(payload: object, role: str, direction: str) -> None:
    words: Vocabulary = getattr(MODULES[role], direction)
    text = json.dumps(payload).encode()
    for event in (*words.accepted, "no_such_event"):
        try:
            words.decode(event, text)
        except WireError:
            continue


def test_a_frame_with_a_payload_that_is_not_json_is_refused_before_it_is_sent_on() -> None:
    with pytest.raises(WireError):
        client.FROM_PORTAL.decode("init", b"{")
    assert decode_inbound(encode_frame("client", "init", b"{}", None)) is not None


@pytest.mark.parametrize("event", ["init", "config_changed"])
def test_newer_portals_servers_go_before_those_for_older_clients(event: str) -> None:
    def servers(**more: Any) -> list[str]:
        interface = {
            "ipv4": "100.64.0.1", "ipv6": "fd00:2021:1111::1",
            "upstream_dns": [{"protocol": "ip_port", "address": "9.9.9.9:5353"}], **more,
        }  # fmt: skip
        message = client.FROM_PORTAL.decode(event, json.dumps({"interface": interface}).encode())
        return [server.address for server in message.interface.plain_servers]

    assert servers() == servers(upstream_do53=[]) == ["9.9.9.9:5353"]
    assert servers(upstream_do53=[{"ip": "10.9.0.53"}, {"ip": "fd00::53"}]) == ["10.9.0.53:53", "[fd00::53]:53"]
    lists: list[list[object]] = [[{}], [7], [{"ip": "x"}]]
    for broken in lists:
        with pytest.raises(WireError):
            servers(upstream_do53=broken)
