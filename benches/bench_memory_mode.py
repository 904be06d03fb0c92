"""Whole programs without the kernel's tunnel: the lab's memory mode, from client ring to gateway ring and back.

Portal, client and gateway run as in `./dev demo --memory`, over real loopback sockets. One process runs both ends, so the figures
are for one core that does the work of two machines; the time that pytest-benchmark prints is that of the whole run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

SECONDS = 2.0


def bench_memory_mode(benchmark: Any) -> None:
    def run() -> dict[str, Any]:
        command = [sys.executable, "-m", "firezone.lab", "demo", "--memory", "--json", "--seconds", str(SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    report = benchmark.pedantic(run, rounds=1)
    for figure in ("throughput_gbps", "rtt_ms", "cpu_s_per_gb", "connect_ms"):
        benchmark.extra_info[figure] = report[figure]
        print(f"{figure}: {report[figure]}")
