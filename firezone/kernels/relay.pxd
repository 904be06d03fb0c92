from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t

from firezone.kernels.types cimport fz_addr, fz_batch, fz_ring


cdef extern from "fz_addrmap.h" nogil:
    ctypedef struct fz_addrmap_key:
        fz_addr address
        uint16_t number

    ctypedef struct fz_addrmap_entry:
        int32_t slot

    ctypedef struct fz_addrmap:
        fz_addrmap_entry *entries
        uint64_t seed[2]
        uint32_t bits
        uint32_t count

    fz_addrmap_key fz_addrmap_key_of(const fz_addr *address, uint16_t number)
    bint fz_addrmap_has_room(const fz_addrmap *m)
    int32_t fz_addrmap_find(const fz_addrmap *m, const fz_addrmap_key *key)
    void fz_addrmap_insert(fz_addrmap *m, const fz_addrmap_key *key, int32_t slot)
    bint fz_addrmap_remove(fz_addrmap *m, const fz_addrmap_key *key)
    void fz_addrmap_move(fz_addrmap *m, fz_addrmap_entry *entries, uint32_t bits)


cdef extern from "fz_fair.h" nogil:
    ctypedef struct fz_fair:
        uint64_t seed[2]
        uint32_t left
        uint32_t reserve
        uint64_t now_ns
        uint64_t step_ns
        uint64_t burst_ns


cdef extern from "fz_relay.h" nogil:
    enum:
        FZ_RELAY_ASKERS
        FZ_CHANNEL_FIRST
        FZ_CHANNEL_LAST
        FZ_RELAY_SIZE_BUCKETS

    ctypedef struct fz_relay_channel:
        fz_addr client
        fz_addr peer
        uint16_t number
        uint16_t port

    ctypedef struct fz_relay_stats:
        uint64_t to_peers
        uint64_t to_peers_bytes
        uint64_t to_clients
        uint64_t to_clients_bytes
        uint64_t looped
        uint64_t sizes[16]

    ctypedef struct fz_relay:
        fz_addrmap by_client
        fz_addrmap by_peer
        fz_addrmap permitted
        fz_addrmap holders
        fz_fair allowances[3]
        fz_relay_channel *channels
        uint32_t room
        uint32_t used
        int32_t free_channel
        fz_addr public_v4
        fz_addr public_v6
        uint16_t listen_port
        fz_relay_stats stats

    bint fz_relay_has_room(const fz_relay *r)
    void fz_relay_bind(fz_relay *r, const fz_addr *client, uint16_t number, const fz_addr *peer, uint16_t port)
    bint fz_relay_unbind(fz_relay *r, const fz_addr *client, uint16_t number)
    const fz_relay_channel *fz_relay_channel_of(const fz_relay *r, const fz_addr *client, uint16_t number)
    uint32_t fz_relay_from_clients(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b)
    uint32_t fz_relay_retry(fz_relay *r, fz_batch *b)
    uint32_t fz_relay_from_peers(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b)


cdef class RelayTable:
    cdef fz_relay _t
    cdef int _make_room(self) except -1
