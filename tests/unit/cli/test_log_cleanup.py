"""Old log files: the oldest go first, the young and the last of each directory stay."""

from __future__ import annotations

import os
from pathlib import Path

from firezone.cli.log_cleanup import MIN_AGE_S, clean_up_logs

NOW = 1_000_000.0


def make(directory: Path, name: str, size: int, age_s: float) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_bytes(bytes(size))
    os.utime(path, (NOW - age_s, NOW - age_s))
    return path


def test_the_oldest_files_go_until_the_rest_fits(tmp_path: Path) -> None:
    files = [make(tmp_path, f"{n}.log", 40, 4000 - n) for n in range(4)]
    assert clean_up_logs([tmp_path], NOW, max_size=100) == files[:2]
    assert [path.exists() for path in files] == [False, False, True, True]


def test_nothing_is_deleted_while_everything_fits(tmp_path: Path) -> None:
    make(tmp_path, "1.log", 40, 4000)
    make(tmp_path, "2.log", 60, 3000)
    assert clean_up_logs([tmp_path], NOW, max_size=100) == []


def test_directories_share_the_limit_and_keep_a_file_each(tmp_path: Path) -> None:
    old = [make(tmp_path / "a", f"{n}.log", 50, 9000 - n) for n in range(2)]
    new = [make(tmp_path / "b", f"{n}.log", 50, 5000 - n) for n in range(2)]
    assert clean_up_logs([tmp_path / "a", tmp_path / "b"], NOW, max_size=10) == [old[0], new[0]]


def test_young_files_stay(tmp_path: Path) -> None:
    young = [make(tmp_path, f"{n}.log", 50, MIN_AGE_S - 1 - n) for n in range(3)]
    old = make(tmp_path, "old.log", 50, MIN_AGE_S)
    assert clean_up_logs([tmp_path], NOW, max_size=10) == [old]
    assert all(path.exists() for path in young)


def test_a_limit_of_zero_switches_it_off(tmp_path: Path) -> None:
    make(tmp_path, "1.log", 50, 9000)
    make(tmp_path, "2.log", 50, 8000)
    assert clean_up_logs([tmp_path], NOW, max_size=0) == []


def test_other_files_links_and_missing_directories_are_left_alone(tmp_path: Path) -> None:
    other = make(tmp_path, "notes.txt", 500, 9000)
    target = make(tmp_path / "elsewhere", "target", 500, 9000)
    (tmp_path / "x.log").symlink_to(target)
    make(tmp_path, "1.log", 50, 9000)
    assert clean_up_logs([tmp_path, tmp_path / "none"], NOW, max_size=10) == []
    assert other.exists()
    assert target.exists()
