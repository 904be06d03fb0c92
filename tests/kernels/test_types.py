"""The numbers and layouts that Python and C must agree on, read from the C headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from firezone.base import limits
from firezone.kernels import types
from firezone.kernels.types import ADDRESS, FIRST_PUNT, PREFIX_SIZE, RUN, Reason, Verdict

CSRC = Path(__file__).parent.parent.parent / "csrc"


def constants(name: str) -> dict[str, int]:
    """All `FZ_X = 1` of enums and `#define FZ_X 1u` of a header."""
    text = (CSRC / name).read_text()
    found = re.findall(r"(?:#define )?\bFZ_(\w+)(?: = | )(\d+)u?\b", text)
    return {key: int(value) for key, value in found}


def test_verdicts_are_those_of_the_batch_header() -> None:
    header = constants("fz_batch.h")
    assert {verdict.name: verdict.value for verdict in Verdict} == {verdict.name: header[verdict.name] for verdict in Verdict}


def test_reasons_given_in_c_are_those_of_the_enum() -> None:
    text = (CSRC / "fz_ip.h").read_text()
    block = text[text.index("enum fz_packet_reason") :]
    given = re.findall(r"FZ_(\w+) = (\d+)", block[: block.index("}")])
    assert len(given) > 15
    assert [(name, int(value)) for name, value in given] == [(name, Reason[name].value) for name, _ in given]


def test_drops_and_punts_are_told_apart_by_number() -> None:
    assert FIRST_PUNT == 64
    assert {reason.name for reason in Reason if reason >= FIRST_PUNT} == {
        "STUN", "HANDSHAKE", "UNKNOWN_DATAGRAM", "CHANNEL_DATA", "NO_PEER", "NO_PATH",
        "CONTROL_PACKET", "REFUSED_SOURCE", "REFUSED_DESTINATION", "NO_TRANSLATION", "PEER_DATA",
    }  # fmt: skip
    assert max(Reason) < 256


def test_sizes_agree() -> None:
    assert constants("fz_batch.h")["PREFIX_SIZE"] == PREFIX_SIZE
    assert constants("fz_ip.h")["MAX_PACKET"] == limits.MAX_PACKET_SIZE
    assert constants("fz_demux.h")["MAX_DATAGRAM"] == limits.MAX_DATAGRAM_SIZE
    assert constants("fz_split.h")["MAX_SPLIT"] == limits.MAX_SEGMENTS_PER_READ
    assert constants("fz_split.h")["MAX_GSO_SEGMENTS"] == limits.MAX_SEGMENTS
    split = constants("fz_split.h")
    assert split["SEAL_HEAD"] + split["SEAL_TAIL"] == limits.WIREGUARD_OVERHEAD
    assert types.SLOT_SIZE >= 10 + 65535


@pytest.mark.parametrize(("dtype", "name", "size"), [(ADDRESS, "fz_addr", 20), (RUN, "fz_run", 32)])
def test_structured_columns_have_the_fields_of_their_structs(dtype: object, name: str, size: int) -> None:
    text = (CSRC / "fz_batch.h").read_text()
    body = text[text.index(f"typedef struct {name} {{") : text.index(f"}} {name};")]
    fields = re.findall(r"^\s+u?int\d+_t (\w+)(?:\[\d+\])?;", body, re.MULTILINE)
    assert tuple(fields) == dtype.names  # type: ignore[attr-defined]
    assert dtype.itemsize == size  # type: ignore[attr-defined]
