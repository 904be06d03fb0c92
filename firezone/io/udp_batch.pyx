"""Batched UDP system calls over rings and batches (see `csrc/fz_udp.h`); the GIL is released during each."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from firezone.kernels.batch cimport PacketBatch, RunList
from firezone.kernels.ring cimport PacketRing
from firezone.kernels.types cimport fz_addr


cdef int _put_address(fz_addr *out, bytes ip, uint16_t port) except -1:
    cdef Py_ssize_t size = len(ip)
    if size != 4 and size != 16:
        raise ValueError(f"An IP address has 4 or 16 bytes, not {size}.")
    memset(out, 0, sizeof(out[0]))
    memcpy(out.ip, <const char *>ip, size)
    out.port, out.family = port, 4 if size == 4 else 6
    return 0


cdef class UdpBatchPort:
    """One descriptor's batched reads and writes, with its counters. Does not own the descriptor."""

    def __cinit__(self, int fd, int socket_id, int port):
        self.fd, self.socket_id, self.port = fd, socket_id, port
        self.gso = self.ecn = True

    def fill(self, PacketRing ring, uint32_t max_reads) -> int:
        """Reads what is there into the ring, at most max_reads entries. Returns entries added.

        Raises: OSError for anything but an empty socket.
        """
        cdef int got, wake = 0
        with nogil:
            got = fz_udp_fill(self.fd, <uint16_t>self.socket_id, <uint16_t>self.port, ring._c, max_reads, &self._stats,
                              &wake)
        if got == -11 or got == -4:  # EAGAIN; EINTR: the next tick reads it
            return 0
        if got < 0:
            raise OSError(-got, "receiving datagrams failed")
        return got

    def send_rows(self, PacketBatch batch, RunList runs, Py_ssize_t index, int32_t row) -> tuple:
        """Sends the rows of one run from `row` on. Returns (first row not sent or -1, errno or 0)."""
        cdef int error = 0
        if not 0 <= index < runs.n:
            raise IndexError(f"Run {index} of {runs.n}.")
        with nogil:
            fz_udp_send_run(self.fd, &batch._c, &runs._c[index], self.gso, self.ecn, &row, &error, &self._stats)
        return row, error

    def send_all(self, PacketBatch batch, RunList runs, Py_ssize_t index, int family) -> tuple:
        """Sends runs from `index` on as long as they belong to `family` and all goes well.

        Returns: (index of the first run not wholly sent, its first row not sent or -1, errno or 0).
        """
        cdef int error = 0
        cdef int32_t row = -1
        with nogil:
            while index < runs.n:
                if batch._c.remote[runs._c[index].first].family != family:
                    break
                row = runs._c[index].first
                fz_udp_send_run(self.fd, &batch._c, &runs._c[index], self.gso, self.ecn, &row, &error, &self._stats)
                if error:
                    break
                index += 1
        return index, row if error else -1, error

    def send_bytes(self, const uint8_t[::1] data, int stride, bytes ip, int port, bytes source, int ecn) -> int:
        """Sends bytes in one call: as one datagram, or cut every `stride` bytes when that is not zero. Returns 0 or errno."""
        cdef fz_addr local, remote
        cdef int error
        cdef size_t size = data.shape[0]
        memset(&local, 0, sizeof(local))
        _put_address(&remote, ip, <uint16_t>port)
        if source is not None:
            _put_address(&local, source, 0)
        with nogil:
            error = fz_udp_send_bytes(self.fd, &data[0] if size else NULL, size, <uint16_t>stride, &local, &remote,
                                      ecn if self.ecn else -1, &self._stats)
        return -error

    def stats(self) -> dict:
        """Returns the counters since the start."""
        return dict(self._stats)
