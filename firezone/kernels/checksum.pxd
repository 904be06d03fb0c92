# The C side of the internet checksum: csrc/fz_csum.h.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fz_csum.h" nogil:
    uint16_t fz_fold(uint64_t sum)
    uint16_t fz_sum(const uint8_t *p, size_t n)
    uint16_t fz_copy_sum(uint8_t *out, const uint8_t *src, size_t n)
    uint16_t fz_inet_csum(const uint8_t *p, size_t n, uint32_t initial)
    uint16_t fz_csum_update16(uint16_t checksum, uint16_t before, uint16_t after)
    uint16_t fz_csum_update16_udp(uint16_t checksum, uint16_t before, uint16_t after)
    uint16_t fz_csum_update(uint16_t checksum, const uint8_t *before, const uint8_t *after, size_t n)
    uint64_t fz_pseudo_sum(const uint8_t *addresses, size_t size, uint8_t protocol, uint32_t length)
