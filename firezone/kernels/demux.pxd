# The C side of cutting reads into datagrams: csrc/fz_demux.h.
from libc.stdint cimport uint8_t, uint32_t

from firezone.kernels.channel cimport fz_channel_table
from firezone.kernels.types cimport fz_batch, fz_ring


cdef extern from "fz_demux.h" nogil:
    uint8_t fz_datagram_kind(const uint8_t *p, uint32_t n)
    uint32_t fz_cut_datagrams(fz_ring *ring, uint32_t entries, fz_batch *b, const fz_channel_table *channels)
