"""Every portal frame recorded from the original's programs decodes and encodes again; see `tests/vectors/README.md`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from firezone.wire.phoenix import Push, decode_inbound, decode_request
from firezone.wire.portal import client, gateway, relay

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
MODULES = {"client": client, "gateway": gateway, "relay": relay}
FILES = ["base-direct.jsonl", "base-relayed.jsonl", "base-ipv6.jsonl"]


def portal_frames(name: str, direction: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (VECTORS / name).read_text().splitlines())
    return [line for line in lines if line["kind"] == "portal" and line["dir"] == direction]


def project(value: Any, pattern: Any) -> Any:
    """Keeps of `value` the members that `pattern` has, at every depth."""
    if isinstance(value, dict) and isinstance(pattern, dict):
        return {key: project(value[key], pattern[key]) for key in value if key in pattern}
    if isinstance(value, list) and isinstance(pattern, list):
        return [project(item, other) for item, other in zip(value, pattern, strict=True)]
    return value


@pytest.mark.parametrize("name", FILES)
def test_what_the_stand_in_said_decodes_and_encodes_again(name: str) -> None:
    seen = 0
    for line in portal_frames(name, "out"):
        inbound = decode_inbound(line["text"])
        if not isinstance(inbound, Push):
            assert line["event"] == "phx_reply"
            continue
        words = MODULES[line["role"]].FROM_PORTAL
        message = words.decode(inbound.event, inbound.payload)
        event, payload = words.encode(message)
        assert event == line["event"]
        said = json.loads(line["text"])["payload"]
        again = json.loads(payload)
        assert project(again, said) == project(said, again)
        assert words.decode(event, payload) == message
        seen += 1
    assert seen >= 18


@pytest.mark.parametrize("name", FILES)
def test_what_the_programs_said_decodes_and_encodes_again_to_the_same_json(name: str) -> None:
    seen = 0
    for line in portal_frames(name, "in"):
        frame = decode_request(line["text"])
        if frame.event == "phx_join" and frame.topic != "relay":
            assert bytes(frame.payload) == b"null"
            continue
        words = MODULES[line["role"]].TO_PORTAL
        event, payload = words.encode(words.decode(frame.event, frame.payload))
        assert (event, payload) == (line["event"], bytes(frame.payload))
        seen += 1
    assert seen >= 21
