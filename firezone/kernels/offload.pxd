# The C side of segmentation offload: csrc/fz_split.h and csrc/fz_join.h.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from firezone.kernels.types cimport fz_batch, fz_ring, fz_run


cdef extern from "fz_join.h" nogil:
    uint32_t fz_split_batch(fz_ring *ring, uint32_t entries, fz_batch *b, uint64_t *used)
    uint32_t fz_group_runs(fz_batch *b, fz_run *runs, uint32_t capacity, int32_t *table, uint32_t table_size)
    uint32_t fz_join_batch(
        fz_batch *b, fz_run *runs, uint32_t capacity, bint coalesce, int32_t *table, uint32_t table_size
    )
