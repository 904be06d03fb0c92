# Longest-prefix match: csrc/fz_lpm.h, and what owners of such tables share.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc

from firezone.kernels.memo cimport fz_memo
from firezone.kernels.types cimport fz_batch


cdef extern from "fz_lpm.h" nogil:
    enum:
        FZ_LPM_NONE

    ctypedef struct fz_lpm_node:
        pass

    ctypedef struct fz_lpm:
        fz_lpm_node *nodes
        uint32_t capacity
        uint32_t used
        uint32_t count

    bint fz_lpm_room(const fz_lpm *t)
    void fz_lpm_set(fz_lpm *t, const uint8_t *address, bint v6, uint32_t bits, int32_t value)
    bint fz_lpm_remove(fz_lpm *t, const uint8_t *address, bint v6, uint32_t bits)
    int32_t fz_lpm_get(const fz_lpm *t, const uint8_t *address, bint v6, uint32_t bits)
    int32_t fz_lpm_lookup(const fz_lpm *t, const uint8_t *address, bint v6)


cdef extern from "fz_route.h" nogil:
    ctypedef struct fz_routes:
        fz_lpm prefixes
        fz_memo found

    void fz_route_changed(fz_routes *r, const uint8_t *address, bint v6, uint32_t bits)
    uint32_t fz_route_batch(fz_routes *r, fz_batch *b)


cdef inline int lpm_set(fz_lpm *t, object network, int32_t value) except -1:
    """Stores a value under a network (an `ipaddress` network), making room first."""
    cdef bytes address = network.network_address.packed
    cdef uint32_t capacity
    cdef void *grown
    if not fz_lpm_room(t):
        capacity = 16 if t.capacity == 0 else 2 * t.capacity
        grown = realloc(t.nodes, <size_t>capacity * sizeof(fz_lpm_node))
        if grown == NULL:
            raise MemoryError
        t.nodes = <fz_lpm_node *>grown
        t.capacity = capacity
    fz_lpm_set(t, address, len(address) == 16, network.prefixlen, value)
    return 0


cdef class RouteTable:
    cdef fz_routes _t
