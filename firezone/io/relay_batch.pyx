"""The relay's sockets by port and family: reading whichever are ready, sending runs across all of them, without the GIL.

One epoll set holds the descriptors that are read here. It is level-triggered: what is left in a socket brings it back, behind the
others that are ready, so nobody is preferred (epoll(7)).
"""
cimport cython
from libc.errno cimport EAGAIN, ENOENT, errno
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close

from firezone.io.udp_batch cimport fz_udp_fill, fz_udp_send_run
from firezone.kernels.batch cimport PacketBatch, RunList
from firezone.kernels.ring cimport PacketRing
from firezone.kernels.types cimport fz_batch, fz_ring_free, fz_run


cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CLOEXEC

    ctypedef union epoll_data_t:
        uint64_t u64

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout)


cdef enum:
    PORTS = 65536
    NO_SOCKET = -1
    BLOCKED_SOCKET = -2
    EVENTS = 64
    READS_PER_SOCKET = 8

BLOCKED = BLOCKED_SOCKET


cdef inline int32_t *_place(int32_t *fds, uint8_t family, uint16_t port) noexcept nogil:
    return &fds[(PORTS if family == 6 else 0) + port]


@cython.final
cdef class SocketSet:
    """Descriptors that are read, each with its port. Does not own them, but for the epoll set."""

    def __cinit__(self):
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, "epoll_create1 failed")

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)

    @property
    def fd(self) -> int:
        """The epoll set: readable while one of its sockets is."""
        return self._epoll

    def add(self, int fd, uint16_t port) -> None:
        """Reads a socket from now on. Raises OSError when the kernel does not let it be watched."""
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>fd << 16 | port
        if epoll_ctl(self._epoll, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "a socket cannot be watched")

    def remove(self, int fd) -> None:
        """Forgets a descriptor; call it before it is closed."""
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, NULL)

    def fill(self, PacketRing ring not None, uint32_t max_reads) -> int:
        """Reads from the sockets that are ready, at most max_reads entries; `socket` of an entry is the port.

        Returns: entries added. Errors of single sockets (ICMP errors of earlier sends) are taken off them and not reported.
        """
        cdef uint32_t total
        with nogil:
            total = self._fill(ring, max_reads)
        return total

    def stats(self) -> dict:
        """Returns the counters of what was read, since the start."""
        return dict(self._stats)

    cdef uint32_t _fill(self, PacketRing ring, uint32_t max_reads) noexcept nogil:
        cdef epoll_event events[EVENTS]
        cdef uint32_t total = 0, room
        cdef int ready, got, i, wake = 0
        cdef uint16_t port
        while total < max_reads:
            ready = epoll_wait(self._epoll, events, EVENTS, 0)
            if ready <= 0:
                break
            for i in range(ready):
                room = max_reads - total
                if room > READS_PER_SOCKET:
                    room = READS_PER_SOCKET
                if room == 0 or fz_ring_free(ring._c) == 0:
                    return total
                port = <uint16_t>(events[i].data.u64 & 0xFFFF)
                got = fz_udp_fill(<int>(events[i].data.u64 >> 16), port, port, ring._c, room, &self._stats, &wake)
                if got > 0:
                    total += <uint32_t>got
            if ready < EVENTS:
                break
        return total


@cython.final
cdef class SendTable:
    """Descriptors to send by, under (port, family). Does not own them."""

    def __cinit__(self):
        cdef Py_ssize_t i
        self._fds = <int32_t *>malloc(2 * PORTS * sizeof(int32_t))
        if self._fds == NULL:
            raise MemoryError
        for i in range(2 * PORTS):
            self._fds[i] = NO_SOCKET

    def __dealloc__(self):
        free(self._fds)

    def set(self, uint16_t port, uint8_t family, int fd) -> None:
        """Sends by `fd` from now on; -1 forgets the socket, -2 (BLOCKED) makes `send_all` stop at its runs with EAGAIN."""
        _place(self._fds, family, port)[0] = fd

    def send_all(self, PacketBatch batch not None, RunList runs not None, Py_ssize_t index, bint gso) -> tuple:
        """Sends runs from `index` on, each by the socket of its first row's port, until one meets an error.

        Returns: (index of the first run not wholly sent, its first row not sent or -1, errno or 0). A run without a socket is
                 ENOENT, one for a blocked socket EAGAIN.
        """
        cdef int error = 0
        cdef int32_t row = -1
        with nogil:
            while index < runs.n:
                row = runs._c[index].first
                error = self._send(&batch._c, &runs._c[index], gso, &row)
                if error:
                    break
                index += 1
        return index, row if error else -1, error

    def stats(self) -> dict:
        """Returns the counters of what was sent, since the start."""
        return dict(self._stats)

    cdef int _send(self, fz_batch *b, fz_run *run, bint gso, int32_t *row) noexcept nogil:
        cdef int error = 0
        cdef int32_t fd = _place(self._fds, b.remote[run.first].family, b.socket[run.first])[0]
        if fd < 0:
            return EAGAIN if fd == BLOCKED_SOCKET else ENOENT
        fz_udp_send_run(fd, b, run, gso, 1, row, &error, &self._stats)
        return error
