"""Candidate lines: the specification's examples, each field valid and malformed, any text in."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.base.net import Endpoint
from firezone.wire.candidate import Candidate, CandidateKind, decode_candidate, encode_candidate

VECTORS = Path(__file__).parents[2] / "vectors"

EXAMPLES = [
    ("candidate:fffeff7e5a1c0b9d2e7f4a31 1 udp 2130706175 192.168.1.10 52625 typ host ufrag w7up", CandidateKind.HOST),
    ("candidate:ffffff7e1b2c3d4e5f60718 1 udp 2130706431 2001:db8::10 52625 typ host ufrag w7up", CandidateKind.HOST),
    (
        "candidate:fffeff64aa00bb11cc22dd33 1 udp 1694498559 203.0.113.7 40000 typ srflx raddr 0.0.0.0 rport 0",
        CandidateKind.SERVER_REFLEXIVE,
    ),
    (
        "candidate:fffe3f0277aa66bb55cc44dd 1 udp 37748479 198.51.100.9 61000 typ relay raddr 0.0.0.0 rport 0 ufrag w7up",
        CandidateKind.RELAY,
    ),
    (
        "candidate:ff173c0277aa66bb55cc44de 1 udp 37492735 2001:db8:5::9 61000 typ relay raddr :: rport 0 ufrag w7up",
        CandidateKind.RELAY,
    ),
]


@pytest.mark.parametrize(("line", "kind"), EXAMPLES)
def test_examples_decode_and_encode_again(line: str, kind: CandidateKind) -> None:
    candidate = decode_candidate(line)
    assert candidate.kind is kind
    assert candidate.base == candidate.endpoint
    assert encode_candidate(candidate) == line


def test_the_foundation_starts_with_the_priority_reversed() -> None:
    address = Endpoint.from_text("192.168.1.10", 52625)
    line = encode_candidate(Candidate(CandidateKind.HOST, address, 2130706175, address, ufrag="w7up"))
    assert line.startswith("candidate:fffeff7e")
    assert len(line.split()[0]) <= len("candidate:") + 24
    assert line.endswith(" 1 udp 2130706175 192.168.1.10 52625 typ host ufrag w7up")


@pytest.mark.parametrize(
    ("line", "ufrag"),
    [
        (
            "candidate:1 1 UDP 5 192.0.2.1 9 typ prflx raddr 192.0.2.2 rport 7 generation 0 network-id 1 ufrag x network-cost",
            "x",
        ),
        ("a=candidate:1 1 udp 5 192.0.2.1 9 typ prflx raddr 192.0.2.2 rport 7 and whatever else", None),
        ("candidate:1 1 udp 5 192.0.2.1 9 typ prflx raddr 192.0.2.2 rport 7 ufrag x\r\n", "x"),
    ],
)
def test_optional_parts_are_accepted(line: str, ufrag: str | None) -> None:
    candidate = decode_candidate(line)
    assert candidate.kind is CandidateKind.PEER_REFLEXIVE
    assert candidate.related == Endpoint.from_text("192.0.2.2", 7)
    assert candidate.ufrag == ufrag


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("", "candidate"),
        ("candidate:1 1 udp 5 192.0.2.1 9", "candidate"),
        ("candidate:1 1 udp 5 192.0.2.1 9 typ", "candidate"),
        ("candidate:1 x udp 5 192.0.2.1 9 typ host", "candidate"),
        ("candidate:1 1 sctp 5 192.0.2.1 9 typ host", "transport"),
        ("candidate:1 1 udp 4294967296 192.0.2.1 9 typ host", "priority"),
        ("candidate:1 1 udp -1 192.0.2.1 9 typ host", "candidate"),
        ("candidate:1 1 udp 5 foo.local 9 typ host", "ip"),
        ("candidate:1 1 udp 5 fe80::1%eth0 9 typ host", "ip"),
        ("candidate:1 1 udp 5 192.0.2.1 65536 typ host", "port"),
        ("candidate:1 1 udp 5 192.0.2.1 9 typ guest", "typ"),
        ("candidate:1 1 udp 5 192.0.2.1 9 typ srflx raddr nowhere rport 0", "raddr"),
        ("candidate:1 1 udp 5 192.0.2.1 9 typ srflx raddr 0.0.0.0 rport 70000", "rport"),
        ("candidate:1 1 udp 5 192.0.2.1 9 typ host " + "x" * 1024, "candidate"),
        ("candidate:1 1 udp \u0665 192.0.2.1 9 typ host", "candidate"),
    ],
)
def test_malformed_lines_are_wire_errors_naming_the_field(line: str, field: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_candidate(line)
    assert caught.value.field == field


def test_recorded_candidates_decode_and_encode_again() -> None:
    lines = set()
    for path in VECTORS.glob("*.jsonl"):
        for text in path.read_text().splitlines():
            record = json.loads(text)
            if record["kind"] == "portal" and "candidates" in record.get("event", "") and "iceless" not in path.stem:
                lines |= set(json.loads(record["text"])["payload"]["candidates"])
    assert len(lines) > 10
    for line in lines:
        assert encode_candidate(decode_candidate(line)) == line


@given(st.text() | st.from_regex(r"candidate:\S+ \d+ udp \d+ \S+ \d+ typ (host|srflx|relay|prflx)( raddr \S+ rport \d+)?.*"))
def test_any_text_gives_a_value_or_a_wire_error(line: str) -> None:
    with contextlib.suppress(WireError):
        decode_candidate(line)
