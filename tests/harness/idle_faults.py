"""`python -m tests.harness.idle_faults NAME LOGS`: a cell of the fault table in which the fault does nothing to the lab."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from firezone.lab.faults import injections as fault_injections
from firezone.lab.faults.cell import run_cell
from firezone.lab.faults.injections import INJECTIONS, Cell, Injected
from firezone.lab.faults.kinds import FAULTS, Fault
from firezone.lab.programs import Program

PATIENCE_S, AWAY_S = 1.5, 1.0
ACTIONS = {"run", "run_lines", "load_nft", "kill", "restart", "send_signal", "start_spare_relay"}
PARTS = {"topology", "router", "client", "portal", "gateway", "relay", "spare_relay", "process"}


class Idle:
    """Stands before something of the lab and lets itself be asked, but does nothing to it."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        if name in ACTIONS:
            return lambda *_, **__: self
        found = getattr(self._real, name)
        # The client's program is sent signals to choose a path, which is no part of a fault.
        is_idle = name in PARTS and found is not None and not (name == "client" and isinstance(found, Program))
        return Idle(found) if is_idle else found


def main() -> None:
    name, logs = sys.argv[1:]
    inject = INJECTIONS[name]

    def idle(cell: Cell) -> Injected:
        return inject(Cell(Idle(cell.stack), cell.flows))  # type: ignore[arg-type]

    INJECTIONS[name] = idle
    fault_injections.DARK_S = fault_injections.LINK_LOST_S = AWAY_S
    Fault.patience_s = property(lambda _: PATIENCE_S)  # type: ignore[method-assign,assignment]
    print(json.dumps(run_cell(FAULTS[name], Path(logs))))


if __name__ == "__main__":
    main()
