"""What `./dev perf` says before it measures anything, and what it draws of what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Answer

from perf import inside, picture, tunnels
from perf.__main__ import main
from perf.figures import FIGURES
from perf.results import Result, Run, write
from perf.tunnels import COTURN, NEWEST, OURS, VETH, Tunnel

FOUND = [Tunnel(VETH, "6.1"), Tunnel(OURS, "0.1"), Tunnel(NEWEST, "v1", "/bin/wg-go")]


def say(*arguments: str) -> Answer:
    return CliRunner().invoke(main, list(arguments))


def run_of(*names: str) -> Run:
    def rounds() -> list[dict[str, float]]:
        return [{figure.key: float(number + turn) for number, figure in enumerate(FIGURES)} for turn in range(3)]

    return Run([Result(name, "1", rounds()) for name in names], 3, 1.0)


@pytest.fixture(autouse=True)
def nothing_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: str, found: list[Tunnel]) -> None:
        raise AssertionError(f"{module} would have been measured: {found}")

    monkeypatch.setattr(inside, "enter", refuse)
    monkeypatch.setattr(tunnels, "find", lambda *_, **__: FOUND)


def test_rows_and_contenders_are_listed_without_measuring() -> None:
    answer = say("--list", "--rows", "idle", "--only", "newest")
    assert answer.exit_code == 0
    assert answer.output.splitlines()[:2] == ["this tunnel: 0.1", "wireguard-go, newest: v1 /bin/wg-go"]
    assert "rtt_p99_ms" in answer.output
    assert "up_gbps" not in answer.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "nothing"], "'nothing' is in no row. Groups of rows are: first, idle,"),
        (["--only", "nothing"], "'nothing' is in none of: veth, no tunnel; this tunnel;"),
        (["--against", "/dev/null"], "/dev/null is no file of ./dev perf --json"),
        (["--limit", "/dev/null"], "/dev/null is no limit. Write for example"),
        (["--against", "/no/such/file"], "does not exist"),
        (["--seconds", "0.1"], "0.1 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(arguments: list[str], words: str) -> None:
    answer = say(*arguments)
    assert answer.exit_code == 2
    assert words in " ".join(answer.output.split())


def test_picture_that_cannot_be_drawn_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(picture, "can_draw", lambda: False)
    answer = say("--png", str(tmp_path / "picture.png"))
    assert answer.exit_code == 2
    assert "pip install matplotlib" in " ".join(answer.output.split())


def test_figures_of_an_earlier_run_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    write(run_of(OURS), path)
    assert say("--list", "--against", str(path)).exit_code == 0


def test_stored_run_is_told_drawn_and_compared_again(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    before, after, drawn = (tmp_path / name for name in ("before.json", "after.json", "new.png"))
    write(run_of(VETH, OURS), before)
    slower = run_of(VETH, OURS)
    for one in slower.results[1].rounds:
        one["up_gbps"] /= 10
    write(slower, after)
    same = say("--from", str(before), "--against", str(before), "--png", str(drawn))
    assert same.exit_code == 0, same.output
    assert "0 changed beyond the scatter" in same.output
    assert drawn.read_bytes().startswith(b"\x89PNG")
    worse = say("--from", str(after), "--against", str(before), "--markdown")
    assert worse.exit_code == 1
    assert "1 changed beyond the scatter" in worse.output
    assert "| TCP, 1 stream, up, Gbit/s " in worse.output
    assert "| this tunnel | TCP, 1 stream, up | times veth, no tunnel |" in worse.output


def test_limit_is_drawn_in_and_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    limits = [Result("prototype", rounds=[{"up_gbps": 5.0, "cpu_s_per_gb": 4.0}]), Result("far", rounds=[{"up_gbps": 1e6}])]
    path = tmp_path / "picture.svg"
    run = run_of(VETH, OURS, COTURN)
    picture.draw(run, limits, path)
    drawn = path.read_text()
    for label in (
        f"veth, no tunnel, up: {run.results[0].median('up_gbps'):g}",
        "prototype, up: 5",
        "prototype: 4",
        "far, up: 1e+06",
    ):
        assert f"<!-- {label} -->" in drawn
    assert f"<!-- {COTURN} -->" in drawn


def test_words_choose_contenders_and_this_tunnel_is_always_there() -> None:
    assert [one.name for one in tunnels.choose(FOUND, ())] == [VETH, OURS, NEWEST]
    assert [one.name for one in tunnels.choose(FOUND, ("veth", "newest"))] == [VETH, OURS, NEWEST]
    assert [one.name for one in tunnels.choose(FOUND, ("newest",))] == [OURS, NEWEST]
