"""`python -m firezone.lab.faults.cell NAME LOGS`: one fault in one fresh lab, measured by its flows; prints one JSON object."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from firezone.base.errors import FirezoneError
from firezone.lab.faults.flows import Flows
from firezone.lab.faults.injections import INJECTIONS, STEADY_S, Cell
from firezone.lab.faults.kinds import FAULTS, Fault
from firezone.lab.programs import wait_until
from firezone.lab.stack import Stack
from firezone.lab.topology import RESOURCE_ADDRESS

TWO_RELAYS = {"relay-of-peer", "relay-killed", "relay-silent"}
"""Where both relays are there from the beginning."""


def run_cell(fault: Fault, logs: Path) -> dict[str, Any]:
    """Starts a lab, lets the flows run, does it, and waits until they run again. Raises FirezoneError without a lab."""
    stack = Stack.start(logs, lambda step: None, is_relayed=fault.is_relayed, has_spare_relay=fault.is_relayed)
    if fault.name in TWO_RELAYS:
        stack.start_spare_relay()
        time.sleep(STEADY_S)  # Both sides hear of it and get their allocations.
    flows = Flows.start(stack.topology.client, stack.topology.resource, RESOURCE_ADDRESS, logs, has_new=fault.is_about_new)
    try:
        time.sleep(STEADY_S)
        path = stack.path()
        injected = INJECTIONS[fault.name](Cell(stack, flows))
        is_back = flows.wait_for_all(max(injected.since, time.monotonic()) + 0.5, timeout=fault.patience_s)
        has_happened = bool(wait_until(injected.is_seen, timeout=fault.patience_s))
        time.sleep(STEADY_S)
        found = {
            "is_back": is_back,
            "missing_sign": "" if has_happened else injected.sign,
            "flow_gap_s": flows.echo.longest_gap(injected.since),
            "flow_after_s": flows.echo.first_after(injected.since),
            "path_before": path,
            "path_after": stack.path(),
            "complaints": stack.complaints(),
        }
        echo, download = flows.echo.result(), flows.download.result()
        found |= {
            "lost": echo["sent"] - echo["received"],
            # Read after its end, so that a gap that never ended counts.
            "download_gap_s": flows.download.longest_gap(injected.since),
            "size": download["size"],
            "breaks": download["breaks"],
            "is_intact": echo["is_intact"] and download["is_intact"],
        }
        if flows.new is not None:
            flows.new.result()
            found["new_gap_s"] = flows.new.longest_gap(injected.since)
    finally:
        flows.close()
        stack.close()
    return found


def main() -> None:
    name, logs = sys.argv[1:]
    try:
        print(json.dumps(run_cell(FAULTS[name], Path(logs))))
    except FirezoneError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
