# The C side of the batch and the ring: the structs of csrc/fz_batch.h and csrc/fz_ring.h, for cimport by every stage.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fz_histogram.h" nogil:
    enum:
        FZ_HISTOGRAM_BUCKETS

    ctypedef struct fz_histogram:
        uint64_t *counts
        uint64_t sum


cdef extern from "fz_batch.h" nogil:
    enum:
        FZ_PREFIX_SIZE
        FZ_FREE
        FZ_FORWARD
        FZ_REPLY
        FZ_DROP
        FZ_PUNT

    ctypedef struct fz_addr:
        uint8_t ip[16]
        uint16_t port
        uint8_t family
        uint8_t zero

    ctypedef struct fz_batch:
        uint8_t *slab
        uint64_t slab_size
        uint32_t n
        uint32_t capacity
        uint32_t *slot
        uint32_t *offset
        uint32_t *length
        uint16_t *stride
        uint16_t *socket
        fz_addr *local
        fz_addr *remote
        uint8_t *ecn
        int32_t *peer
        int32_t *session
        uint16_t *channel
        uint8_t *verdict
        uint8_t *reason
        uint8_t *prefix
        uint8_t *prefix_len
        uint16_t *skip
        uint8_t *ip_version
        uint8_t *protocol
        uint16_t *transport
        uint8_t *flags
        uint16_t *source_port
        uint16_t *destination_port
        int32_t *next
        fz_histogram sizes

    void fz_row_init(fz_batch *b, uint32_t row, uint32_t slot, uint32_t offset, uint32_t length)
    void fz_row_drop(fz_batch *b, uint32_t row, uint8_t reason)
    void fz_row_punt(fz_batch *b, uint32_t row, uint8_t reason)
    uint32_t fz_batch_account(fz_batch *b, uint32_t *reasons)

    ctypedef struct fz_run:
        int32_t first
        int32_t last
        uint32_t count
        uint32_t stride
        uint32_t total
        uint8_t vnet[10]


cdef extern from "fz_ring.h" nogil:
    ctypedef struct fz_ring:
        uint8_t *slab
        uint32_t slots
        uint32_t slot_size
        uint32_t *offset
        uint32_t *length
        uint16_t *stride
        uint16_t *socket
        fz_addr *local
        fz_addr *remote
        uint8_t *ecn
        fz_histogram taken
        uint32_t most_used

    uint32_t fz_ring_free(fz_ring *r)
    uint32_t fz_ring_head(fz_ring *r)
    bint fz_ring_commit(fz_ring *r, uint32_t n)
    uint32_t fz_ring_ready(fz_ring *r)
    uint32_t fz_ring_tail(fz_ring *r)
    bint fz_ring_release(fz_ring *r, uint32_t n)
    bint fz_ring_consumer_sleeps(fz_ring *r)
    bint fz_ring_producer_sleeps(fz_ring *r)


cdef inline tuple histogram_tuple(const fz_histogram *h):
    """(Counts per bucket, the sum of all that was counted)."""
    cdef Py_ssize_t i
    return [h.counts[i] for i in range(FZ_HISTOGRAM_BUCKETS)], h.sum
