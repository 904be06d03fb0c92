# Sessions and paths of peers: csrc/fz_session.h.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from firezone.kernels.aead cimport fz_aead_job
from firezone.kernels.types cimport fz_addr, fz_batch


cdef extern from "fz_common.h" nogil:
    uint32_t fz_load_le32(const uint8_t *p)
    uint64_t fz_load_le64(const uint8_t *p)
    void fz_wipe(void *p, size_t n)


cdef extern from "fz_hash.h" nogil:
    enum:
        FZ_HASH_NONE

    ctypedef struct fz_hash_entry:
        pass

    ctypedef struct fz_hash:
        fz_hash_entry *entries
        uint32_t bits
        uint32_t count

    bint fz_hash_has_room(const fz_hash *t)
    int32_t fz_hash_find(const fz_hash *t, uint32_t key)
    void fz_hash_move(fz_hash *t, fz_hash_entry *entries, uint32_t bits)


cdef extern from "fz_replay.h" nogil:
    enum:
        FZ_REPLAY_WINDOW

    ctypedef struct fz_replay:
        pass

    bint fz_replay_check(const fz_replay *r, uint64_t counter)
    void fz_replay_mark(fz_replay *r, uint64_t counter)


cdef extern from "fz_session.h" nogil:
    enum:
        FZ_DATA_HEADER
        FZ_DATA_OVERHEAD
        FZ_NO_SESSION
        FZ_SESSION_CHUNK

    const uint64_t FZ_REJECT_AFTER_MESSAGES

    ctypedef struct fz_activity:
        pass

    ctypedef struct fz_session:
        uint8_t send_key[32]
        uint8_t receive_key[32]
        uint64_t next_counter
        uint64_t reject_after
        int32_t peer
        fz_replay replay

    ctypedef struct fz_peer:
        uint64_t send_until
        fz_addr local
        fz_addr remote
        int32_t sending
        uint32_t count
        uint16_t channel

    ctypedef struct fz_session_table:
        fz_session **chunks
        fz_peer *peers
        int32_t *touched
        fz_hash by_index
        uint32_t session_slots
        uint32_t peer_rows
        uint32_t touched_count
        int32_t free_session
        int32_t free_peer
        bint is_urgent

    fz_session *fz_session_at(const fz_session_table *t, int32_t slot)
    fz_session *fz_session_get(const fz_session_table *t, int64_t slot)
    fz_peer *fz_peer_get(const fz_session_table *t, int64_t row)
    bint fz_peer_has_room(const fz_session_table *t)
    bint fz_session_has_room(const fz_session_table *t)
    int32_t fz_peer_add(fz_session_table *t)
    void fz_peer_remove(fz_session_table *t, int32_t row)
    int32_t fz_session_install(
        fz_session_table *t, int32_t peer, uint32_t local_index, uint32_t remote_index,
        const uint8_t *send_key, const uint8_t *receive_key, uint64_t reject_after,
    )
    void fz_session_remove(fz_session_table *t, int32_t slot)
    bint fz_session_next(fz_session *s, uint8_t *header, uint64_t *counter)
    uint32_t fz_seal_prepare(fz_session_table *t, fz_batch *b, uint64_t now, fz_aead_job *jobs)
    uint32_t fz_open_prepare(fz_session_table *t, fz_batch *b, uint64_t now, fz_aead_job *jobs, uint32_t *rows)
    uint32_t fz_open_finish(fz_session_table *t, fz_batch *b, const fz_aead_job *jobs, const uint32_t *rows, uint32_t n)
    void fz_session_take_activity(fz_session_table *t, fz_activity *out)


cdef class SessionTable:
    cdef fz_session_table _t
    cdef fz_aead_job *_jobs       # scratch of the batch stages, _room of them; freed in __dealloc__
    cdef uint32_t *_rows
    cdef uint32_t _room
    cdef bint _busy               # a batch is in work without the GIL
    cdef object _nothing          # the empty answer of take_activity
    cdef fz_peer *_peer(self, int64_t row) except NULL
    cdef fz_session *_session(self, int64_t slot) except NULL
    cdef int _not_busy(self) except -1
    cdef int _make_scratch(self, uint32_t rows) except -1
    cdef int _make_peer_room(self) except -1
    cdef int _make_session_room(self) except -1
