from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from firezone.io.udp_batch cimport fz_udp_stats
from firezone.kernels.relay cimport fz_relay
from firezone.kernels.types cimport fz_batch, fz_ring, fz_run


cdef extern from "fz_pump.h" nogil:
    enum:
        FZ_PUMP_PORTS
        FZ_PUMP_NO_SOCKET
        FZ_PUMP_BLOCKED
        FZ_PUMP_IDLE
        FZ_PUMP_BUSY
        FZ_PUMP_PUNTED
        FZ_PUMP_REFUSED
        FZ_PUMP_LAP_READ
        FZ_PUMP_LAP_ROUTE
        FZ_PUMP_LAP_GROUP
        FZ_PUMP_LAP_SEND

    ctypedef struct fz_pump_side:
        int epoll
        fz_ring *ring
        fz_batch *batch
        fz_run *runs
        int32_t *table
        uint32_t table_size
        uint32_t run_count
        fz_udp_stats *read

    ctypedef struct fz_pump_times:
        uint64_t rounds
        uint64_t sampled
        int64_t *ns
        int64_t wait_ns

    ctypedef struct fz_pump:
        fz_relay *relay
        const int32_t *fds
        fz_udp_stats *sent
        uint32_t *reasons
        fz_pump_side sides[2]
        int side
        uint32_t index
        int32_t row
        int error
        fz_pump_times times

    uint32_t fz_pump_fill(int epoll, fz_ring *ring, uint32_t max_reads, fz_udp_stats *stats)
    int fz_pump_send(const int32_t *fds, fz_batch *b, const fz_run *run, int gso, int32_t *row, fz_udp_stats *stats)
    int fz_pump_run(fz_pump *p, uint32_t reads, int64_t duration_ns, int linger_ms, int gso)


cdef class SocketSet:
    cdef int _epoll
    cdef fz_udp_stats _stats


cdef class SendTable:
    cdef int32_t *_fds             # [family 4 or 6][port]
    cdef fz_udp_stats _stats


cdef class RelayPump:
    cdef fz_pump _p
    cdef tuple _kept               # what _p points into
