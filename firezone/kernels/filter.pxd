# The C side of admission: csrc/fz_filter.h.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from firezone.kernels.memo cimport fz_memo
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

    ctypedef struct fz_filters:
        fz_filter **of
        uint64_t *generation
        uint32_t peers
        uint64_t changes
        fz_memo from_tunnel
        fz_memo to_tunnel

    uint32_t fz_admit_from_tunnel(fz_filters *f, fz_batch *b)
    uint32_t fz_admit_to_tunnel(fz_filters *f, fz_batch *b)


cdef class FilterTable:
    cdef fz_filters _t  # each filter malloc'ed, freed when replaced, removed, or with the table
    cdef int _grow(self, uint32_t peers) except -1
    cdef void _replace(self, uint32_t peer, fz_filter *fresh) noexcept
