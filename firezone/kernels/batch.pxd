from libc.stdint cimport int32_t, uint32_t

from firezone.kernels.types cimport fz_batch, fz_run


cdef class PacketBatch:
    cdef fz_batch _c
    cdef readonly object slab     # numpy uint8, 1-D; what _c.slab points into
    cdef readonly object slot, offset, length, stride, socket, local, remote, ecn
    cdef readonly object peer, session, channel, verdict, reason
    cdef readonly object prefix, prefix_len, skip
    cdef readonly object ip_version, protocol, transport, flags, source_port, destination_port, next


cdef inline uint32_t run_table_size(uint32_t rows) noexcept nogil:
    """Slots of the scratch table for so many rows: a power of two of at least twice as many."""
    cdef uint32_t size = 64
    while size < 2 * rows:
        size *= 2
    return size


cdef class RunList:
    cdef fz_run *_c
    cdef int32_t *_table          # scratch of the stages that find runs by key; freed in __dealloc__
    cdef uint32_t _table_size, _table_allocated
    cdef int _make_table(self, uint32_t rows) except -1
    cdef readonly object runs     # numpy RUN (capacity,)
    cdef public Py_ssize_t n
    cdef readonly Py_ssize_t capacity
