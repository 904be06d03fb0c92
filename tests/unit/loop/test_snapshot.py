"""Snapshots of a running program's counters: where they go, who may read them, and how often they are made."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import firezone
from firezone.io.threads import name_thread, thread_report
from firezone.kernels.types import Reason
from firezone.loop import snapshot
from firezone.loop.snapshot import SnapshotFile, default_path, reasons_report, replace_file


def collect() -> dict[str, Any]:
    return {"ticks": 7}


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


async def until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if condition():
            break
        await asyncio.sleep(0.005)
    assert condition()


async def test_the_signal_writes_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "counters.json"
    file = SnapshotFile("gateway", path, collect)
    file.watch_signal(asyncio.get_running_loop())
    os.kill(os.getpid(), signal.SIGUSR2)
    await until(path.exists)
    found = json.loads(path.read_text())
    assert found["ticks"] == 7
    assert (found["format"], found["program"], found["version"]) == (1, "gateway", firezone.__version__)
    assert found["pid"] == os.getpid()
    assert found["cpu_s"] > 0
    assert 0 < found["uptime_s"] < time.clock_gettime(time.CLOCK_BOOTTIME)
    assert found["threads"][0]["tid"] == os.getpid()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["counters.json"]


async def test_a_flood_of_signals_is_answered_a_few_times_and_at_the_end(tmp_path: Path) -> None:
    written: list[float] = []
    sent = 0

    def count() -> dict[str, Any]:
        written.append(time.monotonic())
        return {"sent": sent}

    path = tmp_path / "counters.json"
    file = SnapshotFile("relay", path, count)
    file.watch_signal(asyncio.get_running_loop())
    start = time.monotonic()
    while time.monotonic() < start + 2.5 * snapshot.MIN_INTERVAL_S:
        os.kill(os.getpid(), signal.SIGUSR2)
        sent += 1
        await asyncio.sleep(0)
    await until(lambda: path.exists() and json.loads(path.read_text())["sent"] == sent)
    assert sent > 100
    assert 2 <= len(written) <= 2 + (time.monotonic() - start) / snapshot.MIN_INTERVAL_S


def test_the_end_writes_only_where_a_file_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    SnapshotFile("client", None, collect).finish()
    assert list(tmp_path.iterdir()) == []
    SnapshotFile("client", tmp_path / "named", collect).finish()
    assert [entry.name for entry in tmp_path.iterdir()] == ["named"]


def test_without_a_name_it_goes_to_the_runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert SnapshotFile("client", None, collect).write() == tmp_path / "firezone-client.counters.json"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "missing"))
    assert default_path("relay").name == "firezone-relay.counters.json"
    assert os.access(default_path("relay").parent, os.W_OK)


def test_a_place_that_is_gone_costs_a_warning_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert SnapshotFile("client", tmp_path / "gone" / "counters.json", collect).write() is None


def test_neither_links_nor_devices_are_written_through(tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    target.write_text("precious")
    link.symlink_to(target)
    replace_file(link, "{}")
    assert target.read_text() == "precious"
    assert not link.is_symlink()
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is not a file"):
        replace_file(pipe, "{}")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_a_killed_writer_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".counters.{os.getpid()}").write_text("half of i")
    replace_file(tmp_path / "counters", "{}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["counters"]


def test_drops_are_the_rows_dropped_and_what_the_ends_lost() -> None:
    reasons = np.zeros(256, np.uint32)
    reasons[Reason.FRAGMENT], reasons[Reason.STUN], reasons[Reason.UNKNOWN_DATAGRAM] = 3, 5, 2
    report = reasons_report(reasons, {"udp": {"refused": 4, "no_socket": 0, "sent": 9}, "tun": {}})
    assert report["rows"] == {"fragment": 3, "stun": 5, "unknown_datagram": 2}
    assert report["drops"] == {"fragment": 3, "unknown_datagram": 2, "udp_refused": 4}


def test_threads_are_seen_by_name() -> None:
    before = thread_report()[0]["name"]
    try:
        name_thread("a name that is too long")
        assert thread_report()[0]["name"] == "a name that is "
    finally:
        name_thread(before)
