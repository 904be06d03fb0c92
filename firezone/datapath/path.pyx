"""The data path, both directions: every stage of a batch in one compiled call, one line per stage, in order.

    Uplink     TUN to network    split ▸ parse ▸ route ▸ translate ▸ filter ▸ seal ▸ group (GSO runs)
    Downlink   network to TUN    demux ▸ open ▸ parse ▸ filter ▸ translate ▸ join (super-packets, gathered)

Translating to the network needs the route, as a session is a client's, and comes before the filter, which judges the address the
client knows. What came through a relay loses its channel header in the first stage and is as good as direct from there on.

A batch of one packet costs hardly more than its stages: between two of them there is no interpreter, which after an idle
moment would have to come back into the caches line by line.
"""
from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

import numpy as np

from firezone.kernels.aead cimport open_jobs, seal_jobs
from firezone.kernels.batch cimport PacketBatch, RunList, run_table_size
from firezone.kernels.channel cimport ChannelTable
from firezone.kernels.demux cimport fz_cut_datagrams
from firezone.kernels.filter cimport FilterTable, fz_admit_from_tunnel, fz_admit_to_tunnel
from firezone.kernels.ip cimport fz_ip_parse_batch
from firezone.kernels.memo cimport memo_make_room
from firezone.kernels.nat cimport NatTable, fz_nat_from_tunnel, fz_nat_to_tunnel
from firezone.kernels.offload cimport fz_group_runs, fz_join_batch, fz_split_batch
from firezone.kernels.ring cimport PacketRing
from firezone.kernels.route cimport RouteTable, fz_route_batch
from firezone.kernels.session cimport SessionTable, fz_open_finish, fz_open_prepare, fz_seal_prepare
from firezone.kernels.types cimport fz_batch, fz_batch_account, fz_ring_ready

from firezone.base import limits

cdef extern from "fz_stopwatch.h" nogil:
    ctypedef struct fz_stopwatch:
        uint64_t ns[8]
        uint32_t is_on

    void fz_stopwatch_start(fz_stopwatch *w)
    void fz_stopwatch_lap(fz_stopwatch *w, uint32_t stage)

SLAB_SIZE = limits.READS_PER_ROUND * (1 << 16) + limits.BATCH_ROWS * limits.WIREGUARD_OVERHEAD + limits.MAX_PACKET_SIZE
"""Room for a full round: eight super-packets and the overhead of every segment they can be cut into."""

cdef enum:  # stages of the stopwatch
    SPLIT, UP_PARSE, ROUTE, UP_TRANSLATE, UP_FILTER, SEAL, GROUP

cdef enum:
    DEMUX, OPEN, DOWN_PARSE, DOWN_FILTER, DOWN_TRANSLATE, JOIN

UPLINK_STAGES = ("split", "parse", "route", "translate", "filter", "seal", "group")
DOWNLINK_STAGES = ("demux", "open", "parse", "filter", "translate", "join")


cdef class _Direction:
    """What both directions have: a batch, its runs, the tables, and what is counted."""

    cdef readonly PacketBatch batch
    cdef readonly RunList runs
    cdef readonly uint32_t taken   # reads taken out of the ring by the last call of `run`
    cdef readonly uint32_t punted  # rows of the last batch that wait for the machine
    cdef SessionTable _sessions
    cdef ChannelTable _channels
    cdef RouteTable _routes
    cdef FilterTable _filters
    cdef NatTable _nat
    cdef uint32_t[::1] _reasons
    cdef fz_stopwatch _watch

    def __cinit__(self, object tables, uint32_t[::1] reasons not None):
        if reasons.shape[0] < 256:
            raise ValueError("Counters need 256 places, one per reason.")
        self._sessions, self._channels, self._routes = tables.sessions, tables.channels, tables.routes
        self._filters, self._nat = tables.filters, tables.nat
        self._reasons = reasons
        self.batch = PacketBatch(limits.BATCH_ROWS)
        self.runs = RunList(limits.BATCH_ROWS)
        self.runs._make_table(limits.BATCH_ROWS)

    @property
    def is_timed(self) -> bool:
        """Whether the stages are timed: seven readings of the clock a batch, a tenth of what a batch of one packet takes."""
        return self._watch.is_on != 0

    @is_timed.setter
    def is_timed(self, bint is_on):
        self._watch.is_on = is_on

    cdef int _enter(self) except -1:
        """Claims the session table, and room in it for as many jobs as a batch has rows."""
        self._sessions._not_busy()
        self._sessions._make_scratch(self.batch._c.capacity)
        self._sessions._busy = True
        return 0

    cdef void _count(self) noexcept nogil:
        """Counts the batch, and its dropped and punted rows by reason."""
        self.punted = fz_batch_account(&self.batch._c, &self._reasons[0])


