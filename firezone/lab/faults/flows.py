"""The flows of a fault as the lab sees them: a steady echo, a download, connections opened anew, with the longest gap of each."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firezone.base.errors import ConfigError
from firezone.lab.programs import Program, python, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from firezone.lab.namespaces import Namespace

_START_TIMEOUT_S = 25.0


@dataclass(slots=True)
class Flow:
    """One running flow; see `lab.flow` for what it writes."""

    program: Program

    @property
    def last(self) -> float:
        """When something came last, to half a second; 0.0 before the first."""
        return max((float(r["last"] or 0.0) for r in self._records() if "last" in r), default=0.0)

    def longest_gap(self, since: float) -> float:
        """Returns the longest gap that ended after `since`, in seconds; one that has not ended counts up to the flow's end."""
        records = self._records()
        gaps = [(start, end) for start, end in (r["gap"] for r in records if "gap" in r) if end >= since]
        for record in records:
            if "end" in record:
                gaps.append((record["last"] or since, record["end"]))
        return max((end - start for start, end in gaps), default=0.0)

    def first_after(self, moment: float) -> float:
        """Returns how long after a moment something came again, when a gap was going on then; 0.0 when none was."""
        found = [end - moment for start, end in (r["gap"] for r in self._records() if "gap" in r) if start <= moment <= end]
        return found[0] if found else (0.0 if self.last > moment else float("inf"))

    def result(self) -> dict[str, Any]:
        """Ends the flow and returns its last line."""
        self.program.stop()
        return self._records()[-1]

    def _records(self) -> list[dict[str, Any]]:
        found = []
        for line in self.program.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found


@dataclass(slots=True)
class Flows:
    """All flows through one tunnel."""

    server: Program
    echo: Flow
    download: Flow
    new: Flow | None = None

    @classmethod
    def start(cls, client: Namespace, resource: Namespace, host: str, logs: Path, *, has_new: bool = False) -> Flows:
        """Starts all and waits until all run; `has_new` adds connections opened anew. Raises ConfigError when one does not."""
        server = Program.start("flow-server", resource, python("firezone.lab.faults.flow", "serve"), logs)
        server.wait_for("listening")
        kinds = ("echo", "download", *(["new"] if has_new else []))
        found = {
            kind: Flow(Program.start(f"flow-{kind}", client, python("firezone.lab.faults.flow", kind, host), logs))
            for kind in kinds
        }
        flows = cls(server, **found)
        if not wait_until(lambda: all(flow.last for flow in found.values()), timeout=_START_TIMEOUT_S):
            flows.close()
            silent = " and ".join(kind for kind, flow in found.items() if not flow.last)
            raise ConfigError(f"Nothing came back within {_START_TIMEOUT_S:.0f} s to: {silent}.")
        return flows

    def wait_for_all(self, moment: float, timeout: float) -> bool:
        """Waits until every flow has got something after a moment of CLOCK_MONOTONIC."""
        return bool(wait_until(lambda: min(flow.last for flow in self._all()) > moment, timeout=timeout))

    def close(self) -> None:
        for program in (*(flow.program for flow in self._all()), self.server):
            program.kill()

    def _all(self) -> list[Flow]:
        return [self.echo, self.download, *([] if self.new is None else [self.new])]
