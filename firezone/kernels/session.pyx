"""Established WireGuard sessions and the paths of peers, and the two stages that seal and open whole batches.

The handshake machines write it through `proto.noise.sessions.SessionStore`, the data path calls `seal_batch` and `open_batch`;
key material lives here and nowhere else and is wiped when a session goes. What the stages do to a row is told in
`csrc/fz_session.h`. Every call that changes a table belongs to the thread of the tick.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_FromStringAndSize

cimport cython

import numpy as np

from firezone.kernels.aead cimport FZ_KEY_SIZE, FZ_TAG_SIZE, fz_aead_job, open_jobs, seal_jobs
from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.session cimport (
    FZ_DATA_HEADER, FZ_DATA_OVERHEAD, FZ_HASH_NONE, FZ_NO_SESSION, FZ_REJECT_AFTER_MESSAGES, FZ_REPLAY_WINDOW, FZ_SESSION_CHUNK,
    fz_activity, fz_hash_entry, fz_hash_find, fz_hash_has_room, fz_hash_move, fz_open_finish, fz_open_prepare, fz_peer,
    fz_peer_add, fz_peer_get, fz_peer_has_room, fz_peer_remove, fz_replay, fz_replay_check, fz_replay_mark, fz_seal_prepare,
    fz_session, fz_session_at, fz_session_get, fz_session_has_room, fz_session_install, fz_session_next, fz_session_remove,
    fz_load_le32, fz_load_le64, fz_session_take_activity, fz_wipe,
)
from firezone.kernels.types cimport fz_addr

from firezone.base.errors import LocalError, NoSession, RemoteError
from firezone.base.limits import MAX_PEERS, MAX_SESSIONS, SESSIONS_PER_PEER
from firezone.kernels.types import ACTIVITY

REPLAY_WINDOW = FZ_REPLAY_WINDOW
"""Counters this far behind the newest are refused, seen or not."""
REJECT_AFTER_MESSAGES = FZ_REJECT_AFTER_MESSAGES
"""The first counter that is neither used nor accepted (WireGuard paper 6.1)."""

cdef uint64_t _PEERS = MAX_PEERS
cdef uint64_t _SESSIONS = MAX_SESSIONS
cdef uint32_t _EACH = SESSIONS_PER_PEER


@cython.final
cdef class SessionTable:
    """Keys, counters, replay windows and paths of all peers; implements `SessionStore`.

    Units:     instants in nanoseconds, monotonic.
    Ownership: keys are copied in and wiped on removal; batches stay their owner's.
    Source:    WireGuard paper 5.4.6 and 6.1, replay window RFC 6479.
    """

    def __cinit__(self):
        if np.dtype(ACTIVITY).itemsize != sizeof(fz_activity):
            raise AssertionError("ACTIVITY is not the layout of fz_activity.")
        self._t.free_session = self._t.free_peer = -1
        self._nothing = np.zeros(0, ACTIVITY)

    def __dealloc__(self):
        cdef uint32_t chunk
        for chunk in range(self._t.session_slots // FZ_SESSION_CHUNK):
            fz_wipe(self._t.chunks[chunk], FZ_SESSION_CHUNK * sizeof(fz_session))
            free(self._t.chunks[chunk])
        free(self._t.chunks)
        free(self._t.peers)
        free(self._t.touched)
        free(self._t.by_index.entries)
        free(self._jobs)
        free(self._rows)

    # ---- peers and their sessions ----

    def add_peer(self) -> int:
        """Returns the row of a new peer, without sessions and without a path. Raises LocalError beyond MAX_PEERS."""
        self._not_busy()
        self._make_peer_room()
        return fz_peer_add(&self._t)

    def remove_peer(self, int64_t peer) -> None:
        """Forgets a peer, its path and its sessions; their keys are wiped. The row may be given to another peer."""
        self._not_busy()
        self._peer(peer)
        fz_peer_remove(&self._t, <int32_t>peer)

    def install(
        self,
        int64_t peer,
        uint32_t local_index,
        uint32_t remote_index,
        const uint8_t[::1] send_key not None,
        const uint8_t[::1] receive_key not None,
        uint64_t reject_after,
    ) -> int:
        """Makes a session that can be opened until `reject_after`. It is not sent on before `use_for_sending`.

        Raises: LocalError for an unknown peer, an index in use, a peer with SESSIONS_PER_PEER sessions, or a key of another size.
        """
        self._not_busy()
        if send_key.shape[0] != FZ_KEY_SIZE or receive_key.shape[0] != FZ_KEY_SIZE:
            raise LocalError(f"Session keys have {FZ_KEY_SIZE} bytes, not {send_key.shape[0]} and {receive_key.shape[0]}.")
        if self._peer(peer).count >= _EACH:
            raise LocalError(f"Peer {peer} has {_EACH} sessions; one must go first.")
        if fz_hash_find(&self._t.by_index, local_index) != FZ_HASH_NONE:
            raise LocalError(f"Another session has the index {local_index:08x}.")
        self._make_session_room()
        return fz_session_install(
            &self._t, <int32_t>peer, local_index, remote_index, &send_key[0], &receive_key[0], reject_after
        )

    def remove(self, int64_t session) -> None:
        """Forgets one session and wipes its keys; a peer that sent on it sends on none. Raises LocalError for a free slot."""
        self._not_busy()
        self._session(session)
        fz_session_remove(&self._t, <int32_t>session)

    def use_for_sending(self, int64_t peer, object session, uint64_t until) -> None:
        """Makes this the session the peer's packets are sealed with; past `until` they are punted with NO_PATH."""
        self._not_busy()
        cdef fz_peer *p = self._peer(peer)
        if session is not None and self._session(session).peer != peer:
            raise LocalError(f"Session {session} is not one of peer {peer}.")
        p.sending = FZ_NO_SESSION if session is None else session
        p.send_until = until

    def set_path(self, int64_t peer, object local, object remote, uint16_t channel=0) -> None:
        """Says where the peer's datagrams go; without `remote` the peer has no path.

        `local` None lets the kernel choose the address to leave from. channel: TURN channel number, 0 = direct.
        """
        self._not_busy()
        cdef fz_peer *p = self._peer(peer)
        _put_address(&p.local, local)
        _put_address(&p.remote, remote)
        p.channel = channel

    # ---- one message ----

    def seal(self, int64_t session, const uint8_t[::1] packet not None) -> bytes:
        """Returns the whole data message for a packet; an empty one is a keepalive. Not part of the activity.

        Raises: NoSession for a free slot, LocalError when the counters are used up.
        """
        self._not_busy()
        cdef fz_aead_job job
        cdef fz_session *s = fz_session_get(&self._t, session)
        if s == NULL:
            raise NoSession(f"No session stands in slot {session}.")
        cdef bytes message = PyBytes_FromStringAndSize(NULL, packet.shape[0] + FZ_DATA_OVERHEAD)
        cdef uint8_t *start = message
        if not fz_session_next(s, start, &job.counter):
            raise LocalError(f"Session {session} has used up its counters.")
        _fill_job(&job, s.send_key, start, len(message))
        if job.length:
            memcpy(job.out, &packet[0], job.length)
        seal_jobs(&job, 1)
        return message

    def open(self, const uint8_t[::1] datagram not None, uint64_t now) -> tuple:
        """Authenticates a data message and marks its counter as seen. Not part of the activity.

        Returns: the session's slot, its peer's row and the plaintext.
        Raises:  NoSession for an unknown index, RemoteError for a short message, a bad tag, a replay or an expired session.
        """
        self._not_busy()
        cdef fz_aead_job job
        if datagram.shape[0] < FZ_DATA_OVERHEAD:
            raise RemoteError(f"A data message has {FZ_DATA_OVERHEAD} bytes or more, not {datagram.shape[0]}.")
        cdef uint32_t index = fz_load_le32(&datagram[4])
        slot = fz_hash_find(&self._t.by_index, index)
        if slot == FZ_HASH_NONE:
            raise NoSession(f"No session has the index {index:08x}.")
        cdef fz_session *s = fz_session_at(&self._t, slot)
        job.counter = fz_load_le64(&datagram[8])
        if now >= s.reject_after:
            raise RemoteError("The session is expired.")
        if job.counter >= FZ_REJECT_AFTER_MESSAGES or not fz_replay_check(&s.replay, job.counter):
            raise RemoteError("The data message is replayed.")
        cdef bytes plaintext = PyBytes_FromStringAndSize(NULL, datagram.shape[0] - FZ_DATA_OVERHEAD)
        _fill_job(&job, s.receive_key, <uint8_t *>&datagram[0], datagram.shape[0])
        job.out = plaintext
        if not open_jobs(&job, 1):
            raise RemoteError("The data message does not authenticate.")
        fz_replay_mark(&s.replay, job.counter)
        return slot, s.peer, plaintext

    # ---- whole batches ----

    def seal_batch(self, PacketBatch batch not None, uint64_t now, int workers=1) -> int:
        """Turns every FORWARD packet into a data message on its peer's path, in place.

        Counters follow the order of rows. Rows grow by 16 bytes at either end; session, addresses, socket and channel are set, and
        on a channel its 4-byte header is the prefix. Rows whose peer has no path or no session to send on are punted with NO_PATH;
        rows without that room in the slab are dropped with BATCH_FULL, with all counters used up with COUNTER_EXHAUSTED.

        workers: how many cores to spread the encryption over. Jobs are independent once counters are reserved; so far one core
        does it all, and the argument must be 1.

        Returns: how many rows were sealed.
        Raises:  ValueError for another number of workers.
        Source:  WireGuard paper 5.4.6; no padding is added, as in the original.
        """
        if workers != 1:
            raise ValueError(f"Sealing on {workers} cores is not there yet.")
        self._not_busy()
        self._make_scratch(batch._c.n)
        self._busy = True
        with nogil:
            n = fz_seal_prepare(&self._t, &batch._c, now, self._jobs)
            seal_jobs(self._jobs, n)
        self._busy = False
        return n

    def open_batch(self, PacketBatch batch not None, uint64_t now) -> int:
        """Decrypts every FORWARD data message in place; the row then covers the plaintext, session and peer are set.

        Keepalives are consumed: their rows become FREE. Dropped with their reason: UNKNOWN_SESSION, EXPIRED_SESSION, BAD_TAG,
        REPLAYED, COUNTER_EXHAUSTED, and MALFORMED_PACKET for a row of under 32 bytes.

        Returns: how many rows are left with verdict FORWARD.
        Source:  WireGuard paper 5.4.6; the replay window is asked before and after decryption (RFC 6479).
        """
        self._not_busy()
        self._make_scratch(batch._c.n)
        self._busy = True
        with nogil:
            n = fz_open_prepare(&self._t, &batch._c, now, self._jobs, self._rows)
            open_jobs(self._jobs, n)
            left = fz_open_finish(&self._t, &batch._c, self._jobs, self._rows, n)
        self._busy = False
        return left

    @property
    def is_urgent(self) -> bool:
        """Whether the activity should be taken at once.

        True when something came on a session that its peer is not sent to on: the first message of the initiator confirms a
        session, and only then may the responder send on it (WireGuard paper 5.4.3).
        """
        return self._t.is_urgent

    def take_activity(self) -> object:
        """Returns what the batch stages did since the last call, one record per session that was touched, and forgets it.

        Shapes: (n,) `types.ACTIVITY`, in the order of first use; sessions removed meanwhile are not in it.
        """
        self._not_busy()
        if not self._t.touched_count:
            return self._nothing
        records = np.empty(self._t.touched_count, ACTIVITY)
        fz_session_take_activity(&self._t, <fz_activity *><size_t>records.ctypes.data)
        return records

    # ---- memory ----

    cdef fz_peer *_peer(self, int64_t row) except NULL:
        cdef fz_peer *p = fz_peer_get(&self._t, row)
        if p == NULL:
            raise LocalError(f"No peer stands in row {row}.")
        return p

    cdef fz_session *_session(self, int64_t slot) except NULL:
        cdef fz_session *s = fz_session_get(&self._t, slot)
        if s == NULL:
            raise LocalError(f"No session stands in slot {slot}.")
        return s

    cdef int _not_busy(self) except -1:
        if self._busy:
            raise LocalError("Another thread is working on a batch with this table.")
        return 0

    cdef int _make_scratch(self, uint32_t rows) except -1:
        """Makes room for one job per row of a batch."""
        if rows <= self._room:
            return 0
        self._room = 0
        free(self._jobs)
        free(self._rows)
        self._jobs = <fz_aead_job *>calloc(rows, sizeof(fz_aead_job))
        self._rows = <uint32_t *>calloc(rows, sizeof(uint32_t))
        if self._jobs == NULL or self._rows == NULL:
            raise MemoryError
        self._room = rows
        return 0

    cdef int _make_peer_room(self) except -1:
        if fz_peer_has_room(&self._t):
            return 0
        cdef uint64_t size = 2 * <uint64_t>self._t.peer_rows if self._t.peer_rows else 16
        size = min(size, _PEERS)
        if size <= self._t.peer_rows:
            raise LocalError(f"There are {_PEERS} peers; one must go first.")
        grown = realloc(self._t.peers, size * sizeof(fz_peer))
        if grown == NULL:
            raise MemoryError
        self._t.peers = <fz_peer *>grown
        memset(self._t.peers + self._t.peer_rows, 0, (size - self._t.peer_rows) * sizeof(fz_peer))
        self._t.peer_rows = <uint32_t>size
        return 0

    cdef int _make_session_room(self) except -1:
        """Adds a chunk of sessions and doubles the index, as far as needed. Whatever fails leaves the table as it was."""
        cdef fz_hash_entry *entries
        cdef uint32_t bits = self._t.by_index.bits + 1 if self._t.by_index.bits else 6
        if not fz_hash_has_room(&self._t.by_index):
            entries = <fz_hash_entry *>calloc(<size_t>1 << bits, sizeof(fz_hash_entry))
            if entries == NULL:
                raise MemoryError
            old = self._t.by_index.entries
            fz_hash_move(&self._t.by_index, entries, bits)
            free(old)
        if fz_session_has_room(&self._t):
            return 0
        cdef uint32_t slots = self._t.session_slots + FZ_SESSION_CHUNK
        if slots > _SESSIONS:
            raise LocalError(f"There are {_SESSIONS} sessions; one must go first.")
        chunks = realloc(self._t.chunks, slots // FZ_SESSION_CHUNK * sizeof(fz_session *))
        if chunks == NULL:
            raise MemoryError
        self._t.chunks = <fz_session **>chunks
        touched = realloc(self._t.touched, slots * sizeof(int32_t))
        if touched == NULL:
            raise MemoryError
        self._t.touched = <int32_t *>touched
        chunk = calloc(FZ_SESSION_CHUNK, sizeof(fz_session))
        if chunk == NULL:
            raise MemoryError
        self._t.chunks[self._t.session_slots // FZ_SESSION_CHUNK] = <fz_session *>chunk
        self._t.session_slots = slots
        return 0


@cython.final
cdef class ReplayWindow:
    """The window of counters of one session, on its own: for tests."""

    cdef fz_replay _window

    def check(self, uint64_t counter) -> bool:
        """Tells whether a counter is fresh."""
        return fz_replay_check(&self._window, counter)

    def mark(self, uint64_t counter) -> None:
        """Notes a fresh counter. Raises ValueError for one that is not."""
        if counter == 0xFFFFFFFFFFFFFFFF or not fz_replay_check(&self._window, counter):
            raise ValueError(f"Counter {counter} is not fresh.")
        fz_replay_mark(&self._window, counter)


cdef void _fill_job(fz_aead_job *job, const uint8_t *key, uint8_t *message, Py_ssize_t size) noexcept:
    """Points a job at the packet inside a data message."""
    job.key = key
    job.in_ = job.out = message + FZ_DATA_HEADER
    job.length = <uint32_t>(size - FZ_DATA_OVERHEAD)
    job.tag = message + size - FZ_TAG_SIZE


cdef int _put_address(fz_addr *a, object endpoint) except -1:
    """Writes an `Endpoint`, or nothing at all for None."""
    cdef bytes ip
    memset(a, 0, sizeof(fz_addr))
    if endpoint is None:
        return 0
    ip = endpoint.ip
    if len(ip) not in (4, 16):
        raise LocalError(f"An address has 4 or 16 bytes, not {len(ip)}.")
    memcpy(a.ip, <const uint8_t *>ip, len(ip))
    a.port = endpoint.port
    a.family = 4 if len(ip) == 4 else 6
    return 0
