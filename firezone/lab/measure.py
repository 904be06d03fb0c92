"""What the demo and the comparison measure through a tunnel: a page, round trips, throughput and what it costs."""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

from firezone.base.errors import FirezoneError
from firezone.lab.programs import Program, python, wait_until

if TYPE_CHECKING:
    from firezone.lab.namespaces import Namespace

IPERF_PORT = 5201
_IPERF_TRIES, _IPERF_PAUSE_S = 5, 0.3


class MeasurementError(FirezoneError):
    """Something that was to be measured did not work."""


def fetch_page(client: Namespace, host: str, port: int, timeout: float = 20.0, path: str = "/") -> dict[str, Any]:
    """Fetches the page once from the client's namespace; see `lab.fetch` for what comes back."""
    command = client.command(*python("firezone.lab.fetch", host, str(port), str(timeout), path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout + 10)
    if done.returncode:
        raise MeasurementError(f"The page could not be fetched: {done.stderr.strip()}")
    page: dict[str, Any] = json.loads(done.stdout)
    return page


def ping(client: Namespace, host: str, count: int = 100, interval: float = 0.02) -> dict[str, float]:
    """Returns the median and 99th percentile of the round trip in milliseconds, and the share lost."""
    command = client.command("ping", "-n", "-c", str(count), "-i", str(interval), "-W", "2", host)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    times = sorted(float(match) for match in re.findall(r"time=([0-9.]+) ms", done.stdout))
    if not times:
        raise MeasurementError(f"No echo came back from {host}: {done.stderr.strip() or 'all packets lost'}")
    return {
        "p50": times[len(times) // 2],
        "p99": times[min(len(times) - 1, round(len(times) * 0.99))],
        "lost": round(1 - len(times) / count, 4),
    }


def start_iperf(server: Namespace, logs: Any) -> Program:
    """Starts an iperf3 server and waits until it listens."""
    program = Program.start("iperf3", server, ["iperf3", "-s", "-p", str(IPERF_PORT), "--forceflush"], logs)
    program.wait_for("Server listening")
    return program


def throughput(client: Namespace, host: str, seconds: float, *, reverse: bool = False, streams: int = 1) -> dict[str, Any]:
    """Runs one TCP transfer and returns what the receiver got: `gbps` and `bytes`, and how many segments were sent again."""
    options = ["-t", str(seconds), "-P", str(streams), *(["-R"] if reverse else [])]
    result = _iperf(client, host, seconds, options)
    received, sent = result["end"]["sum_received"], result["end"]["sum_sent"]
    return {
        "gbps": received["bits_per_second"] / 1e9,
        "bytes": received["bytes"],
        "retransmits": sent.get("retransmits", 0),
    }


def datagrams(client: Namespace, host: str, seconds: float, *, megabits: int, size: int = 1200) -> dict[str, float]:
    """Sends UDP at a fixed rate and returns the share that was lost in percent, and the rate received in Gbit/s."""
    result = _iperf(client, host, seconds, ["-u", "-b", f"{megabits}M", "-l", str(size), "-t", str(seconds)])
    received = result["end"]["sum_received"] if "sum_received" in result["end"] else result["end"]["sum"]
    return {"lost_percent": received["lost_percent"], "gbps": received["bits_per_second"] / 1e9}


def _iperf(client: Namespace, host: str, seconds: float, options: list[str]) -> dict[str, Any]:
    """Runs one iperf3 and returns its report."""
    command = client.command("iperf3", "-c", host, "-p", str(IPERF_PORT), "-J", *options)
    for _ in range(_IPERF_TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
        result = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        if "error" not in result and {"sum_received", "sum"} & result.get("end", {}).keys():
            return result
        # Between two tests an iperf3 server ends the last one and opens its port anew; who comes then is refused or reset.
        if not any(words in result.get("error", "") for words in ("unable to connect", "server is busy")):
            break
        time.sleep(_IPERF_PAUSE_S)
    raise MeasurementError(f"iperf3 failed: {result.get('error') or done.stdout[-300:]}{done.stderr[-300:]}")


def wait_for_page(client: Namespace, host: str, port: int, timeout: float) -> float:
    """Retries the page until it comes, and returns the seconds that took. Raises MeasurementError after `timeout`."""
    start = time.monotonic()

    def attempt() -> bool:
        try:
            return bool(fetch_page(client, host, port, timeout=2.0)["status"] == 200)
        except MeasurementError:
            return False

    if wait_until(attempt, timeout=timeout) is None:
        raise MeasurementError(f"{host} did not answer within {timeout:.0f} s")
    return time.monotonic() - start
