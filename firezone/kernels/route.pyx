"""The route stage: which peer a packet from TUN goes to, by longest prefix of its destination."""
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.memo cimport memo_make_room
from firezone.kernels.route cimport (
    FZ_LPM_NONE, fz_lpm_get, fz_lpm_lookup, fz_lpm_remove, fz_route_batch, fz_route_changed, lpm_set,
)


cdef class RouteTable:
    """Routes of both families. Not for concurrent use: change it between batches."""

    def __cinit__(self, bytes seed not None=bytes(16)):
        """`seed`: 16 random bytes; who knows them can choose destinations that are looked up anew for each packet.

        Raises: ValueError for another length.
        """
        if len(seed) != 16:
            raise ValueError(f"The seed has 16 bytes, not {len(seed)}.")
        memcpy(self._t.found.seed, <const uint8_t *>seed, 16)

    def __dealloc__(self):
        free(self._t.prefixes.nodes)
        free(self._t.found.entries)

    def __len__(self) -> int:
        return self._t.prefixes.count

    def set(self, object network, int32_t peer) -> None:
        """Routes a network to a peer row, replacing its route; -1 punts its packets with reason NO_PEER.

        Raises: ValueError for a peer below -1.
        """
        if peer < -1:
            raise ValueError(f"{peer} is no peer row.")
        cdef bytes address = network.network_address.packed
        lpm_set(&self._t.prefixes, network, peer)
        fz_route_changed(&self._t, address, len(address) == 16, network.prefixlen)

    def remove(self, object network) -> None:
        """Removes the route of exactly this network, if there is one."""
        cdef bytes address = network.network_address.packed
        if fz_lpm_remove(&self._t.prefixes, address, len(address) == 16, network.prefixlen):
            fz_route_changed(&self._t, address, len(address) == 16, network.prefixlen)

    def get(self, object network) -> object:
        """Returns the peer of exactly this network, None without such a route."""
        cdef bytes address = network.network_address.packed
        cdef int32_t peer = fz_lpm_get(&self._t.prefixes, address, len(address) == 16, network.prefixlen)
        return None if peer == FZ_LPM_NONE else peer

    def lookup(self, bytes address not None) -> object:
        """Returns the peer that an address (4 or 16 bytes) is routed to, -1 for "ask for one", None without a route.

        Raises: ValueError for other lengths.
        """
        if len(address) not in (4, 16):
            raise ValueError(f"An address has 4 or 16 bytes, not {len(address)}.")
        cdef int32_t peer = fz_lpm_lookup(&self._t.prefixes, address, len(address) == 16)
        return None if peer == FZ_LPM_NONE else peer

    def lookup_batch(self, PacketBatch batch not None) -> int:
        """Sets the peer of every parsed FORWARD row; without a route it is dropped, without a peer yet punted.

        Returns: how many rows are left with verdict FORWARD.
        """
        memo_make_room(&self._t.found)
        with nogil:
            left = fz_route_batch(&self._t, &batch._c)
        return left
