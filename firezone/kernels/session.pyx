"""Established WireGuard sessions and the paths of peers (hedge)."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from libc.stdlib cimport calloc, free, realloc

import numpy as np

from firezone.kernels.aead cimport fz_aead_job, open_jobs, seal_jobs
from firezone.kernels.batch cimport PacketBatch
from firezone.kernels.types cimport FZ_FORWARD, FZ_FREE, FZ_PREFIX_SIZE, fz_addr, fz_batch

from firezone.base.errors import LocalError, NoSession, RemoteError

cdef extern from "fz_batch.h" nogil:
    void fz_row_drop(fz_batch *b, uint32_t row, uint8_t reason)
    void fz_row_punt(fz_batch *b, uint32_t row, uint8_t reason)
    uint32_t fz_load_le32(const uint8_t *p)
    uint64_t fz_load_le64(const uint8_t *p)
    void fz_store_le32(uint8_t *p, uint32_t v)
    void fz_store_le64(uint8_t *p, uint64_t v)
    void fz_wipe(void *p, size_t n)

DEF MAX_SESSIONS = 4096
DEF WORDS = 128

cdef struct Session:
    uint8_t send_key[32]
    uint8_t receive_key[32]
    uint64_t bits[WORDS]
    uint64_t next_send
    uint64_t last_seen
    uint64_t reject_after
    uint32_t local_index, remote_index
    int32_t peer
    uint8_t used, any_seen
    uint32_t sent, received, keepalives
    uint64_t sent_bytes, received_bytes

cdef struct PeerRec:
    int32_t session
    uint64_t until
    fz_addr local, remote
    uint16_t channel
    uint8_t used, has_path

ACTIVITY = np.dtype([("session", "i4"), ("peer", "i4"), ("sent", "u4"), ("received", "u4"), ("keepalives", "u4"), ("sent_bytes", "u8"), ("received_bytes", "u8")])

cdef bint _fresh(Session *s, uint64_t c) noexcept nogil:
    if not s.any_seen or c > s.last_seen:
        return True
    if s.last_seen - c >= (WORDS - 1) * 64:
        return False
    return not (s.bits[(c >> 6) % WORDS] >> (c & 63)) & 1

cdef void _mark(Session *s, uint64_t c) noexcept nogil:
    cdef uint64_t w, last
    if not s.any_seen or c > s.last_seen:
        last = (s.last_seen >> 6) if s.any_seen else (c >> 6)
        w = c >> 6
        if w - last >= WORDS:
            memset(s.bits, 0, sizeof(s.bits))
        else:
            while last < w:
                last += 1
                s.bits[last % WORDS] = 0
        s.last_seen = c
        s.any_seen = 1
    s.bits[(c >> 6) % WORDS] |= (<uint64_t>1) << (c & 63)


cdef class SessionTable:
    cdef Session *s
    cdef PeerRec *p
    cdef fz_aead_job *jobs
    cdef uint32_t *rows
    cdef int n_sessions, n_peers
    cdef dict index
    cdef int32_t *hash_slot
    cdef uint32_t hash_mask

    def __cinit__(self):
        self.s = <Session *>calloc(MAX_SESSIONS, sizeof(Session))
        self.p = <PeerRec *>calloc(MAX_SESSIONS, sizeof(PeerRec))
        self.jobs = <fz_aead_job *>calloc(65536, sizeof(fz_aead_job))
        self.rows = <uint32_t *>calloc(65536, 4)

    def add_peer(self):
        cdef int i
        for i in range(MAX_SESSIONS):
            if not self.p[i].used:
                memset(&self.p[i], 0, sizeof(PeerRec))
                self.p[i].used = 1
                self.p[i].session = -1
                return i
        raise LocalError("full")

    def remove_peer(self, int peer):
        cdef int i
        for i in range(MAX_SESSIONS):
            if self.s[i].used and self.s[i].peer == peer:
                fz_wipe(&self.s[i], sizeof(Session))
        memset(&self.p[peer], 0, sizeof(PeerRec))

    def install(self, int peer, local_index, remote_index, bytes send_key, bytes receive_key, reject_after):
        cdef int i
        for i in range(MAX_SESSIONS):
            if not self.s[i].used:
                memset(&self.s[i], 0, sizeof(Session))
                self.s[i].used = 1
                self.s[i].peer = peer
                self.s[i].local_index = local_index
                self.s[i].remote_index = remote_index
                self.s[i].reject_after = reject_after
                memcpy(self.s[i].send_key, <const uint8_t *>send_key, 32)
                memcpy(self.s[i].receive_key, <const uint8_t *>receive_key, 32)
                return i
        raise LocalError("full")

    def remove(self, int session):
        if self.s[session].used and self.p[self.s[session].peer].session == session:
            self.p[self.s[session].peer].session = -1
        fz_wipe(&self.s[session], sizeof(Session))

    def use_for_sending(self, int peer, session, until):
        self.p[peer].session = -1 if session is None else session
        self.p[peer].until = until

    def set_path(self, int peer, local, remote, int channel=0):
        cdef PeerRec *p = &self.p[peer]
        p.has_path = remote is not None
        p.channel = channel
        memset(&p.local, 0, sizeof(fz_addr))
        memset(&p.remote, 0, sizeof(fz_addr))
        if local is not None:
            _addr(&p.local, local.ip, local.port)
        if remote is not None:
            _addr(&p.remote, remote.ip, remote.port)

    def seal(self, int session, bytes packet):
        cdef Session *s = &self.s[session]
        if not s.used:
            raise NoSession("none")
        cdef bytearray out = bytearray(16 + len(packet) + 16)
        cdef uint8_t *o = out
        fz_store_le32(o, 4)
        fz_store_le32(o + 4, s.remote_index)
        fz_store_le64(o + 8, s.next_send)
        memcpy(o + 16, <const uint8_t *>packet, len(packet))
        cdef fz_aead_job j
        j.key = s.send_key
        j.counter = s.next_send
        j.in_ = j.out = o + 16
        j.length = <uint32_t>len(packet)
        j.tag = j.out + j.length
        s.next_send += 1
        seal_jobs(&j, 1)
        return bytes(out)

    cdef int _find(self, uint32_t index) noexcept nogil:
        cdef int i
        for i in range(MAX_SESSIONS):
            if self.s[i].used and self.s[i].local_index == index:
                return i
        return -1

    def open(self, bytes datagram, now):
        cdef bytearray d = bytearray(datagram)
        cdef uint8_t *o = d
        if len(d) < 32:
            raise RemoteError("short")
        cdef int i = self._find(fz_load_le32(o + 4))
        if i < 0:
            raise NoSession("unknown")
        cdef Session *s = &self.s[i]
        cdef uint64_t c = fz_load_le64(o + 8)
        if now > s.reject_after:
            raise NoSession("expired")
        if not _fresh(s, c):
            raise RemoteError("replayed")
        cdef fz_aead_job j
        j.key = s.receive_key
        j.counter = c
        j.in_ = j.out = o + 16
        j.length = <uint32_t>(len(d) - 32)
        j.tag = j.out + j.length
        open_jobs(&j, 1)
        if not j.ok:
            raise RemoteError("bad tag")
        _mark(s, c)
        return i, s.peer, bytes(d[16:-16])

    def seal_batch(self, PacketBatch batch, uint64_t now, int workers=1):
        cdef fz_batch *b = &batch._c
        cdef uint32_t i, n = 0
        cdef PeerRec *p
        cdef Session *s
        cdef uint8_t *d
        with nogil:
            for i in range(b.n):
                if b.verdict[i] != FZ_FORWARD:
                    continue
                p = &self.p[b.peer[i]]
                if b.peer[i] < 0 or not p.has_path or p.session < 0 or now > p.until:
                    fz_row_punt(b, i, 73)
                    continue
                s = &self.s[p.session]
                d = b.slab + b.offset[i]
                fz_store_le32(d - 16, 4)
                fz_store_le32(d - 12, s.remote_index)
                fz_store_le64(d - 8, s.next_send)
                self.jobs[n].key = s.send_key
                self.jobs[n].counter = s.next_send
                self.jobs[n].in_ = self.jobs[n].out = d
                self.jobs[n].length = b.length[i]
                self.jobs[n].tag = d + b.length[i]
                s.next_send += 1
                s.sent += 1
                s.sent_bytes += b.length[i]
                b.session[i] = p.session
                b.local[i] = p.local
                b.remote[i] = p.remote
                b.socket[i] = p.remote.family
                b.channel[i] = p.channel
                b.offset[i] -= 16
                b.length[i] += 32
                n += 1
            seal_jobs(self.jobs, n)
        return n

    def open_batch(self, PacketBatch batch, uint64_t now):
        cdef fz_batch *b = &batch._c
        cdef uint32_t i, k, n = 0
        cdef int x
        cdef Session *s
        cdef uint8_t *d
        with nogil:
            for i in range(b.n):
                if b.verdict[i] != FZ_FORWARD:
                    continue
                d = b.slab + b.offset[i]
                x = self._find(fz_load_le32(d + 4))
                if x < 0:
                    fz_row_drop(b, i, 16)
                    continue
                s = &self.s[x]
                if now > s.reject_after:
                    fz_row_drop(b, i, 19)
                    continue
                if not _fresh(s, fz_load_le64(d + 8)):
                    fz_row_drop(b, i, 18)
                    continue
                b.session[i] = x
                b.peer[i] = s.peer
                self.jobs[n].key = s.receive_key
                self.jobs[n].counter = fz_load_le64(d + 8)
                self.jobs[n].in_ = self.jobs[n].out = d + 16
                self.jobs[n].length = b.length[i] - 32
                self.jobs[n].tag = d + b.length[i] - 16
                self.rows[n] = i
                n += 1
            open_jobs(self.jobs, n)
            for k in range(n):
                i = self.rows[k]
                s = &self.s[b.session[i]]
                if not self.jobs[k].ok:
                    fz_row_drop(b, i, 17)
                    continue
                if not _fresh(s, self.jobs[k].counter):
                    fz_row_drop(b, i, 18)
                    continue
                _mark(s, self.jobs[k].counter)
                b.offset[i] += 16
                b.length[i] -= 32
                if b.length[i] == 0:
                    s.keepalives += 1
                    b.verdict[i] = FZ_FREE
                else:
                    s.received += 1
                    s.received_bytes += b.length[i]
        return n

    def take_activity(self):
        cdef int i
        out = []
        for i in range(MAX_SESSIONS):
            if self.s[i].used and (self.s[i].sent or self.s[i].received or self.s[i].keepalives):
                out.append((i, self.s[i].peer, self.s[i].sent, self.s[i].received, self.s[i].keepalives, self.s[i].sent_bytes, self.s[i].received_bytes))
                self.s[i].sent = self.s[i].received = self.s[i].keepalives = 0
                self.s[i].sent_bytes = self.s[i].received_bytes = 0
        return np.array(out, ACTIVITY)


cdef void _addr(fz_addr *a, bytes ip, int port):
    memcpy(a.ip, <const uint8_t *>ip, len(ip))
    a.port = <uint16_t>port
    a.family = 4 if len(ip) == 4 else 6
