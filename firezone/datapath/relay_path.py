"""Through the relay, both ways:

    listen port      ▸ look up by client and channel ▸ group ▸ allocation ports
    allocation ports ▸ look up by port and peer      ▸ group ▸ listen port

Nothing is copied: a channel header is left out by moving the row's offset, or gathered in front of the payload by the send. The
stages run from socket to socket without the interpreter (`csrc/fz_pump.h`); here is what they run over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.limits import BATCH_ROWS
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.offload import group_runs

if TYPE_CHECKING:
    from firezone.kernels.relay import RelayTable


class RelayPath:
    """One direction: a reused batch that points into the slab of its side's ring, and the runs made of it."""

    def __init__(self) -> None:
        self.batch = PacketBatch(BATCH_ROWS)
        self.runs = RunList(BATCH_ROWS)

    def retry(self, table: RelayTable) -> int:
        """Has what found no channel in the batch looked up again; afterwards `runs` is what can be sent now. Returns its rows."""
        found = table.retry(self.batch)
        group_runs(self.batch, self.runs)
        return found
