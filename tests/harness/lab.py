"""Runs a scenario inside the lab: `python -m tests.harness.lab NAME` in fresh namespaces; prints one JSON object.

The scenarios need the whole stack: portal, gateway, client and resource in their networks. A test starts one by `run`, which
gives back the object.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from firezone.lab.measure import MeasurementError, fetch_page, ping, start_iperf, throughput, wait_for_page
from firezone.lab.namespaces import INSIDE, unshare_command
from firezone.lab.stack import Stack
from firezone.lab.topology import GATEWAY_ADDRESS, RESOURCE_ADDRESS, RESOURCE_PORT
from tests.harness import roaming

ROOT = Path(__file__).parents[2]
RETRY_LIMIT_S = 25.0
RELAYED = "-relayed"
"""Ends the name of a scenario that is to run where there is no way but over a relay."""


def run(scenario: str, *arguments: str, timeout: float = 120.0) -> dict[str, Any]:
    """Runs a scenario and returns what it found. Raises AssertionError with its output when it failed."""
    done = subprocess.run(
        [*unshare_command(), sys.executable, "-m", "tests.harness.lab", scenario, *arguments],
        cwd=ROOT,
        env={**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{scenario} failed:\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def kill_and_restart(stack: Stack, name: str) -> dict[str, Any]:
    """Kills a program in the middle of a transfer and starts it again; how long until the transfer's retry succeeds?"""
    client = stack.topology.client
    iperf = start_iperf(stack.topology.resource, stack.logs)
    outcome: list[str] = []

    def transfer() -> None:
        try:
            throughput(client, RESOURCE_ADDRESS, 3)
            outcome.append("finished")
        except (MeasurementError, subprocess.TimeoutExpired):
            outcome.append("broke")

    worker = threading.Thread(target=transfer, daemon=True)
    worker.start()
    time.sleep(1.0)
    program = getattr(stack, name)
    program.kill()
    setattr(stack, name, program.restart())
    seconds = wait_for_page(client, RESOURCE_ADDRESS, RESOURCE_PORT, RETRY_LIMIT_S)
    iperf.kill()
    return {"recovered_after_s": round(seconds, 2), "transfer": outcome}


def flood_with_garbage(stack: Stack, count: str) -> dict[str, Any]:
    """Sends `count` garbage datagrams at the gateway's port while a transfer runs, and compares its rate with the one before."""
    client = stack.topology.client
    start_iperf(stack.topology.resource, stack.logs)
    throughput(client, RESOURCE_ADDRESS, 1)
    alone = throughput(client, RESOURCE_ADDRESS, 3)["gbps"]
    flooder = subprocess.Popen(
        [sys.executable, "-m", "tests.harness.garbage", GATEWAY_ADDRESS, "52625", count], stdout=subprocess.PIPE
    )
    time.sleep(0.3)
    flooded = throughput(client, RESOURCE_ADDRESS, 3)["gbps"]
    was_flooded_throughout = flooder.poll() is None
    sent = int((flooder.communicate()[0] or b"0").split()[-1])
    page = fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)["status"]
    stack.gateway.stop()
    rows = stack.counters("gateway")["rows"]
    text = stack.gateway.log.read_text()
    return {
        "alone_gbps": alone, "flooded_gbps": flooded, "ratio": flooded / alone, "sent": sent, "page": page, "rows": rows,
        "traceback": "Traceback" in text, "was_flooded_throughout": was_flooded_throughout,
    }  # fmt: skip


def portal_away(stack: Stack) -> dict[str, Any]:
    """Takes the portal away: what is up stays up."""
    client = stack.topology.client
    fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)
    stack.portal.kill()
    losses = ping(client, RESOURCE_ADDRESS, count=100, interval=0.05)["lost"]
    page = fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)["status"]
    is_running = stack.client.process.poll() is None and stack.gateway.process.poll() is None
    return {"lost": losses, "page": page, "is_running": is_running}


def refused(stack: Stack) -> dict[str, Any]:
    """What does not belong into the tunnel or out of it: a foreign source, an address no resource covers."""
    client = stack.topology.client
    fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)
    client.run("ip", "addr", "add", "100.64.99.99/32", "dev", "tun-firezone")
    foreign = subprocess.run(
        client.command("ping", "-c", "3", "-i", "0.2", "-W", "1", "-I", "100.64.99.99", RESOURCE_ADDRESS),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    unknown = subprocess.run(
        client.command("ping", "-c", "2", "-i", "0.2", "-W", "1", "100.64.0.99"), capture_output=True, text=True, check=False
    )
    page = fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)["status"]
    return {"foreign": foreign.returncode, "unknown": unknown.returncode, "page": page}


