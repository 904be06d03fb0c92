"""The envelope: what each input decodes to, and that nothing else ever comes out."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.wire.phoenix import (
    ChannelClosed,
    ChannelError,
    Disconnected,
    Frame,
    Push,
    ReplyError,
    ReplyOk,
    TruncatedFrame,
    decode_inbound,
    decode_request,
    encode_frame,
    encode_reply,
)


def inbound(**members: object) -> str:
    return json.dumps({"topic": "client", "event": "x", "payload": {}, "ref": None} | members)


def reply(payload: object, ref: object = 4) -> str:
    return inbound(event="phx_reply", ref=ref, payload=payload)


def test_an_application_event_keeps_its_payload_raw() -> None:
    push = decode_inbound(inbound(event="resource_deleted", payload="abc"))
    assert isinstance(push, Push)
    assert (push.topic, push.event, bytes(push.payload)) == ("client", "resource_deleted", b'"abc"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (reply({"status": "ok", "response": {}}), ReplyOk("client", 4, is_empty_object=True)),
        (reply({"status": "ok", "response": None}), ReplyOk("client", 4, is_empty_object=False)),
        (reply({"status": "error", "response": {"reason": "unmatched topic"}}), ReplyError("client", 4, "unmatched topic")),
        (inbound(event="phx_error"), ChannelError("client")),
        (inbound(event="phx_close"), ChannelClosed("client")),
        (inbound(event="disconnect", payload={"reason": "token_expired"}), Disconnected("client")),
        ('{"payload":{},"event":"phx_close","topic":"gateway","join_ref":"7"}', ChannelClosed("gateway")),
    ],
)
def test_control_messages_decode(text: str, expected: object) -> None:
    assert decode_inbound(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        reply({"status": "ok", "response": {}}, ref=None),
        reply({"status": "ok", "response": {}}, ref="4"),
        reply({"status": "ok", "response": {"x": 1}}),
        reply({"status": "maybe", "response": {}}),
        reply({"status": "error", "response": {"reason": 5}}),
        reply({"status": "error", "response": {}}),
        reply({"status": "error", "response": []}),
        reply(None),
        inbound(event="phx_error", payload={"x": 1}),
        inbound(event="phx_close", payload={"x": 1}),
        inbound(event="disconnect", payload={"reason": "something_else"}),
        inbound(topic=None),
        '{"event":"x","payload":{},"ref":null}',
        '{"topic":"client","event":"x","ref":null}',
        "[]",
        "null",
        "{} trailing",
        "[" * 200_000 + "]" * 200_000,
    ],
)
def test_what_the_original_drops_is_a_wire_error(text: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_inbound(text)
    assert not isinstance(caught.value, TruncatedFrame)


@pytest.mark.parametrize("text", ["", '{"topic":"client"', inbound()[:-1]])
def test_a_text_that_ends_early_is_told_apart(text: str) -> None:
    with pytest.raises(TruncatedFrame):
        decode_inbound(text)


def test_a_portal_requires_all_four_members() -> None:
    frame = decode_request('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":7}')
    assert (frame.topic, frame.event, frame.ref) == ("phoenix", "heartbeat", 7)
    with pytest.raises(WireError):
        decode_request('{"topic":"phoenix","event":"heartbeat","payload":{}}')


def test_a_reply_echoes_the_ref_with_its_type() -> None:
    assert json.loads(encode_reply("client", 7)) == {
        "topic": "client", "event": "phx_reply", "ref": 7, "payload": {"status": "ok", "response": {}},
    }  # fmt: skip
    assert json.loads(encode_reply("client", "7", "invalid_ref"))["ref"] == "7"
    assert decode_inbound(encode_reply("client", 7, "invalid_ref")) == ReplyError("client", 7, "invalid_ref")


def test_no_repr_shows_a_payload() -> None:
    text = encode_frame("relay", "phx_join", b'{"stamp_secret":"hunter2"}', 0)
    assert "hunter2" not in repr(decode_request(text))
    assert "hunter2" not in repr(decode_inbound(text))


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_a_value_or_a_wire_error(text: str | bytes) -> None:
    for decode in (decode_inbound, decode_request):
        try:
            decode(text)
        except WireError:
            continue


@given(
    st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3), lambda s: st.lists(s, max_size=3)),
    st.sampled_from(["phx_reply", "phx_error", "phx_close", "disconnect", "init"]),
)
def test_any_json_is_a_value_or_a_wire_error(payload: object, event: str) -> None:
    for member in (payload, {"status": payload, "response": payload}, {"reason": payload}):
        try:
            decode_inbound(inbound(event=event, payload=member, ref=1))
        except WireError:
            continue


@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 2**64 - 1) | st.none())
def test_frames_survive_the_round_trip(topic: str, event: str, ref: int | None) -> None:
    frame = decode_request(encode_frame(topic, event, b'{"a":1}', ref))
    assert frame == Frame(topic=topic, event=event, payload=frame.payload, ref=ref)
    assert bytes(frame.payload) == b'{"a":1}'
