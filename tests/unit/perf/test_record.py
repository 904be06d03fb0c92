"""What `./dev perf record` says where it cannot record."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from perf.record import CannotRecord, check_perf, explain, main


def test_a_missing_perf_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 1
    assert "perf is not installed" in done.output
    assert "apt-get install linux-perf" in done.output


def perf_that_says(directory: Path, words: str) -> str:
    program = directory / "perf"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit 255\n")
    program.chmod(0o755)
    return str(program)


def test_a_kernel_that_forbids_it_is_told_with_what_would_allow_it(tmp_path: Path) -> None:
    words = (
        "Error:\nAccess to performance monitoring and observability operations is limited.\n"
        "Consider adjusting /proc/sys/kernel/perf_event_paranoid setting to open ..."
    )
    with pytest.raises(CannotRecord, match=r"perf_event_paranoid is -?\d.*sysctl kernel\.perf_event_paranoid=1.*CAP_PERFMON"):
        check_perf(10_000, perf_that_says(tmp_path, words))


def test_too_many_samples_are_told_as_such() -> None:
    words = "Maximum frequency rate (4000 Hz) exceeded.\nPlease use -F freq option with a lower value or consider\ntweaking max"
    assert "lower --freq" in explain(words)


@pytest.mark.parametrize(("words", "says"), [("WARNING: perf not found for kernel 6.1\n", "perf not found"), ("", "no reason")])
def test_other_words_are_quoted(words: str, says: str) -> None:
    assert says in explain(words)


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--who", "relay"], "Without --relayed"), (["--who", "portal"], "'portal' is not one of"), (["--seconds", "0"], "0"),
     (["--svg", "/nowhere/x.svg"], "cannot be written"), (["--out", __file__], "is a file")],
)  # fmt: skip
def test_wrong_options_are_told_at_once(options: list[str], says: str) -> None:
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 2
    assert says in done.output
