"""One measurement of one contender, and the summary of several rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from firezone.lab.measure import datagrams, ping, throughput, wait_for_page
from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_PORT

if TYPE_CHECKING:
    from perf.contenders import Contender

FIGURES = (
    "up_gbps", "down_gbps", "retransmits_per_gb", "udp_lost_percent", "rtt_p50_ms", "rtt_p99_ms", "cpu_s_per_gb",
    "datagrams_per_send",
)  # fmt: skip
UDP_MEGABITS = 400
"""Rate of the UDP transfer: every contender but none can carry it, so what is lost is lost to queues."""


@dataclass
class Result:
    """Every round of one contender."""

    name: str
    rounds: list[dict[str, float]] = field(default_factory=list)

    def median(self, figure: str) -> float | None:
        values = [one[figure] for one in self.rounds if figure in one]
        return statistics.median(values) if values else None

    def spread(self, figure: str) -> float:
        """Largest minus smallest."""
        values = [one[figure] for one in self.rounds if figure in one]
        return max(values) - min(values) if values else 0.0

    def to_json(self) -> dict[str, Any]:
        medians = {figure: self.median(figure) for figure in FIGURES}
        return {"name": self.name, "median": medians, "rounds": self.rounds}


def measure(contender: Contender, seconds: float) -> dict[str, float]:
    """Starts a contender, measures it and stops it."""
    client = contender.topology.client
    contender.start()
    try:
        wait_for_page(client, RESOURCE_ADDRESS, RESOURCE_PORT, 20)
        rtt = ping(client, RESOURCE_ADDRESS, count=200, interval=0.01)
        before = contender.cpu_seconds()
        up = throughput(client, RESOURCE_ADDRESS, seconds)
        down = throughput(client, RESOURCE_ADDRESS, seconds, reverse=True)
        used = contender.cpu_seconds() - before
        udp = datagrams(client, RESOURCE_ADDRESS, min(seconds, 2.0), megabits=UDP_MEGABITS)
    finally:
        contender.stop()
    found = {"up_gbps": up["gbps"], "down_gbps": down["gbps"], "rtt_p50_ms": rtt["p50"], "rtt_p99_ms": rtt["p99"]}
    found["retransmits_per_gb"] = (up["retransmits"] + down["retransmits"]) / ((up["bytes"] + down["bytes"]) / 1e9)
    found["udp_lost_percent"] = udp["lost_percent"]
    if used:
        found["cpu_s_per_gb"] = used / ((up["bytes"] + down["bytes"]) / 1e9)
    if (per_send := contender.datagrams_per_send()) is not None:
        found["datagrams_per_send"] = per_send
    return {figure: round(value, 3) for figure, value in found.items()}
