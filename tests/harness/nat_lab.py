"""Runs a scenario among the lab's NATs: `python -m tests.harness.nat_lab NAME` in fresh namespaces; prints one JSON object."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from firezone.base.errors import ConfigError
from firezone.base.timing import SECOND
from firezone.lab.measure import ping
from firezone.lab.namespaces import INSIDE, unshare_command
from firezone.lab.nat.kinds import SURROUNDINGS, Kind, complaints
from firezone.lab.nat.lab import PROBE_ADDRESSES, NatLab
from tests.harness.lab import ROOT


def run(scenario: str, timeout: float = 60.0) -> Any:
    """Runs a scenario and returns what it found. Raises AssertionError with its output when it failed."""
    done = subprocess.run(
        [*unshare_command(), sys.executable, "-m", "tests.harness.nat_lab", scenario],
        cwd=ROOT, env={**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{scenario} failed:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def classify_all(lab: NatLab) -> Any:
    """What the probe finds behind each kind, and each side's complaints."""
    found = {}
    for kind in Kind:
        place = lab.places.build("client", kind)
        finding = lab.classify(place.host)
        found[kind] = {"finding": asdict(finding), "complaints": complaints(kind, finding)}
        place.close()
    return found


def wrong_kind(lab: NatLab) -> Any:
    """Asks for a symmetric NAT and gets a full cone: the lab must refuse it."""
    build = lab.places.build
    lab.places.build = lambda side, kind: build(side, Kind.FULL_CONE)  # type: ignore[method-assign]
    refused = []
    for _ in range(2):  # a network that was refused once is not taken the next time
        try:
            lab.place("client", Kind.SYMMETRIC)
        except ConfigError as error:
            refused.append(str(error))
    return refused


def errors_and_timeouts(lab: NatLab) -> Any:
    """A closed port's ICMP error reaches the socket behind the NAT; a mapping that nobody uses ends, one that is used stays."""
    short = replace(SURROUNDINGS[Kind.FULL_CONE].nats[0], timeout=SECOND, is_preserving=False)
    SURROUNDINGS[Kind.FULL_CONE] = replace(SURROUNDINGS[Kind.FULL_CONE], nats=(short,))
    place = lab.places.build("client", Kind.FULL_CONE)
    script = Path(__file__).parent / "nat_sockets.py"
    done = subprocess.run(
        place.host.command(sys.executable, str(script), PROBE_ADDRESSES[0]), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def rebinding(lab: NatLab) -> Any:
    """The NAT is told to rebind while a socket behind it is in use."""
    place = lab.places.build("client", Kind.PORT_RESTRICTED)
    script = Path(__file__).parent / "nat_sockets.py"
    command = place.host.command(sys.executable, str(script), PROBE_ADDRESSES[0], "rebound")
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    place.nats[0].process.send_signal(signal.SIGUSR1)
    child.stdin.write("\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def distances(lab: NatLab) -> Any:
    """Round trips over TCP's and ICMP's way through the kernel, from the region of the probe and from the other one."""
    near, far = lab.places.build("client", Kind.PORT_RESTRICTED), lab.places.build("gateway", Kind.PORT_RESTRICTED)
    return {
        "near_ms": ping(near.host, PROBE_ADDRESSES[0], count=10)["p50"],
        "far_ms": ping(far.host, PROBE_ADDRESSES[0], count=10)["p50"],
    }


SCENARIOS = {
    "classify_all": classify_all,
    "wrong_kind": wrong_kind,
    "errors_and_timeouts": errors_and_timeouts,
    "rebinding": rebinding,
    "distances": distances,
}


def main() -> None:
    logs = Path(tempfile.mkdtemp(prefix="firezone-test-"))
    lab = NatLab.build(logs)
    found = SCENARIOS[sys.argv[1]](lab)
    lab.close()
    shutil.rmtree(logs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
