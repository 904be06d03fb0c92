"""From the network to TUN:

    demux ▸ open ▸ parse ▸ filter ▸ join (super-packets, gathered)

One line per stage, in order; what came through a relay loses its channel header in the first and is as good as direct from there
on. Nothing is copied: datagrams are opened in the ring's slots and leave for TUN by gathering
rewritten headers and payloads, so the slots are given back only after the write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.limits import BATCH_ROWS
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import join_batch

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.datapath.tables import Tables
    from firezone.kernels.ring import PacketRing


class Downlink:
    """The stages from the network to TUN, over one reused batch that points into the ring's slab."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.batch = PacketBatch(BATCH_ROWS)
        self.runs = RunList(BATCH_ROWS)

    def run(self, ring: PacketRing, entries: int, now: Instant, *, coalesce: bool) -> int:
        """Takes up to `entries` reads out of the ring; afterwards `batch` holds the rows and `runs` what is for TUN.

        Returns: how many reads were taken; their slots must be given back once the runs are written.
        """
        batch, tables = self.batch, self._tables
        taken = cut_datagrams(ring, entries, batch, tables.channels)
        tables.sessions.open_batch(batch, now)
        parse_batch(batch, True)
        tables.filters.admit_from_tunnel(batch)
        join_batch(batch, self.runs, coalesce)
        return taken
