"""Everything the original's programs ever said in the recorded sessions, spoiled, at every decoder that would have read it.

The decode invariant: any bytes in, either a value or `WireError` out.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.base.net import Endpoint
from firezone.proto.relay.requests import read_request
from firezone.proto.turn.channels import decode_channel_data
from firezone.wire import phoenix, stun, wireguard
from firezone.wire.candidate import decode_candidate
from firezone.wire.ip import decode_ip
from tests.fuzz.mutations import spoiled
from tests.harness.relay import RelayBench

VECTORS = Path(__file__).parent.parent / "vectors"


def recorded() -> tuple[list[bytes], list[str], list[str]]:
    """Returns every datagram, portal frame and candidate line of all sessions, each once."""
    datagrams: dict[bytes, None] = {}
    frames: dict[str, None] = {}
    lines: dict[str, None] = {}
    for path in sorted(VECTORS.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            entry = json.loads(text)
            if "hex" in entry:
                datagrams[bytes.fromhex(entry["hex"])] = None
            elif "text" in entry:
                frames[entry["text"]] = None
                lines.update(dict.fromkeys((json.loads(entry["text"])["payload"] or {}).get("candidates", ())))
    return list(datagrams), list(frames), list(lines)


DATAGRAMS, FRAMES, LINES = recorded()
DECODERS: dict[str, Callable[[bytes], object]] = {
    "stun": stun.decode,
    "relay": read_request,
    "channel data": decode_channel_data,
    "wireguard": wireguard.decode,
    "wireguard, classified": wireguard.classify,
    "ip": decode_ip,
}
seeds = st.integers(0, 2**32)


def test_the_sessions_are_worth_mutating() -> None:
    assert len(DATAGRAMS) > 100
    assert len(FRAMES) > 30
    assert len(LINES) > 10


@pytest.mark.parametrize("name", DECODERS)
@settings(deadline=None, max_examples=200)
@given(seed=seeds)
def test_no_decoder_raises_anything_but_its_error(name: str, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        with contextlib.suppress(WireError):
            DECODERS[name](spoiled(draw.choice(DATAGRAMS), draw))


@settings(deadline=None, max_examples=200)
@given(seed=seeds)
def test_what_stun_reads_it_can_write(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(20):
        with contextlib.suppress(WireError):
            message = stun.decode(spoiled(draw.choice(DATAGRAMS), draw)).message
            assert stun.decode(stun.encode(message)).message == message


@settings(deadline=None, max_examples=200)
@given(seed=seeds)
def test_spoiled_frames_and_candidates_are_wire_errors(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(10):
        frame = spoiled(draw.choice(FRAMES).encode(), draw)
        for decode in (phoenix.decode_request, phoenix.decode_inbound):
            with contextlib.suppress(WireError):
                decode(frame)
        with contextlib.suppress(WireError):
            decode_candidate(spoiled(draw.choice(LINES).encode(), draw).decode("utf-8", "replace"))


@settings(deadline=None, max_examples=50)
@given(seed=seeds, stands_alone=st.booleans())
def test_a_relay_answers_each_at_most_once_and_changes_nothing(seed: int, stands_alone: bool) -> None:
    draw = random.Random(seed)
    bench = RelayBench(stands_alone=stands_alone)
    for _ in range(50):
        sender = Endpoint(draw.randbytes(draw.choice((4, 16))), draw.choice((0, 1, 3478, 52625)))
        assert len(bench.send(sender, spoiled(draw.choice(DATAGRAMS), draw))) <= (sender.port != 0)
    assert bench.ports.open_ports == {}
    assert bench.next_wake() is None
