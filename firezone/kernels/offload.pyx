"""The stages at both ends of the data path that trade single packets for big units of the kernel.

Up: `split_batch` cuts TUN super-packets, `group_runs` gathers sealed datagrams for UDP_SEGMENT. Down: `join_batch` gathers
packets into TUN super-packets.
"""
from libc.stdint cimport uint32_t, uint64_t

from firezone.kernels.batch cimport PacketBatch, RunList
from firezone.kernels.offload cimport fz_group_runs, fz_join_batch, fz_split_batch
from firezone.kernels.ring cimport PacketRing


def split_batch(PacketRing ring not None, uint32_t entries, PacketBatch batch not None, object out not None) -> int:
    """Fills the batch, emptied and placed over `out`, with the packets of the oldest TUN reads.

    Every packet is copied with 16 free bytes before and behind it and leaves with complete checksums. A read that
    contradicts its virtio-net header becomes one dropped row (MALFORMED_OFFLOAD), one with packets over 1280 bytes too.

    Shapes:    out 1-D uint8, C-contiguous; what is behind the last row is untouched.
    Returns:   how many ring entries were consumed; fewer than asked when the ring holds fewer, or rows or bytes run out.
    Ownership: nothing points into the ring afterwards: its slots may be released at once.
    Source:    virtio 1.2 section 5.1.6; RFC 768, RFC 1071.
    """
    cdef uint64_t used = 0
    if batch.slab is out:
        batch._c.n = 0
    else:
        batch.over(out)
    with nogil:
        taken = fz_split_batch(ring._c, entries, &batch._c, &used)
    return taken


def group_runs(PacketBatch batch not None, RunList runs not None) -> int:
    """Groups FORWARD rows into runs that leave by one system call each: equal datagrams, only the last one shorter.

    A row joins the most recent run of its (local, remote, socket, ECN, channel) or starts a new one, so nothing is reordered
    for any receiver. A run holds at most 64 datagrams and 65 535 bytes with the largest headers.

    Returns: how many runs there are; rows beyond the list's capacity are dropped (BATCH_FULL).
    """
    runs._make_table(batch._c.n)
    with nogil:
        count = fz_group_runs(&batch._c, runs._c, <uint32_t>runs.capacity, runs._table, runs._table_size)
    runs.n = count
    return count


def join_batch(PacketBatch batch not None, RunList runs not None, bint coalesce) -> int:
    """Gathers parsed FORWARD rows into runs for TUN; with `coalesce`, packets of one flow into super-packets.

    The first row of a super-packet gets the joined headers as its prefix, later rows skip theirs; its transport checksum is
    left to the kernel. Single packets leave unchanged under a virtio-net header of zeroes.

    Returns: how many runs there are; rows beyond the list's capacity are dropped (BATCH_FULL).
    """
    runs._make_table(batch._c.n if coalesce else 0)
    with nogil:
        count = fz_join_batch(&batch._c, runs._c, <uint32_t>runs.capacity, coalesce, runs._table, runs._table_size)
    runs.n = count
    return count
