# The C side of parsing packets: csrc/fz_ip.h.
from libc.stdint cimport uint8_t, uint32_t

from firezone.kernels.types cimport fz_batch


cdef extern from "fz_ip.h" nogil:
    enum:
        FZ_NO_ROUTE
        FZ_NO_PEER

    const uint8_t *fz_row_source(const fz_batch *b, uint32_t row)
    const uint8_t *fz_row_destination(const fz_batch *b, uint32_t row)
    uint32_t fz_ip_parse_batch(fz_batch *b, bint from_tunnel)
