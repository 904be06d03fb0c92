# The C side of the NAT: csrc/fz_nat.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from firezone.kernels.relay cimport fz_addrmap
from firezone.kernels.types cimport fz_addr, fz_batch


cdef extern from "fz_nat.h" nogil:
    ctypedef struct fz_nat_session:
        pass

    ctypedef struct fz_nat_list:
        uint32_t count

    ctypedef struct fz_nat_translation:
        pass

    ctypedef struct fz_nat_client:
        fz_nat_list live
        fz_nat_list ended
        uint32_t translation_count
        uint32_t in_use

    ctypedef struct fz_nat_stats:
        uint64_t opened
        uint64_t ended
        uint64_t translated_out
        uint64_t translated_in
        uint64_t errors_in
        uint64_t exhausted

    ctypedef struct fz_nat:
        fz_addrmap inside
        fz_addrmap outside
        fz_addrmap proxies
        fz_nat_session *sessions
        uint32_t session_room
        uint32_t session_used
        int32_t free_session
        uint32_t session_count
        fz_nat_translation *translations
        uint32_t translation_room
        uint32_t translation_used
        int32_t free_translation
        fz_nat_client *clients
        uint32_t client_room
        uint32_t client_count
        int32_t *client_of_peer
        uint32_t peers
        fz_addr own_v4
        fz_addr own_v6
        fz_nat_stats stats

    bint fz_nat_has_room(const fz_nat *n, uint32_t sessions)
    void fz_nat_add_client(fz_nat *n, uint32_t client)
    void fz_nat_remove_client(fz_nat *n, uint32_t client)
    void fz_nat_set_translation(fz_nat *n, uint32_t client, const uint8_t *proxy, const uint8_t *real, bint v6)
    bint fz_nat_remove_translation(fz_nat *n, uint32_t client, const uint8_t *proxy, bint v6)
    bint fz_nat_is_proxy(const uint8_t *address, bint v6)
    uint32_t fz_nat_from_tunnel(fz_nat *n, fz_batch *b, int64_t now)
    uint32_t fz_nat_to_tunnel(fz_nat *n, fz_batch *b, int64_t now)


cdef class NatTable:
    cdef fz_nat _t
    cdef uint32_t _most_sessions
    cdef int _make_room(self, uint32_t sessions) except -1
    cdef int _make_client(self, uint32_t client) except -1
    cdef int _make_translation(self) except -1
