"""The two flows of a fault as the lab sees them: a steady echo and a download, with the longest gap of each."""

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
    """Both flows through one tunnel."""

    server: Program
    echo: Flow
    download: Flow

    @classmethod
    def start(cls, client: Namespace, resource: Namespace, host: str, logs: Path) -> Flows:
        """Starts both and waits until both run. Raises ConfigError when one does not."""
        server = Program.start("flow-server", resource, python("firezone.lab.flow", "serve"), logs)
        server.wait_for("listening")
        echo, download = (
            Flow(Program.start(f"flow-{kind}", client, python("firezone.lab.flow", kind, host), logs))
            for kind in ("echo", "download")
        )
        flows = cls(server, echo, download)
        if not wait_until(lambda: echo.last and download.last, timeout=_START_TIMEOUT_S):
            flows.close()
            raise ConfigError(f"No {'echo' if not echo.last else 'byte of the file'} came back within {_START_TIMEOUT_S:.0f} s.")
        return flows

    def wait_for_both(self, moment: float, timeout: float) -> bool:
        """Waits until both flows have got something after a moment of CLOCK_MONOTONIC."""
        return bool(wait_until(lambda: min(self.echo.last, self.download.last) > moment, timeout=timeout))

    def close(self) -> None:
        for program in (self.echo.program, self.download.program, self.server):
            program.kill()
