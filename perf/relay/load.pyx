"""The load generator, compiled: plans of datagrams, and runs of them against a relay (see `generator.h`)."""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close


cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr

    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    int AF_INET
    uint16_t htons(uint16_t)


cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLL_CTL_ADD
        EPOLL_CLOEXEC

    ctypedef union epoll_data_t:
        uint64_t u64
        int fd

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)


cdef extern from "generator.h" nogil:
    struct rl_plan:
        uint32_t n

    struct rl_sinks:
        int epoll
        uint32_t size
        uint32_t magic
        uint32_t magic_at

    struct rl_order:
        uint64_t duration_ns
        uint64_t grace_ns
        double rate
        uint32_t window
        double flood_rate

    struct rl_result:
        uint64_t elapsed_ns
        uint64_t sent
        uint64_t received
        uint64_t wrong
        uint64_t flooded
        uint64_t refused

    int rl_plan_add(rl_plan *p, int fd, const void *data, uint32_t size, uint32_t segment, const sockaddr_in *to)
    void rl_plan_seal(rl_plan *p, uint32_t batch)
    void rl_plan_free(rl_plan *p)
    void rl_drain(const rl_sinks *sinks, uint64_t quiet_ns)
    void rl_run(rl_plan *data, rl_plan *flood, const rl_sinks *sinks, const rl_order *order, rl_result *result)


@cython.final
cdef class Plan:
    """Messages sent in a cycle."""

    cdef rl_plan _c
    cdef dict _kept

    def __cinit__(self):
        memset(&self._c, 0, sizeof(rl_plan))
        self._kept = {}

    def __dealloc__(self):
        rl_plan_free(&self._c)

    def __len__(self) -> int:
        return self._c.n

    def add(self, int fd, bytes data not None, uint32_t segment, bytes ip=None, uint16_t port=0) -> None:
        """Adds one message: a datagram, or with `segment` a train of such datagrams. `ip`: 4 bytes, None for a connected socket."""
        cdef sockaddr_in to
        data = self._kept.setdefault(data, data)
        memset(&to, 0, sizeof(to))
        if ip is not None:
            to.sin_family, to.sin_port = AF_INET, htons(port)
            memcpy(&to.sin_addr, <const uint8_t *>ip, 4)
        if rl_plan_add(&self._c, fd, <const uint8_t *>data, <uint32_t>len(data), segment, NULL if ip is None else &to) < 0:
            raise MemoryError

    def seal(self, uint32_t batch) -> None:
        """Ends the plan; at most `batch` messages of one socket leave per call."""
        rl_plan_seal(&self._c, batch)


@cython.final
cdef class Sinks:
    """Sockets that receive. Does not own them."""

    cdef rl_sinks _c

    def __cinit__(self, list fds not None):
        cdef epoll_event event
        self._c.epoll = epoll_create1(EPOLL_CLOEXEC)
        for fd in fds:
            memset(&event, 0, sizeof(event))
            event.events = EPOLLIN
            event.data.fd = fd
            if epoll_ctl(self._c.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
                raise OSError("a sink cannot be watched")

    def __dealloc__(self):
        if self._c.epoll >= 0:
            close(self._c.epoll)

    def expect(self, uint32_t size, bytes magic not None, uint32_t magic_at) -> None:
        """Says what every datagram must be: its size, and the four bytes at `magic_at` (at most 12)."""
        if len(magic) != 4 or magic_at > 12:
            raise ValueError("The magic has 4 bytes within the first 16.")
        self._c.size, self._c.magic_at = size, magic_at
        memcpy(&self._c.magic, <const uint8_t *>magic, 4)

    def drain(self, double quiet_s) -> None:
        """Throws away what waits, until nothing has come for so long."""
        cdef uint64_t quiet = <uint64_t>(quiet_s * 1e9)
        with nogil:
            rl_drain(&self._c, quiet)


def run(
    Plan data not None, Sinks sinks not None, double seconds, *,
    double rate=0, uint32_t window=512, double grace_s=0.02, Plan flood=None, double flood_rate=0,
) -> dict:
    """Sends for `seconds`: at `rate` datagrams per second, or with rate 0 as fast as they come back, `window` on their way.

    Returns: `elapsed_s` of sending; datagrams `sent`, `received` at most grace_s after the last, `wrong` among them, `flooded`;
             sends `refused`.
    """
    cdef rl_order order
    cdef rl_result result
    cdef rl_plan *other = NULL
    if flood is not None:
        other = &flood._c
    order.duration_ns, order.grace_ns = <uint64_t>(seconds * 1e9), <uint64_t>(grace_s * 1e9)
    order.rate, order.window, order.flood_rate = rate, window, flood_rate
    with nogil:
        rl_run(&data._c, other, &sinks._c, &order, &result)
    return {
        "elapsed_s": result.elapsed_ns / 1e9, "sent": result.sent, "received": result.received, "wrong": result.wrong,
        "flooded": result.flooded, "refused": result.refused,
    }
