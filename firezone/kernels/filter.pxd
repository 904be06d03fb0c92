# The C side of admission: csrc/fz_filter.h.
from libc.stdint cimport uint16_t, uint32_t

from firezone.kernels.route cimport fz_lpm
from firezone.kernels.types cimport fz_batch


cdef extern from "fz_filter.h" nogil:
    ctypedef struct fz_port_range:
        uint16_t first
        uint16_t last

    ctypedef struct fz_rule:
        bint permit_all
        bint icmp
        uint32_t tcp
        uint32_t tcp_count
        uint32_t udp
        uint32_t udp_count

    ctypedef struct fz_filter:
        fz_lpm remote
        fz_lpm local
        fz_lpm rules
        bint has_local
        bint has_rules
        fz_rule *rule
        fz_port_range *ranges
        uint32_t rule_count
        uint32_t range_count

    uint32_t fz_admit_from_tunnel(fz_filter **filters, uint32_t peers, fz_batch *b)
    uint32_t fz_admit_to_tunnel(fz_filter **filters, uint32_t peers, fz_batch *b)


cdef class FilterTable:
    cdef fz_filter **_filters  # by peer row; each malloc'ed, freed when replaced, removed, or with the table
    cdef uint32_t _peers
    cdef int _grow(self, uint32_t peers) except -1
