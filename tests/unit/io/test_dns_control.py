"""The methods behind one interface: what each does at start, with servers, without, and at the end."""

# ruff: noqa: ASYNC240 - small files of the test's own

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from firezone.base.errors import ConfigError
from firezone.io import dns_control, file_watch
from firezone.io.dns_control import METHODS, DnsControl, make_dns_control, recover, revert_all, status
from firezone.io.resolv_conf_file import FIRST_LINE, ResolvConfFile

ORIGINAL = b"nameserver 192.0.2.53\n"
SENTINELS = ["100.100.111.1"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_bytes(ORIGINAL)
    return path


async def started(method: str, path: Path) -> DnsControl:
    control = make_dns_control(method, path=path)
    await control.start()
    return control


def crash(path: Path) -> None:
    """Leaves the file as a killed client does."""
    file = ResolvConfFile(path)
    file.take_over(SENTINELS, None)
    file._release()


def test_a_method_that_does_not_exist_is_refused() -> None:
    assert METHODS == ("systemd-resolved", "etc-resolv-conf", "disabled")
    with pytest.raises(ValueError, match="no DNS method"):
        make_dns_control("nrpt")


async def test_disabled_reads_and_writes_nothing(path: Path) -> None:
    control = await started("disabled", path)
    await control.apply(SENTINELS, None, "lo")
    assert control.system_resolvers() == ["192.0.2.53"]
    await control.flush()
    await control.revert()
    assert path.read_bytes() == ORIGINAL
    assert os.listdir(path.parent) == ["resolv.conf"]


async def test_no_servers_leave_the_file_alone(path: Path) -> None:
    control = await started("etc-resolv-conf", path)
    with capture_logs() as logs:
        await control.apply([], "corp.example", "lo")
    assert path.read_bytes() == ORIGINAL
    assert [entry["log_level"] for entry in logs] == ["warning"]
    await control.revert()


async def test_a_configuration_after_the_end_changes_nothing(path: Path) -> None:
    control = await started("etc-resolv-conf", path)
    await control.apply(SENTINELS, None, "lo")
    await control.revert()
    await control.apply(SENTINELS, None, "lo")
    assert path.read_bytes() == ORIGINAL


async def test_the_end_waits_for_a_write_whose_caller_was_cancelled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = await started("etc-resolv-conf", path)
    is_writing, may_write = threading.Event(), threading.Event()
    take_over = ResolvConfFile.take_over

    def slow(*arguments: Any) -> None:
        is_writing.set()
        assert may_write.wait(5)
        take_over(*arguments)

    monkeypatch.setattr(ResolvConfFile, "take_over", slow)
    applying = asyncio.create_task(control.apply(SENTINELS, None, "lo"))
    await asyncio.to_thread(is_writing.wait, 5)
    applying.cancel()
    reverting = asyncio.create_task(control.revert())
    await asyncio.sleep(0.05)
    may_write.set()
    await reverting
    assert path.read_bytes() == ORIGINAL


async def test_an_unusable_file_ends_the_start(path: Path) -> None:
    path.write_bytes(b"nonsense here\n")
    with pytest.raises(ConfigError, match=r"line 1 of resolv\.conf is not understood"):
        await started("etc-resolv-conf", path)


@pytest.mark.parametrize("has_inotify", [True, False])
async def test_changes_of_the_file_are_told(path: Path, has_inotify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_inotify:
        monkeypatch.setattr(file_watch._LIBC, "inotify_init1", lambda _: -1)
        monkeypatch.setattr(file_watch, "POLL_INTERVAL_S", 0.05)
    control = await started("disabled", path)
    seen: asyncio.Queue[list[str]] = asyncio.Queue()
    control.on_change(lambda: seen.put_nowait(control.system_resolvers()))
    assert await asyncio.wait_for(seen.get(), 5) == ["192.0.2.53"]
    path.write_bytes(b"nameserver 192.0.2.54\n")
    assert await asyncio.wait_for(seen.get(), 5) == ["192.0.2.54"]
    replacement = path.with_name("new")
    for server in ("192.0.2.55", "192.0.2.56"):
        replacement.write_text(f"nameserver {server}\n")
        replacement.rename(path)
        assert await asyncio.wait_for(seen.get(), 5) == [server]
    path.unlink()
    assert await asyncio.wait_for(seen.get(), 5) == []
    (path.parent / "run").mkdir()
    path.symlink_to("run/stub.conf")
    (path.parent / "run" / "stub.conf").write_bytes(ORIGINAL)
    assert await asyncio.wait_for(seen.get(), 5) == ["192.0.2.53"]
    await control.revert()


@pytest.mark.parametrize("method", ["systemd-resolved", "etc-resolv-conf"])
def test_a_crash_is_recovered_whatever_the_method_that_controls_dns(path: Path, method: str) -> None:
    crash(path)
    recover(method, path)
    assert path.read_bytes() == ORIGINAL


def test_with_dns_disabled_a_crash_is_told_and_left(path: Path) -> None:
    crash(path)
    with capture_logs() as logs:
        recover("disabled", path)
    assert "dns revert" in logs[0]["event"]
    assert path.read_text().startswith(FIRST_LINE)


async def test_revert_and_status_tell_what_they_found(path: Path) -> None:
    bus = f"unix:path={path.parent}/none"
    crash(path)
    lines = await status("none-0", path=path, bus=bus)
    assert "set by Firezone" in lines[0]
    assert lines[1:] == ["  servers of the network: 192.0.2.53", "none-0: no such interface", "systemd-resolved: not reached"]
    assert await revert_all("none-0", path=path, bus=bus) == [f"{path} is the original again."]
    assert await revert_all("none-0", path=path, bus=bus) == []
    assert dns_control.DEFAULT_METHOD == "systemd-resolved"
