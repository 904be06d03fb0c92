"""The whole stack when things go wrong: killed programs, floods, refused packets, a portal that is away.

client ── router (NAT) ── public segment with the portal ── gateway ── resource
"""

from __future__ import annotations

import pytest

from tests.harness.lab import RETRY_LIMIT_S, run

pytestmark = pytest.mark.root

KEPT_RATE = 0.6
"""Share of its rate that a transfer must keep while a million garbage datagrams arrive."""


@pytest.mark.parametrize("name", ["client", "gateway", "portal", "web"])
def test_killed_program_comes_back_and_so_does_the_transfer(name: str) -> None:
    found = run("kill_and_restart", name)
    assert found["recovered_after_s"] <= RETRY_LIMIT_S


def test_garbage_flood_is_counted_and_leaves_a_transfer_most_of_its_rate() -> None:
    """A ratio within one run; a noisy machine gets a second try."""
    found = run("flood_with_garbage", "1000000", timeout=240)
    if found["ratio"] < KEPT_RATE:
        found = run("flood_with_garbage", "1000000", timeout=240)
    assert found["sent"] >= 1_000_000
    assert found["page"] == 200
    assert not found["traceback"]
    assert {"unknown_datagram", "oversized", "unknown_session"} <= set(found["rows"])
    assert found["ratio"] >= KEPT_RATE


def test_tunnel_stays_up_while_the_portal_is_away() -> None:
    assert run("portal_away") == {"lost": 0.0, "page": 200, "is_running": True}


def test_foreign_sources_and_unknown_destinations_get_no_answer() -> None:
    found = run("refused")
    assert found["foreign"] != 0
    assert found["unknown"] != 0
    assert found["page"] == 200


@pytest.mark.parametrize("way", ["direct", "relayed"])
def test_client_starts_over_on_sighup_any_number_of_times(way: str) -> None:
    found = run("reset_by_signal" if way == "direct" else "reset_by_signal-relayed")
    assert found["is_running"]
    assert all(wait < 5.0 for wait in found["waits_s"])
    assert found["path"].startswith(way)
    assert not found["complaints"]
    assert found["rtt_ms"]["p50"] < 100


@pytest.mark.parametrize("reader_threads", ["on", "off"])
def test_deleted_device_ends_the_client_with_a_reason(reader_threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREZONE_READER_THREADS", reader_threads)
    assert run("device_deleted") == {"status": 1, "says": True}


def test_a_whole_transfer_crosses_a_tun_device_without_offload() -> None:
    found = run("plain_tun")
    assert found["offload"] == ["none", "none"]
    assert all(size > 5 for size in found["megabytes"]), found
