"""In-tunnel control packets: the vectors of `gateway` 4, and the decode invariant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firezone.base.errors import WireError
from firezone.kernels.ip import parse_batch
from firezone.kernels.types import Reason, Verdict
from firezone.wire.control import ControlEvent, ControlPacket, decode_control, encode_control
from tests.harness.packets import any_packet
from tests.harness.rows import batch_of, outcome

GOODBYE = bytes.fromhex("600000000008ff00" + "00" * 32 + "0200000000000000")
STATUS_JSON = b'{"resource":"00000000-0000-0000-0000-00000000002a","domain":"app.corp.test","status":"Active"}'  # 94 bytes
DOMAIN_STATUS = bytes.fromhex("600000000066ff00" + "00" * 32 + "0100000000000000") + STATUS_JSON


def test_goodbye_is_the_recorded_48_bytes() -> None:
    assert len(GOODBYE) == 48
    assert encode_control(ControlEvent.GOODBYE) == GOODBYE
    assert decode_control(GOODBYE) == ControlPacket(ControlEvent.GOODBYE, b"")


def test_domain_status_is_the_recorded_142_bytes() -> None:
    assert len(DOMAIN_STATUS) == 142
    assert encode_control(ControlEvent.DOMAIN_STATUS, STATUS_JSON) == DOMAIN_STATUS
    assert decode_control(DOMAIN_STATUS) == ControlPacket(ControlEvent.DOMAIN_STATUS, STATUS_JSON)


def test_the_reserved_bytes_are_ignored() -> None:
    assert decode_control(GOODBYE[:-7] + b"\xff" * 7).event == ControlEvent.GOODBYE


def test_an_event_nobody_knows_yet_decodes() -> None:
    assert decode_control(GOODBYE[:40] + b"\x63" + GOODBYE[41:]) == ControlPacket(0x63, b"")


@pytest.mark.parametrize(
    "packet",
    [
        b"", b"\x60", GOODBYE[:40], GOODBYE[:47],
        b"\x40" + GOODBYE[1:],
        GOODBYE[:6] + b"\x11" + GOODBYE[7:],
        GOODBYE[:23] + b"\x01" + GOODBYE[24:],
        GOODBYE[:39] + b"\x01" + GOODBYE[40:],
    ],
    ids=["empty", "one byte", "no header", "seven bytes", "version 4", "UDP", "a source", "a destination"],
)  # fmt: skip
def test_anything_else_is_no_control_packet(packet: bytes) -> None:
    with pytest.raises(WireError):
        decode_control(packet)


@given(st.integers(0, 255), st.binary(max_size=500))
def test_decoding_undoes_encoding(event: int, body: bytes) -> None:
    packet = encode_control(event, body)  # type: ignore[arg-type]
    assert decode_control(packet) == ControlPacket(event, body)


@given(st.binary(max_size=60) | any_packet() | st.binary(max_size=20).map(lambda tail: GOODBYE[:40] + tail))
def test_any_bytes_are_a_control_packet_or_a_wire_error(data: bytes) -> None:
    try:
        decode_control(data)
    except WireError:
        return


@given(st.integers(0, 255), st.binary(max_size=100))
def test_the_compiled_stage_knows_every_control_packet(event: int, body: bytes) -> None:
    batch = batch_of([encode_control(event, body)])  # type: ignore[arg-type]
    parse_batch(batch, True)
    assert outcome(batch, 0) == (Verdict.PUNT, Reason.CONTROL_PACKET)
