"""Through the relay, both ways:

    listen port      ▸ look up by client and channel ▸ group ▸ allocation ports
    allocation ports ▸ look up by port and peer      ▸ group ▸ listen port

Nothing is copied: a channel header is left out by moving the row's offset, or gathered in front of the payload by the send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.limits import BATCH_ROWS
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.offload import group_runs

if TYPE_CHECKING:
    from firezone.kernels.relay import RelayTable
    from firezone.kernels.ring import PacketRing


class RelayPath:
    """The stages of both directions, over one reused batch that points into the ring's slab."""

    def __init__(self, table: RelayTable) -> None:
        self._table = table
        self.batch = PacketBatch(BATCH_ROWS)
        self.runs = RunList(BATCH_ROWS)

    def from_clients(self, ring: PacketRing, entries: int) -> int:
        """Takes up to `entries` reads of the listen port; afterwards `runs` is to be sent and punted rows are STUN.

        Returns: how many reads were taken; their slots must be given back once the runs are sent.
        """
        taken = self._table.from_clients(ring, entries, self.batch)
        group_runs(self.batch, self.runs)
        return taken

    def retry(self) -> int:
        """Has what found no channel in the batch looked up again; afterwards `runs` is what can be sent now. Returns its rows."""
        found = self._table.retry(self.batch)
        group_runs(self.batch, self.runs)
        return found

    def from_peers(self, ring: PacketRing, entries: int) -> int:
        """The same for reads of allocation ports; punted rows are datagrams for Data indications."""
        taken = self._table.from_peers(ring, entries, self.batch)
        group_runs(self.batch, self.runs)
        return taken
