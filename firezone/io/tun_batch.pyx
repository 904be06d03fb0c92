"""Batched TUN system calls over rings and batches (see `csrc/fz_tun.h`); the GIL is released during each."""
from libc.stdint cimport uint32_t

from firezone.kernels.batch cimport PacketBatch, RunList
from firezone.kernels.ring cimport PacketRing


cdef class TunBatchPort:
    """One TUN descriptor's batched reads and writes, with its counters. Does not own the descriptor."""

    def __cinit__(self, int fd):
        self.fd = fd

    def fill(self, PacketRing ring, uint32_t max_reads) -> int:
        """Reads what is there into the ring, at most max_reads packets. Returns entries added.

        Raises: OSError for anything but an empty device.
        """
        cdef int got, wake = 0
        with nogil:
            got = fz_tun_fill(self.fd, ring._c, max_reads, &self._stats, &wake)
        if got == -11:
            return 0
        if got < 0:
            raise OSError(-got, "reading from the TUN device failed")
        return got

    def write_runs(self, PacketBatch batch, RunList runs, Py_ssize_t index) -> tuple:
        """Writes runs from `index` on as long as all goes well. Returns (index of the first not written, errno or 0)."""
        cdef int error = 0
        with nogil:
            while index < runs.n:
                error = fz_tun_write_run(self.fd, &batch._c, &runs._c[index], &self._stats)
                if error:
                    break
                index += 1
        return index, -error

    def stats(self) -> dict:
        """Returns the counters since the start."""
        return dict(self._stats)