def reset_by_signal(stack: Stack) -> dict[str, Any]:
    """SIGHUP: the client starts over with new keys and sockets and comes back by itself, any number of times."""
    client = stack.topology.client
    waits = []
    for _ in range(3):
        fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)
        stack.client.process.send_signal(signal.SIGHUP)
        waits.append(round(wait_for_page(client, RESOURCE_ADDRESS, RESOURCE_PORT, RETRY_LIMIT_S), 2))
    # Sockets that nobody watches would still be read when a timer fires: alive, but a thousand times slower.
    return {
        "waits_s": waits, "rtt_ms": ping(client, RESOURCE_ADDRESS, count=20), "is_running": stack.client.process.poll() is None,
        "path": stack.path(), "complaints": stack.complaints(),
    }  # fmt: skip


def device_deleted(stack: Stack) -> dict[str, Any]:
    """Somebody deletes the TUN device under the client: it ends and says why."""
    stack.topology.client.run("ip", "link", "del", "tun-firezone")
    status = stack.client.process.wait(timeout=10)
    return {"status": status, "says": "is gone" in stack.client.log.read_text()}


def plain_tun(stack: Stack) -> dict[str, Any]:
    """Both ends on a kernel that offers no offload for TUN: every packet is read and written alone."""
    (stack.logs / "sitecustomize.py").write_text("import firezone.io.tun_device as device\ndevice._OFFLOADS = ()\n")
    os.environ["PYTHONPATH"] = f"{stack.logs}:{os.environ['PYTHONPATH']}"
    for name in ("gateway", "client"):
        program = getattr(stack, name)
        program.stop()
        setattr(stack, name, program.restart())
    client = stack.topology.client
    wait_for_page(client, RESOURCE_ADDRESS, RESOURCE_PORT, RETRY_LIMIT_S)
    start_iperf(stack.topology.resource, stack.logs)
    moved = [throughput(client, RESOURCE_ADDRESS, 1.5, reverse=reverse)["bytes"] for reverse in (False, True)]
    for name in ("gateway", "client"):
        getattr(stack, name).stop()
    tun: list[Any] = [stack.counters(name)["tun"] for name in ("gateway", "client")]
    return {"megabytes": [size // 1_000_000 for size in moved], "offload": [counters["offload"] for counters in tun]}


def snapshots(stack: Stack) -> dict[str, Any]:
    """SIGUSR2 to every program after a transfer that one end had to drop something of; then a flood of signals during another."""
    client = stack.topology.client
    start_iperf(stack.topology.resource, stack.logs)
    alone = throughput(client, RESOURCE_ADDRESS, 2)["gbps"]
    too_large = client.command("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-M", "dont", "-s", "2000", RESOURCE_ADDRESS)
    subprocess.run(too_large, capture_output=True, check=False)
    programs = {name: program for name in ("client", "gateway", "relay") if (program := getattr(stack, name)) is not None}
    found: dict[str, Any] = {}
    for name, program in programs.items():
        program.process.send_signal(signal.SIGUSR2)
        program.wait_for("counters written")
        found[name] = {**stack.counters(name), "mode": oct((stack.logs / f"{name}.counters.json").stat().st_mode & 0o7777)}
    is_over, sent = threading.Event(), 0

    def flood() -> None:
        nonlocal sent
        while not is_over.wait(0.0005):
            sent += len(programs)
            for program in programs.values():
                program.process.send_signal(signal.SIGUSR2)

    flooder = threading.Thread(target=flood)
    flooder.start()
    flooded = throughput(client, RESOURCE_ADDRESS, 2)["gbps"]
    is_over.set()
    flooder.join()
    written = {name: program.log.read_text().count("counters written") for name, program in programs.items()}
    return {"programs": found, "sent": sent, "written": written, "ratio": flooded / alone, "complaints": stack.complaints()}


SCENARIOS = {
    "snapshots": snapshots,
    "plain_tun": plain_tun,
    "device_deleted": device_deleted,
    "kill_and_restart": kill_and_restart,
    "flood_with_garbage": flood_with_garbage,
    "portal_away": portal_away,
    "refused": refused,
    "reset_by_signal": reset_by_signal,
    **roaming.SCENARIOS,
}


def main() -> None:
    logs = Path(tempfile.mkdtemp(prefix="firezone-test-"))
    name, *arguments = sys.argv[1:]
    stack = Stack.start(logs, lambda step: None, is_relayed=name.endswith(RELAYED))
    try:
        found = SCENARIOS[name.removesuffix(RELAYED)](stack, *arguments)  # type: ignore[operator]
    except BaseException:
        for program in (stack.portal, stack.gateway, stack.client):
            print(program.quote(20), file=sys.stderr)
        raise
    stack.close()
    shutil.rmtree(logs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
