"""The one stage that a packet of the machine has missed on its way to TUN: translation to where its name leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from firezone.base.limits import MAX_PACKET_SIZE
from firezone.datapath.tables import NO_PEER_YET
from firezone.kernels.batch import PacketBatch
from firezone.kernels.ip import parse_batch
from firezone.kernels.nat import is_proxy

if TYPE_CHECKING:
    from firezone.base.timing import Instant
    from firezone.datapath.tables import Tables


class Translator:
    """Takes single packets that the machine has admitted through the NAT."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._single = PacketBatch(1)
        self._single.over(np.zeros(MAX_PACKET_SIZE, np.uint8))

    def translate(self, packet: bytes, now: Instant) -> PacketBatch:
        """Returns the packet as the row of a batch, translated, dropped or punted.

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
