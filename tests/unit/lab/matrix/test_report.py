"""Verdicts, the table, the last line, and which pairs a subset names."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from firezone.lab.matrix.report import Cell, MatrixReport, parse_pairs
from firezone.lab.nat.kinds import Kind
from firezone.lab.paths import FoundPath

DIRECT, REFLEXIVE = FoundPath("host", "host"), FoundPath("server-reflexive", "server-reflexive")
RELAYED = FoundPath("relayed", "host", ("relay-west",))


@pytest.mark.parametrize(
    ("client", "gateway", "path", "error", "ok", "verdict"),
    [
        (Kind.NONE, Kind.NONE, DIRECT, "", True, "as good as can be"),
        (Kind.NONE, Kind.NONE, REFLEXIVE, "", False, "reflexive, but host is possible"),
        (Kind.FULL_CONE, Kind.SYMMETRIC, RELAYED, "", False, "relayed, but reflexive is possible"),
        (Kind.SYMMETRIC, Kind.SYMMETRIC, RELAYED, "", True, "as good as can be"),
        (Kind.SYMMETRIC, Kind.SYMMETRIC, REFLEXIVE, "", True, "better than expected"),
        (Kind.SYMMETRIC, Kind.SYMMETRIC, None, "", False, "no path was reported"),
        (Kind.NONE, Kind.NONE, DIRECT, "it broke", False, "it broke"),
    ],
)
def test_cell_is_judged_by_what_its_pair_allows(
    client: Kind, gateway: Kind, path: FoundPath | None, error: str, ok: bool, verdict: str
) -> None:
    cell = Cell(client, gateway, 1, path, error=error)
    assert (cell.ok, cell.verdict) == (ok, verdict)


def report() -> MatrixReport:
    return MatrixReport(
        "/tmp/logs",
        [
            Cell(Kind.NONE, Kind.NONE, 1, DIRECT, 12.34, 1.25),
            Cell(Kind.SYMMETRIC, Kind.NONE, 1, error="The page [1] did not come"),
            Cell(Kind.SYMMETRIC, Kind.SYMMETRIC, 2, RELAYED, 50.0, 20.0),
        ],
    )


def test_table_has_a_row_per_cell_and_the_summary_counts() -> None:
    out = io.StringIO()
    report().print_to(Console(file=out, width=150))
    text = out.getvalue()
    for words in ("host ↔ host", "12.3 ms", "1.2 ms", "relayed ↔ host via relay-west", "The page [1] did not come", "symmetric #2"):
        assert words in text
    assert report().summary == "2 passed, 1 failed"


def test_json_says_the_same() -> None:
    value = json.loads(report().to_json())
    assert (value["passed"], value["failed"], len(value["cells"])) == (2, 1, 3)
    assert value["cells"][2]["path"] == {"client": "relayed", "gateway": "host", "via": ["relay-west"], "way": "relayed"}
    assert value["cells"][1]["path"] is None


def test_subset_names_pairs_in_order_and_once() -> None:
    assert parse_pairs("none:none, symmetric:full-cone,none:none") == [(Kind.NONE, Kind.NONE), (Kind.SYMMETRIC, Kind.FULL_CONE)]
    assert parse_pairs("*:none") == [(kind, Kind.NONE) for kind in Kind]
    assert parse_pairs("none:*") == [(Kind.NONE, kind) for kind in Kind]
    assert len(parse_pairs("*:*")) == len(parse_pairs(None)) == len(Kind) ** 2


@pytest.mark.parametrize("text", ["none", "none:cone", "", "none:none,"])
def test_wrong_subset_says_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"CLIENT:GATEWAY|there are none, full-cone"):
        parse_pairs(text)