@cython.final
cdef class Uplink(_Direction):
    """The stages from TUN to the network, over one reused batch and slab.

    Splitting copies each segment into the slab with headroom for the WireGuard header and tailroom for the tag; sealing and sending
    happen in place, so the ring's slots are free as soon as the split is done.
    """

    def __init__(self, object tables, object reasons) -> None:
        """`reasons`: (256,) uint32, where dropped and punted rows are counted by reason."""
        self.batch.over(np.zeros(SLAB_SIZE, np.uint8))

    @property
    def stage_ns(self) -> dict:
        """Nanoseconds spent in each stage of the batches that were timed."""
        return {name: self._watch.ns[n] for n, name in enumerate(UPLINK_STAGES)}

    def run(self, PacketRing ring not None, uint32_t entries, int64_t now) -> int:
        """Takes up to `entries` reads out of the ring; afterwards `batch` holds the rows and `runs` what leaves.

        Returns: how many reads were taken; their slots may be given back.
        """
        cdef fz_batch *b = &self.batch._c
        cdef SessionTable sessions = self._sessions
        cdef uint64_t used = 0
        cdef uint32_t sealed
        if fz_ring_ready(ring._c) == 0:
            return 0
        memo_make_room(&self._routes._t.found)
        memo_make_room(&self._filters._t.to_tunnel)
        self._enter()
        b.n = 0
        with nogil:
            fz_stopwatch_start(&self._watch)
            self.taken = fz_split_batch(ring._c, entries, b, &used)
            fz_stopwatch_lap(&self._watch, SPLIT)
            fz_ip_parse_batch(b, False)
            fz_stopwatch_lap(&self._watch, UP_PARSE)
            fz_route_batch(&self._routes._t, b)
            fz_stopwatch_lap(&self._watch, ROUTE)
            fz_nat_to_tunnel(&self._nat._t, b, now)
            fz_stopwatch_lap(&self._watch, UP_TRANSLATE)
            fz_admit_to_tunnel(&self._filters._t, b)
            fz_stopwatch_lap(&self._watch, UP_FILTER)
            sealed = fz_seal_prepare(&sessions._t, b, <uint64_t>now, sessions._jobs)
            seal_jobs(sessions._jobs, sealed)
            fz_stopwatch_lap(&self._watch, SEAL)
            self.runs.n = fz_group_runs(b, self.runs._c, b.capacity, self.runs._table, run_table_size(b.n))
            self._count()
            fz_stopwatch_lap(&self._watch, GROUP)
        sessions._busy = False
        return self.taken


@cython.final
cdef class Downlink(_Direction):
    """The stages from the network to TUN, over one reused batch that points into the ring's slab.

    Nothing is copied: datagrams are opened in the ring's slots and leave for TUN by gathering rewritten headers and payloads, so
    the slots are given back only after the write.
    """

    @property
    def stage_ns(self) -> dict:
        """Nanoseconds spent in each stage of the batches that were timed."""
        return {name: self._watch.ns[n] for n, name in enumerate(DOWNLINK_STAGES)}

    def run(self, PacketRing ring not None, uint32_t entries, int64_t now, *, bint coalesce) -> int:
        """Takes up to `entries` reads out of the ring; afterwards `batch` holds the rows and `runs` what is for TUN.

        With `coalesce`, packets of a flow are joined into super-packets.

        Returns: how many reads were taken; their slots must be given back once the runs are written.
        """
        cdef fz_batch *b = &self.batch._c
        cdef SessionTable sessions = self._sessions
        cdef uint32_t jobs
        if fz_ring_ready(ring._c) == 0:
            return 0
        if b.slab != ring._c.slab:
            self.batch.over(ring.slab)
        memo_make_room(&self._filters._t.from_tunnel)
        self._enter()
        b.n = 0
        with nogil:
            fz_stopwatch_start(&self._watch)
            self.taken = fz_cut_datagrams(ring._c, entries, b, &self._channels._c)
            fz_stopwatch_lap(&self._watch, DEMUX)
            jobs = fz_open_prepare(&sessions._t, b, <uint64_t>now, sessions._jobs, sessions._rows)
            open_jobs(sessions._jobs, jobs)
            fz_open_finish(&sessions._t, b, sessions._jobs, sessions._rows, jobs)
            fz_stopwatch_lap(&self._watch, OPEN)
            fz_ip_parse_batch(b, True)
            fz_stopwatch_lap(&self._watch, DOWN_PARSE)
            fz_admit_from_tunnel(&self._filters._t, b)
            fz_stopwatch_lap(&self._watch, DOWN_FILTER)
        sessions._busy = False
        # How many sessions of the NAT may begin is known only now, and making room for them may fail.
        self._nat._make_room(b.n)
        with nogil:
            fz_nat_from_tunnel(&self._nat._t, b, now)
            fz_stopwatch_lap(&self._watch, DOWN_TRANSLATE)
            self.runs.n = fz_join_batch(
                b, self.runs._c, b.capacity, coalesce, self.runs._table, run_table_size(b.n if coalesce else 0)
            )
            self._count()
            fz_stopwatch_lap(&self._watch, JOIN)
        return self.taken
