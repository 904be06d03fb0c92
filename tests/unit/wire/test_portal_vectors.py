"""Every portal frame recorded from the original's programs decodes and encodes again; see `tests/vectors/README.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firezone.wire.phoenix import Push, decode_inbound, decode_request
from firezone.wire.portal import client, gateway, relay
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2 import gateway as gateway2

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
MODULES: dict[tuple[str, int], Any] = {
    ("client", 1): client, ("gateway", 1): gateway, ("relay", 1): relay, ("client", 2): client2, ("gateway", 2): gateway2,
}  # fmt: skip
OLD = ["base-direct.jsonl", "base-relayed.jsonl", "base-ipv6.jsonl"]
NEW = ["new-direct.jsonl", "new-relayed.jsonl", "new-iceless.jsonl"]
UNREAD = {"version", "device_serial", "device_uuid", "device_os_name", "device_os_version", "identifier_for_vendor",
          "firebase_installation_id"}  # fmt: skip
"""What the stand-in tells gateways of a client and nobody reads."""
ADDED = {"ip_stack": "dual"}
"""Members that we write and the stand-in leaves to their default."""


def portal_frames(name: str, direction: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (VECTORS / name).read_text().splitlines())
    return [line for line in lines if line["kind"] == "portal" and line["dir"] == direction]


def words_of(line: dict[str, Any], direction: str) -> Any:
    return getattr(MODULES[line["role"], line["protocol"]], direction)


def project(value: Any, pattern: Any) -> Any:
    """Keeps of `value` the members that `pattern` has, at every depth."""
    if isinstance(value, dict) and isinstance(pattern, dict):
        return {key: project(value[key], pattern[key]) for key in value if key in pattern}
    if isinstance(value, list) and isinstance(pattern, list):
        return [project(item, other) for item, other in zip(value, pattern, strict=True)]
    return value


def without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {key: without(item, names) for key, item in value.items() if key not in names}
    return [without(item, names) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", OLD + NEW)
def test_what_the_stand_in_said_decodes_and_encodes_again(name: str) -> None:
    seen = 0
    for line in portal_frames(name, "out"):
        inbound = decode_inbound(line["text"])
        if not isinstance(inbound, Push):
            assert line["event"] == "phx_reply"
            continue
        words = words_of(line, "FROM_PORTAL")
        message = words.decode(inbound.event, inbound.payload)
        event, payload = words.encode(message)
        assert event == line["event"]
        said = json.loads(line["text"])["payload"]
        again = json.loads(payload)
        assert project(again, said) == project(said, again)
        assert words.decode(event, payload) == message
        seen += 1
    assert seen >= (18 if name in OLD else 6)


@pytest.mark.parametrize("name", NEW)
def test_in_version_2_we_write_as_a_portal_what_the_stand_in_wrote_but_what_nobody_reads(name: str) -> None:
    for line in portal_frames(name, "out"):
        inbound = decode_inbound(line["text"])
        if line["protocol"] != 2 or not isinstance(inbound, Push):
            continue
        words = words_of(line, "FROM_PORTAL")
        again = json.loads(words.encode(words.decode(inbound.event, inbound.payload))[1])
        assert without(again, set(ADDED)) == without(json.loads(line["text"])["payload"], UNREAD), line["event"]


@pytest.mark.parametrize("name", OLD + NEW)
def test_what_the_programs_said_decodes_and_encodes_again_to_the_same_json(name: str) -> None:
    seen = 0
    for line in portal_frames(name, "in"):
        frame = decode_request(line["text"])
        if frame.event == "phx_join" and frame.topic != "relay":
            assert bytes(frame.payload) == b"null"
            continue
        words = words_of(line, "TO_PORTAL")
        event, payload = words.encode(words.decode(frame.event, frame.payload))
        assert (event, payload) == (line["event"], bytes(frame.payload))
        seen += 1
    assert seen >= (21 if name in OLD else 8)


def test_the_two_versions_speak_of_the_same_topics() -> None:

    assert (client2.TOPIC, gateway2.TOPIC) == (client.TOPIC, gateway.TOPIC)
