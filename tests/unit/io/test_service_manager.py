"""Readiness: one datagram to the service manager, or nothing."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from firezone.io.service_manager import notify_ready


def listen(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(address)
    sock.settimeout(0.2)
    return sock


def test_ready_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    with listen(path) as sock:
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify_ready()
        notify_ready()
        assert sock.recv(100) == b"READY=1"
        with pytest.raises(TimeoutError):
            sock.recv(100)
    assert "NOTIFY_SOCKET" not in os.environ


def test_abstract_names_begin_with_an_at(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"firezone-test-{uuid.uuid4()}"
    with listen("\0" + name) as sock:
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify_ready()
        assert sock.recv(100) == b"READY=1"


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_service_manager_nothing_happens(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if value is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    with capture_logs() as lines:
        notify_ready()
    assert lines == []


def test_a_service_manager_that_is_gone_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with capture_logs() as lines:
        notify_ready()
    assert [line["log_level"] for line in lines] == ["warning"]
