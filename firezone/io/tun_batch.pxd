from libc.stdint cimport uint32_t, uint64_t

from firezone.kernels.types cimport fz_batch, fz_ring, fz_run


cdef extern from "fz_tun.h" nogil:
    ctypedef struct fz_tun_stats:
        uint64_t reads
        uint64_t read_bytes
        uint64_t writes
        uint64_t written_bytes
        uint64_t written

    int fz_tun_fill(int fd, fz_ring *ring, uint32_t max_reads, fz_tun_stats *stats, int *wake)
    int fz_tun_write_run(int fd, fz_batch *b, const fz_run *run, fz_tun_stats *stats)


cdef class TunBatchPort:
    cdef fz_tun_stats _stats
    cdef public int fd
