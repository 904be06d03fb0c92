"""The first stage from the network: one row per datagram, told apart by its first bytes."""
from libc.stdint cimport uint32_t

from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.channel cimport ChannelTable, fz_channel_table
from firezone.kernels.demux cimport fz_cut_datagrams
from firezone.kernels.ring cimport PacketRing


def cut_datagrams(PacketRing ring not None, uint32_t entries, PacketBatch batch not None,
                  ChannelTable channels=None) -> int:
    """Fills the batch, emptied and placed over the ring's slab, with the datagrams of the oldest reads.

    WireGuard data is left FORWARD; handshakes, STUN, channel data and unknown datagrams are punted; empty ones, those over
    1316 bytes, with a stride that cannot be or without a local address are dropped, one row per read. WireGuard data on one of
    the open `channels` loses its 4-byte header and is left FORWARD, its number in the channel column; with `channels`, channel
    data of anybody but a relay counts as unknown.

    Returns:   how many ring entries were consumed; fewer than asked when the ring holds fewer or the batch has no room.
    Ownership: the rows point into the ring's slots, which the caller releases when the last row is done with.
    """
    if batch._c.slab != ring._c.slab or batch._c.slab_size != <size_t>ring.slots * <size_t>ring.slot_size:
        batch.over(ring.slab)
    batch._c.n = 0
    cdef const fz_channel_table *table = NULL if channels is None else &channels._c
    with nogil:
        taken = fz_cut_datagrams(ring._c, entries, &batch._c, table)
    return taken
