"""The ring between a reader and the tick: a slab of slots with one descriptor each (see `csrc/fz_ring.h`).

One producer (a reader thread, the tick itself, or a test) and one consumer (the tick). `push` and `push_runs` are the
in-memory producers: with them a whole engine runs without the kernel.
"""
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

import numpy as np

from firezone.kernels.batch cimport PacketBatch, RunList
from firezone.kernels.types cimport (
    FZ_PREFIX_SIZE, fz_addr, fz_batch, fz_ring, fz_ring_commit, fz_ring_consumer_sleeps, fz_ring_free, fz_ring_head,
    fz_ring_ready, fz_ring_release, fz_ring_tail, fz_run, histogram_tuple,
)

from firezone.kernels.types import ADDRESS, SLOT_SIZE


cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef class PacketRing:
    """A single-producer single-consumer ring of packet slots.

    Shapes:    slab (slots, slot_size) uint8; offset, length (slots,) uint32; stride, socket (slots,) uint16;
               local, remote (slots,) `types.ADDRESS`; ecn (slots,) uint8.
    Raises:    ValueError when slots is not a power of two.
    Ownership: slots between tail and head belong to the consumer, all others to the producer.
    """

    def __cinit__(self, Py_ssize_t slots, Py_ssize_t slot_size=SLOT_SIZE):
        if slots < 1 or slots & (slots - 1) or slots > 1 << 20:
            raise ValueError(f"A ring needs a power of two of slots, not {slots}.")
        if slot_size < 64 or slots * slot_size >= 1 << 32:
            raise ValueError(f"A ring of {slots} slots cannot have slots of {slot_size} bytes.")
        self.slots, self.slot_size = slots, slot_size
        self.slab = np.zeros((slots, slot_size), np.uint8)
        self.offset = np.zeros(slots, np.uint32)
        self.length = np.zeros(slots, np.uint32)
        self.stride = np.zeros(slots, np.uint16)
        self.socket = np.zeros(slots, np.uint16)
        self.local = np.zeros(slots, ADDRESS)
        self.remote = np.zeros(slots, ADDRESS)
        self.ecn = np.zeros(slots, np.uint8)
        cdef size_t size = (sizeof(fz_ring) + 63) & ~<size_t>63
        self._c = <fz_ring *>aligned_alloc(64, size)
        if self._c == NULL:
            raise MemoryError
        memset(self._c, 0, size)
        self._c.slots = <uint32_t>slots
        self._c.slot_size = <uint32_t>slot_size
        self._c.slab = <uint8_t *><size_t>self.slab.ctypes.data
        self._c.offset = <uint32_t *><size_t>self.offset.ctypes.data
        self._c.length = <uint32_t *><size_t>self.length.ctypes.data
        self._c.stride = <unsigned short *><size_t>self.stride.ctypes.data
        self._c.socket = <unsigned short *><size_t>self.socket.ctypes.data
        self._c.local = <fz_addr *><size_t>self.local.ctypes.data
        self._c.remote = <fz_addr *><size_t>self.remote.ctypes.data
        self._c.ecn = <uint8_t *><size_t>self.ecn.ctypes.data

    def __dealloc__(self):
        free(self._c)

    def ready(self) -> int:
        """Returns how many filled slots wait for the consumer."""
        return fz_ring_ready(self._c)

    def free(self) -> int:
        """Returns how many slots the producer may fill."""
        return fz_ring_free(self._c)

    def tail(self) -> int:
        """Returns the slot number of the oldest filled slot."""
        return fz_ring_tail(self._c)

    def release(self, uint32_t n) -> bool:
        """Gives the n oldest slots back. True: the producer sleeps and must be woken."""
        if n > fz_ring_ready(self._c):
            raise ValueError(f"{n} slots cannot be released, {fz_ring_ready(self._c)} are in use.")
        return fz_ring_release(self._c, n)

    def taken(self) -> tuple:
        """Returns how often how many slots were given back at once (`base.histogram`), and all of them together."""
        return histogram_tuple(&self._c.taken)

    @property
    def most_used(self) -> int:
        """The most slots that were in use when some were given back."""
        return self._c.most_used

    def consumer_sleeps(self) -> bool:
        """Announces that the consumer will sleep; False when slots have arrived meanwhile."""
        return fz_ring_consumer_sleeps(self._c)

    def push(self, const uint8_t[::1] data, *, Py_ssize_t offset=0, Py_ssize_t stride=-1, int socket=0, object local=None,
             object remote=None, int ecn=0) -> bool:
        """Copies one read into the ring. False when the ring is full.

        Units: offset is where the packet starts inside data (10 behind a virtio-net header); stride -1 means one datagram.
        """
        if data.shape[0] > self.slot_size or not 0 <= offset <= data.shape[0]:
            raise ValueError(f"{data.shape[0]} bytes from {offset} do not fit a slot of {self.slot_size}.")
        if fz_ring_free(self._c) == 0:
            return False
        cdef uint32_t slot = fz_ring_head(self._c)
        if data.shape[0]:
            memcpy(self._c.slab + <size_t>slot * <size_t>self.slot_size, &data[0], data.shape[0])
        self._c.offset[slot] = <uint32_t>offset
        self._c.length[slot] = <uint32_t>(data.shape[0] - offset)
        self._c.stride[slot] = <unsigned short>(data.shape[0] - offset if stride < 0 else stride)
        self._c.socket[slot] = <unsigned short>socket
        self._c.ecn[slot] = <uint8_t>ecn
        self.local[slot] = np.zeros((), ADDRESS) if local is None else local
        self.remote[slot] = np.zeros((), ADDRESS) if remote is None else remote
        fz_ring_commit(self._c, 1)
        return True

    def push_datagram_runs(self, PacketBatch batch, RunList runs, Py_ssize_t first=0, Py_ssize_t count=-1) -> int:
        """Copies runs of datagrams into the ring as a peer's socket would receive them: one slot per run, addresses swapped.

        Returns: how many of `count` runs (-1: all) were taken from `first` on; fewer than given when the ring is full.
        """
        cdef Py_ssize_t i, taken = 0, end = runs.n if count < 0 else min(runs.n, first + count)
        with nogil:
            for i in range(first, end):
                if fz_ring_free(self._c) == 0:
                    break
                _copy_run(self._c, &batch._c, &runs._c[i], False)
                taken += 1
        return taken

    def push_packet_runs(self, PacketBatch batch, RunList runs, Py_ssize_t first=0) -> int:
        """Copies runs of packets into the ring as a TUN device would hand them over: virtio-net header, super-packet."""
        cdef Py_ssize_t i, taken = 0
        with nogil:
            for i in range(first, runs.n):
                if fz_ring_free(self._c) == 0:
                    break
                _copy_run(self._c, &batch._c, &runs._c[i], True)
                taken += 1
        return taken


