"""The relay's sockets by port and family: reading whichever are ready, sending runs across all of them, and relaying from socket to
socket without the interpreter (see `csrc/fz_pump.h`).
"""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport close

from firezone.io.relay_batch cimport (
    FZ_PUMP_BLOCKED, FZ_PUMP_BUSY, FZ_PUMP_IDLE, FZ_PUMP_LAP_GROUP, FZ_PUMP_LAP_READ, FZ_PUMP_LAP_ROUTE, FZ_PUMP_LAP_SEND,
    FZ_PUMP_NO_SOCKET, FZ_PUMP_PORTS, FZ_PUMP_PUNTED, FZ_PUMP_REFUSED, fz_pump_fill, fz_pump_run,
    fz_pump_send, fz_pump_side,
)
from firezone.kernels.batch cimport PacketBatch, RunList
from firezone.kernels.relay cimport RelayTable
from firezone.kernels.ring cimport PacketRing


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


BLOCKED = <int>FZ_PUMP_BLOCKED
IDLE, BUSY, PUNTED, REFUSED = <int>FZ_PUMP_IDLE, <int>FZ_PUMP_BUSY, <int>FZ_PUMP_PUNTED, <int>FZ_PUMP_REFUSED


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
            total = fz_pump_fill(self._epoll, ring._c, max_reads, &self._stats)
        return total

    def stats(self) -> dict:
        """Returns the counters of what was read, since the start."""
        return dict(self._stats)


@cython.final
cdef class SendTable:
    """Descriptors to send by, under (port, family). Does not own them."""

    def __cinit__(self):
        cdef Py_ssize_t i
        self._fds = <int32_t *>malloc(2 * FZ_PUMP_PORTS * sizeof(int32_t))
        if self._fds == NULL:
            raise MemoryError
        for i in range(2 * <int>FZ_PUMP_PORTS):
            self._fds[i] = FZ_PUMP_NO_SOCKET

    def __dealloc__(self):
        free(self._fds)

    def set(self, uint16_t port, uint8_t family, int fd) -> None:
        """Sends by `fd` from now on; -1 forgets the socket, -2 (BLOCKED) makes `send_all` stop at its runs with EAGAIN."""
        self._fds[(<int>FZ_PUMP_PORTS if family == 6 else 0) + port] = fd

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
                error = fz_pump_send(self._fds, &batch._c, &runs._c[index], gso, &row, &self._stats)
                if error:
                    break
                index += 1
        return index, row if error else -1, error

    def stats(self) -> dict:
        """Returns the counters of what was sent, since the start."""
        return dict(self._stats)


@cython.final
cdef class RelayPump:
    """Both directions of one relay. Side 0 is the listen port, side 1 the ports of allocations."""

    def __cinit__(self, RelayTable table not None, SendTable sends not None, uint32_t[::1] reasons not None, tuple sides not None):
        """`sides`: for each the SocketSet, the PacketRing, and the PacketBatch and RunList that it uses.

        Shapes: reasons (256,) uint32, where dropped and punted rows are counted.
        """
        cdef SocketSet sockets
        cdef PacketRing ring
        cdef PacketBatch batch
        cdef RunList runs
        cdef fz_pump_side *side
        cdef Py_ssize_t i
        memset(&self._p, 0, sizeof(self._p))
        if reasons.shape[0] < 256 or len(sides) != 2:
            raise ValueError("There are 256 reasons and two sides.")
        self._kept = (table, sends, reasons, sides)
        for i in range(2):
            sockets, ring, batch, runs = sides[i]
            if runs.capacity < batch._c.capacity:
                raise ValueError("Every row of a batch may be a run.")
            batch.over(ring.slab)
            runs._make_table(batch._c.capacity)
            side = &self._p.sides[i]
            side.epoll, side.ring, side.batch, side.runs = sockets._epoll, ring._c, &batch._c, runs._c
            side.table, side.table_size, side.read = runs._table, runs._table_size, &sockets._stats
        self._p.relay, self._p.fds, self._p.sent, self._p.reasons = &table._t, sends._fds, &sends._stats, &reasons[0]
        self._p.side = 1

    def run(self, uint32_t reads, int64_t duration_ns, int linger_ms, bint gso) -> int:
        """Relays for about duration_ns, `reads` datagrams or trains per batch, waiting up to linger_ms for more.

        Returns: IDLE when nothing is left, BUSY when the time is up, PUNTED when rows of the batch of `side` are for the machine,
                 REFUSED when `refused` tells of a run that was not sent. The batch is valid until the next call.
        """
        cdef int outcome
        cdef RunList runs
        with nogil:
            outcome = fz_pump_run(&self._p, reads, duration_ns, linger_ms, gso)
        runs = self._kept[3][self._p.side][3]
        runs.n = self._p.sides[self._p.side].run_count
        return outcome

    @property
    def side(self) -> int:
        """Where the batch was read: 0 the listen port, 1 the ports of allocations."""
        return self._p.side

    @property
    def refused(self) -> tuple:
        """(index of the run that stopped, its first row not sent, errno); the next call goes on behind it."""
        return self._p.index, self._p.row, self._p.error

    def times(self) -> dict:
        """Returns where the time went since the start: `ns` by stage of the `sampled` ones of all `rounds` of reading, those that
        found nothing too, and `wait_ns`, which all of them have waited for datagrams.
        """
        cdef const int64_t *ns = self._p.times.ns
        return {
            "rounds": self._p.times.rounds,
            "sampled": self._p.times.sampled,
            "ns": {
                "read": ns[<int>FZ_PUMP_LAP_READ],
                "route": ns[<int>FZ_PUMP_LAP_ROUTE],
                "group": ns[<int>FZ_PUMP_LAP_GROUP],
                "send": ns[<int>FZ_PUMP_LAP_SEND],
            },
            "wait_ns": self._p.times.wait_ns,
        }
