"""From TUN to the network:

    split ▸ parse ▸ route ▸ translate ▸ filter ▸ seal ▸ group (GSO runs)

One line per stage, in order. Translating needs the route, as a session is a client's, and comes before the filter, which judges the
address the client knows. Splitting copies each segment into the outgoing slab with headroom for the WireGuard header
and tailroom for the tag; sealing and sending happen in place, so the input slots are free as soon as the split is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firezone.base.limits import BATCH_ROWS, MAX_PACKET_SIZE, READS_PER_ROUND, WIREGUARD_OVERHEAD
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.ip import parse_batch
from firezone.kernels.offload import group_runs, split_batch

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.datapath.tables import Tables
    from firezone.kernels.ring import PacketRing

SLAB_SIZE = READS_PER_ROUND * (1 << 16) + BATCH_ROWS * WIREGUARD_OVERHEAD + MAX_PACKET_SIZE
"""Room for a full tick: eight super-packets and the overhead of every segment they can be cut into."""


class Uplink:
    """The stages from TUN to the network, over one reused batch and slab."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._slab = np.zeros(SLAB_SIZE, np.uint8)
        self.batch = PacketBatch(BATCH_ROWS)
        self.runs = RunList(BATCH_ROWS)

    def run(self, ring: PacketRing, entries: int, now: Instant) -> int:
        """Takes up to `entries` reads out of the ring; afterwards `batch` holds the rows and `runs` what leaves.

        Returns: how many reads were taken; their slots may be given back.
        """
        batch, tables = self.batch, self._tables
        taken = split_batch(ring, entries, batch, self._slab)
        parse_batch(batch, False)
        tables.routes.lookup_batch(batch)
        tables.nat.translate_to_tunnel(batch, now)
        tables.filters.admit_to_tunnel(batch)
        tables.sessions.seal_batch(batch, now)
        group_runs(batch, self.runs)
        return taken
