from libc.stdint cimport int32_t, uint32_t

from firezone.io.udp_batch cimport fz_udp_stats
from firezone.kernels.ring cimport PacketRing
from firezone.kernels.types cimport fz_batch, fz_run


cdef class SocketSet:
    cdef int _epoll
    cdef fz_udp_stats _stats
    cdef uint32_t _fill(self, PacketRing ring, uint32_t max_reads) noexcept nogil


cdef class SendTable:
    cdef int32_t *_fds             # [family 4 or 6][port]
    cdef fz_udp_stats _stats
    cdef int _send(self, fz_batch *b, fz_run *run, bint gso, int32_t *row) noexcept nogil
