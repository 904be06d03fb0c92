"""From the network to TUN:

    demux ▸ open ▸ parse ▸ filter ▸ translate ▸ join (super-packets, gathered)

One line per stage, in order; what came through a relay loses its channel header in the first and is as good as direct from there
on. Nothing is copied: datagrams are opened in the ring's slots and leave for TUN by gathering
rewritten headers and payloads, so the slots are given back only after the write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firezone.base.limits import BATCH_ROWS, MAX_PACKET_SIZE
from firezone.datapath.tables import NO_PEER_YET
from firezone.kernels.batch import PacketBatch, RunList
from firezone.kernels.demux import cut_datagrams
from firezone.kernels.ip import parse_batch
from firezone.kernels.nat import is_proxy
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
        self._single = PacketBatch(1)
        self._single.over(np.zeros(MAX_PACKET_SIZE, np.uint8))

    def run(self, ring: PacketRing, entries: int, now: Instant, *, coalesce: bool) -> int:
        """Takes up to `entries` reads out of the ring; afterwards `batch` holds the rows and `runs` what is for TUN.

        Returns: how many reads were taken; their slots must be given back once the runs are written.
        """
        batch, tables = self.batch, self._tables
        taken = cut_datagrams(ring, entries, batch, tables.channels)
        tables.sessions.open_batch(batch, now)
        parse_batch(batch, True)
        tables.filters.admit_from_tunnel(batch)
        tables.nat.translate_from_tunnel(batch, now)
        join_batch(batch, self.runs, coalesce)
        return taken

    def translate(self, packet: bytes, now: Instant) -> PacketBatch:
        """Takes a packet that the machine has admitted through the one stage it has missed; returns it as the row of a batch.

        Which client it is of says the route of its source.
        """
        single = self._single
        single.slab[: len(packet)] = np.frombuffer(packet, np.uint8)
        single.clear()
        single.append(0, len(packet))
        parse_batch(single, True)
        version = packet[0] >> 4
        peer = self._tables.routes.lookup(packet[12:16] if version == 4 else packet[8:24])
        single.peer[0] = NO_PEER_YET if peer is None else peer
        self._tables.nat.translate_from_tunnel(single, now)
        return single


def needs_translation(packet: bytes) -> bool:
    """Tells whether a packet goes to a proxy IP."""
    return is_proxy(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
