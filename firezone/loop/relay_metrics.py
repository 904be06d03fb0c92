"""A relay's counters as its operators read them: one log line, and one object for monitoring.

Names are those of the original's metrics, the older and the newer ones (relay specification, sections 12.3 and 16).
"""

from __future__ import annotations

from typing import Any

from firezone.io.otlp import Distribution, Labels, Total

_SIZE_BOUNDS = tuple(range(100, 1600, 100))
"""Bytes of payload between which datagrams are counted."""
_UNITS = ("B/s", "kB/s", "MB/s", "GB/s", "TB/s")


def throughput_text(bytes_relayed: int, seconds: float) -> str:
    """Returns a rate as the original prints it: factor 1000, two decimals."""
    rate = bytes_relayed / seconds if seconds > 0 else 0.0
    unit = 0
    while rate >= 1000 and unit < len(_UNITS) - 1:
        rate /= 1000
        unit += 1
    return f"{rate:.2f} {_UNITS[unit]}"


def relayed_bytes(counters: dict[str, Any]) -> int:
    """Returns the payload bytes relayed since the start, channel headers not counted, every datagram once."""
    relayed = counters["relayed"]
    return int(relayed["to_peers_bytes"] + relayed["to_clients_bytes"])


def metrics(counters: dict[str, Any], version: str) -> dict[str, Any]:
    """Returns what `GET /metrics` answers.

    Args: `counters` is what `loop.relay.Relay.counters` returns.
    """
    return {
        "service.name": "relay",
        "service.namespace": "firezone",
        "service.version": version,
        "allocations_total": counters["allocations"],
        "relay.active_allocations": counters["allocations"],
        "responses_total": counters["responses"],
        "relay.responses": counters["responses"],
        "data_relayed_userspace_bytes": relayed_bytes(counters),
        "data_relayed_ebpf_bytes": 0,
        "relay.packet.size": {"bounds": list(_SIZE_BOUNDS), "counts": counters["relayed"]["sizes"]},
        "counters": counters,
    }


def exported(counters: dict[str, Any]) -> list[Total | Distribution]:
    """Returns what an OpenTelemetry collector is sent, under the older and the newer names.

    Args: `counters` is what `loop.relay.Relay.counters` returns.
    """
    allocations: dict[Labels, int] = {(): counters["allocations"]}
    responses: dict[Labels, int] = {
        tuple(sorted((key, value) for key, value in response.items() if key != "count")): response["count"]
        for response in counters["responses"]
    }
    relayed, sizes = relayed_bytes(counters), tuple(counters["relayed"]["sizes"])
    return [
        Total("allocations_total", "", allocations, is_monotonic=False),
        Total("relay.active_allocations", "{allocation}", allocations, is_monotonic=False),
        Total("responses_total", "", responses),
        Total("relay.responses", "{response}", responses),
        Total("data_relayed_userspace_bytes", "b", {(): relayed}),
        Total("data_relayed_ebpf_bytes", "b", {(): 0}),
        Distribution("relay.packet.size", "By", (("relay.datapath", "userspace"),), _SIZE_BOUNDS, sizes, relayed),
    ]
