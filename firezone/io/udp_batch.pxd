from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from firezone.kernels.types cimport fz_addr, fz_batch, fz_ring, fz_run


cdef extern from "fz_udp.h" nogil:
    ctypedef struct fz_udp_stats:
        uint64_t receive_calls
        uint64_t receive_bytes
        uint64_t received
        uint64_t send_calls
        uint64_t send_bytes
        uint64_t sent
        uint64_t truncated

    int fz_udp_fill(int fd, uint16_t socket_id, uint16_t port, fz_ring *ring, uint32_t max_reads, fz_udp_stats *stats,
                    int *wake)
    int fz_udp_send_run(int fd, fz_batch *b, const fz_run *run, int gso, int with_ecn, int32_t *row, int *error,
                        fz_udp_stats *stats)
    int fz_udp_send_bytes(int fd, const uint8_t *data, size_t size, uint16_t stride, const fz_addr *local,
                          const fz_addr *remote, int ecn, fz_udp_stats *stats)


cdef class UdpBatchPort:
    cdef fz_udp_stats _stats
    cdef public int fd
    cdef public int socket_id
    cdef public int port
    cdef public bint gso
    cdef public bint ecn
