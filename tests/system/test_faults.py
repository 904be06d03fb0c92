"""The whole stack when things go wrong: killed programs, floods, refused packets, a portal that is away.

client ── router (NAT) ── public segment with the portal ── gateway ── resource
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.lab import RETRY_LIMIT_S, run

pytestmark = pytest.mark.root

STAGES = {"tun.read", "udp.read", "udp.send", "tun.write", "uplink.seal", "downlink.open", "other"}
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


@pytest.fixture(scope="module", params=["on", "off"])
def snapshots(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `snapshots` found over a relay, with reader threads and without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIREZONE_READER_THREADS", request.param)
        return {**run("snapshots-relayed"), "readers": request.param}


def test_every_program_tells_what_it_has_done(snapshots: dict[str, Any]) -> None:
    for name, found in snapshots["programs"].items():
        assert (found["format"], found["program"], found["mode"]) == (1, name, "0o600")
        assert found["uptime_s"] > found["cpu_s"] > 0.2
        assert found["ticks"] > 100
        for source in found["batches"].values():
            for sizes in source.values():
                assert sizes["count"] > 100
                assert sizes["count"] == sum(sizes["sizes"].values())
                assert sizes["sum"] >= sizes["count"]
        assert all(0 < ring["most_used"] <= ring["slots"] for ring in found["rings"].values())
        stages = found["stages"]
        assert stages["sampled"] == found["ticks"] // stages["every"]
        assert sum(stages["ns"].values()) == stages["total_ns"]
        assert all(0 < ns <= stages["total_ns"] for ns in stages["ns"].values())


def test_clients_and_gateways_tell_their_stages_drops_and_threads(snapshots: dict[str, Any]) -> None:
    ends = [snapshots["programs"][name] for name in ("client", "gateway")]
    for name, found in zip(("client", "gateway"), ends, strict=True):
        assert found["stages"]["ns"].keys() > STAGES
        main, *others = found["threads"]
        assert main["name"] == f"fz-{name}"
        assert main["user_s"] + main["system_s"] > 0.1
        threads = {thread["name"] for thread in others}
        assert "netlink" in threads
        assert ({"udp reader", "tun reader"} <= threads) == (snapshots["readers"] == "on")
    assert ends[0]["drops"]["fragment"] == 4
    # Segments of one super-packet are one read and many rows.
    assert ends[0]["batches"]["tun"]["rows"]["sum"] > 2 * ends[0]["batches"]["tun"]["reads"]["sum"]


def test_a_relay_tells_what_its_pump_does(snapshots: dict[str, Any]) -> None:
    relay = snapshots["programs"]["relay"]
    assert relay["stages"]["ns"].keys() == {"pump", "machine", "other"}
    assert relay["pump"]["rounds"] // 16 <= relay["pump"]["sampled"] <= relay["pump"]["rounds"] // 16 + 1
    assert all(ns > 0 for ns in relay["pump"]["ns"].values())
    assert relay["relayed"]["to_peers_bytes"] + relay["relayed"]["to_clients_bytes"] > 1_000_000
    assert relay["threads"][0]["name"] == "fz-relay"


def test_a_flood_of_signals_costs_a_transfer_little(snapshots: dict[str, Any]) -> None:
    assert snapshots["sent"] > 1000
    assert all(2 < written < 30 for written in snapshots["written"].values()), snapshots["written"]
    assert snapshots["ratio"] > KEPT_RATE
    assert not snapshots["complaints"]