cdef void _copy_run(fz_ring *ring, fz_batch *batch, fz_run *run, bint with_vnet) noexcept nogil:
    cdef uint32_t slot = fz_ring_head(ring), offset = 10 if with_vnet else 0, length
    cdef uint8_t *base = ring.slab + <size_t>slot * ring.slot_size
    cdef uint8_t *out = base
    cdef uint8_t *end = base + ring.slot_size
    cdef int32_t row = run.first
    if with_vnet:
        memcpy(out, run.vnet, 10)
        out += 10
    while row >= 0:
        length = batch.length[row] - batch.skip[row]
        if out + batch.prefix_len[row] + length > end:
            break
        memcpy(out, batch.prefix + <size_t>row * FZ_PREFIX_SIZE, batch.prefix_len[row])
        out += batch.prefix_len[row]
        memcpy(out, batch.slab + batch.offset[row] + batch.skip[row], length)
        out += length
        row = batch.next[row]
    ring.offset[slot] = offset
    ring.length[slot] = <uint32_t>(out - base) - offset
    ring.stride[slot] = <unsigned short>(0 if with_vnet else run.stride)
    ring.socket[slot] = batch.socket[run.first]
    ring.ecn[slot] = batch.ecn[run.first]
    ring.local[slot] = batch.remote[run.first]
    ring.remote[slot] = batch.local[run.first]
    fz_ring_commit(ring, 1)
