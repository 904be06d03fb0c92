"""Every error of a tick is looked at; a collection that nobody takes says so."""

from __future__ import annotations

import errno
import gc
import logging

import pytest

from firezone.base.errors import ReaderStopped, RemoteError, TunClosed, UnknownConnection
from firezone.loop.errors import Severity, TickErrors, TunnelError, classify


def wrapped(error: Exception) -> Exception:
    outer = RemoteError("while sending")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "severity"),
    [
        (OSError(errno.ENETUNREACH, "unreachable"), Severity.COUNT),
        (OSError(errno.EINVAL, "invalid"), Severity.COUNT),
        (UnknownConnection("gone"), Severity.COUNT),
        (PermissionError(errno.EPERM, "firewall"), Severity.ONCE),
        (wrapped(PermissionError(errno.EACCES, "firewall")), Severity.ONCE),
        (ReaderStopped("udp"), Severity.FATAL),
        (wrapped(TunClosed("tun")), Severity.FATAL),
        (ZeroDivisionError("oops"), Severity.BUG),
    ],
)
def test_severity_is_decided_by_any_layer(error: Exception, severity: Severity) -> None:
    assert classify(error) is severity


def test_fatal_error_behind_ignorable_ones_is_seen() -> None:
    errors = TickErrors()
    for error in (OSError(errno.EHOSTUNREACH, "x"), UnknownConnection("y"), ReaderStopped("z")):
        errors.push(error)
    taken = errors.take()
    assert isinstance(taken, TunnelError)
    assert [classify(error) for error in taken.exceptions] == [Severity.COUNT, Severity.COUNT, Severity.FATAL]
    assert errors.take() is None


def test_collection_thrown_away_unread_complains(caplog: pytest.LogCaptureFixture) -> None:
    errors = TickErrors()
    errors.push(RemoteError("lost"))
    with caplog.at_level(logging.ERROR):
        del errors
        gc.collect()
    assert "never looked at" in caplog.text
