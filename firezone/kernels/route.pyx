"""The route stage: which peer a packet from TUN goes to, by longest prefix of its destination."""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcmp

from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.ip cimport FZ_NO_PEER, FZ_NO_ROUTE, fz_row_destination
from firezone.kernels.route cimport FZ_LPM_NONE, fz_lpm, fz_lpm_get, fz_lpm_lookup, fz_lpm_remove, lpm_set
from firezone.kernels.types cimport FZ_FORWARD, fz_batch, fz_row_drop, fz_row_punt


cdef class RouteTable:
    """Routes of both families. Not for concurrent use: change it between batches."""

    def __dealloc__(self):
        free(self._t.nodes)

    def __len__(self) -> int:
        return self._t.count

    def set(self, object network, int32_t peer) -> None:
        """Routes a network to a peer row, replacing its route; -1 punts its packets with reason NO_PEER.

        Raises: ValueError for a peer below -1.
        """
        if peer < -1:
            raise ValueError(f"{peer} is no peer row.")
        lpm_set(&self._t, network, peer)

    def remove(self, object network) -> None:
        """Removes the route of exactly this network, if there is one."""
        cdef bytes address = network.network_address.packed
        fz_lpm_remove(&self._t, address, len(address) == 16, network.prefixlen)

    def get(self, object network) -> object:
        """Returns the peer of exactly this network, None without such a route."""
        cdef bytes address = network.network_address.packed
        cdef int32_t peer = fz_lpm_get(&self._t, address, len(address) == 16, network.prefixlen)
        return None if peer == FZ_LPM_NONE else peer

    def lookup(self, bytes address not None) -> object:
        """Returns the peer that an address (4 or 16 bytes) is routed to, -1 for "ask for one", None without a route.

        Raises: ValueError for other lengths.
        """
        if len(address) not in (4, 16):
            raise ValueError(f"An address has 4 or 16 bytes, not {len(address)}.")
        cdef int32_t peer = fz_lpm_lookup(&self._t, address, len(address) == 16)
        return None if peer == FZ_LPM_NONE else peer

    def lookup_batch(self, PacketBatch batch not None) -> int:
        """Sets the peer of every parsed FORWARD row; without a route it is dropped, without a peer yet punted.

        Returns: how many rows are left with verdict FORWARD.
        """
        with nogil:
            left = _lookup_rows(&self._t, &batch._c)
        return left


cdef uint32_t _lookup_rows(const fz_lpm *table, fz_batch *b) noexcept nogil:
    cdef uint32_t row, left = 0
    cdef int32_t peer = FZ_LPM_NONE
    cdef uint8_t version = 0  # of the row before, whose answer holds for equal destinations
    cdef const uint8_t *previous = NULL
    cdef const uint8_t *destination
    for row in range(b.n):
        if b.verdict[row] != FZ_FORWARD:
            continue
        if b.ip_version[row] == 0:  # never parsed: there is no destination to look at
            fz_row_drop(b, row, FZ_NO_ROUTE)
            continue
        destination = fz_row_destination(b, row)
        if b.ip_version[row] != version or memcmp(previous, destination, 4 if version == 4 else 16) != 0:
            version = b.ip_version[row]
            peer = fz_lpm_lookup(table, destination, version == 6)
            previous = destination
        if peer >= 0:
            b.peer[row] = peer
            left += 1
        elif peer == FZ_LPM_NONE:
            fz_row_drop(b, row, FZ_NO_ROUTE)
        else:
            fz_row_punt(b, row, FZ_NO_PEER)
    return left
