"""Medians, spreads and ratios over rounds, and the file they are kept in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.figures import FIGURES, GROUPS, choose
from perf.relay.build import build
from perf.results import Result, Run, middle, read, read_limit, spread, write


def rounds(**figures: list[float]) -> list[dict[str, float]]:
    return [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]


def test_median_and_half_of_the_range() -> None:
    result = Result("one", rounds=rounds(up_gbps=[3.0, 1.0, 2.5]))
    assert result.median("up_gbps") == 2.5
    assert result.spread("up_gbps") == 1.0
    assert middle([1.0, 2.0]) == 1.5
    assert spread([4.0]) == 0.0


def test_figure_that_was_not_measured_has_no_median() -> None:
    result = Result("one", rounds=[{"up_gbps": 1.0}, {}])
    assert result.median("down_gbps") is None
    assert result.spread("down_gbps") == 0.0
    assert result.values("up_gbps") == [1.0]


def test_ratios_are_taken_round_by_round() -> None:
    ours, theirs = Result("a", rounds=rounds(up_gbps=[2.0, 8.0])), Result("b", rounds=rounds(up_gbps=[1.0, 2.0]))
    assert ours.ratios(theirs, "up_gbps") == [2.0, 4.0]
    theirs.rounds[0] = {"up_gbps": 0.0}
    assert ours.ratios(theirs, "up_gbps") == [4.0]


def test_file_has_machine_versions_medians_and_every_round(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    run = Run([Result("one", "1.2", rounds(up_gbps=[1.0, 3.0, 2.0]))], rounds=3, seconds=1.5)
    write(run, path)
    value = json.loads(path.read_text())
    assert value.keys() == {"format", "time", "machine", "rounds", "seconds", "figures", "results"}
    assert value["machine"].keys() == {"cpu", "cores", "memory_mib", "kernel", "python", "load"}
    assert value["machine"]["cores"] >= 1
    assert value["machine"]["memory_mib"] > 100
    assert value["figures"]["up_gbps"]["unit"] == "Gbit/s"
    assert value["results"] == [
        {"name": "one", "version": "1.2", "median": {"up_gbps": 2.0}, "spread": {"up_gbps": 1.0}, "rounds": run.results[0].rounds}
    ]
    assert read(path) == run


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "results": []}', '{"format": 2, "results": [{}]}'])
def test_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        read(path)


def test_file_with_words_for_figures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    write(Run([Result("one", rounds=rounds(up_gbps=[1.0]))], 1, 1.0), path)
    path.write_text(path.read_text().replace('"up_gbps": 1.0\n', '"up_gbps": "fast"\n'))
    with pytest.raises(ValueError, match="no number"):
        read(path)


def test_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "limit.json"
    path.write_text('{"name": "prototype", "figures": {"up_gbps": 12, "down_gbps": 11.5}}')
    limit = read_limit(path)
    assert limit.name == "prototype"
    assert limit.median("down_gbps") == 11.5


@pytest.mark.parametrize(
    ("text", "words"),
    [("nonsense", "is no limit"), ('{"name": "p"}', "is no limit"), ('{"name": "p", "figures": {"uq": 1}}', "no figure uq")],
)
def test_limit_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "limit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_limit(path)


def test_every_row_is_in_a_group_that_is_measured() -> None:
    build()
    from perf.measure import GROUP_FUNCTIONS

    assert {figure.group for figure in FIGURES} == set(GROUPS) == set(GROUP_FUNCTIONS)
    assert len({figure.key for figure in FIGURES}) == len(FIGURES)


def test_rows_are_chosen_by_group_or_by_word() -> None:
    assert choose(()) == list(GROUPS)
    assert choose(("udp",)) == ["udp"]
    assert choose(("loaded_up_p99", "idle")) == ["idle", "loaded"]
    assert choose(("RTT",)) == ["idle", "loaded"]
    with pytest.raises(ValueError, match="'nothing' is in no row"):
        choose(("nothing",))
