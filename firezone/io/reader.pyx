"""The compiled half of a reader thread (see `csrc/fz_reader.h`): what it reads, its bells, and the loop it stays in."""
from libc.stdint cimport uint16_t, uint32_t

from firezone.io.tun_batch cimport TunBatchPort, fz_tun_stats
from firezone.io.udp_batch cimport UdpBatchPort, fz_udp_stats
from firezone.kernels.ring cimport PacketRing
from firezone.kernels.types cimport fz_ring


cdef extern from "fz_reader.h" nogil:
    enum:
        FZ_READER_MAX

    enum fz_reader_kind:
        FZ_READER_TUN
        FZ_READER_UDP

    ctypedef struct fz_reader_source:
        int fd
        uint16_t socket_id
        uint16_t port
        fz_reader_kind kind
        fz_udp_stats *udp
        fz_tun_stats *tun

    ctypedef struct fz_reader:
        int ready_fd
        int space_fd

    int fz_reader_init(fz_reader *r, fz_ring *ring)
    void fz_reader_free(fz_reader *r)
    void fz_reader_set(fz_reader *r, const fz_reader_source *sources, uint32_t count)
    void fz_reader_stop(fz_reader *r)
    int fz_reader_run(fz_reader *r)
    int fz_reader_take_error(fz_reader *r)


cdef class ReaderCore:
    """One reader over one ring. Keeps ring and ports alive for as long as the thread may touch them."""

    cdef fz_reader _c
    cdef PacketRing _ring
    cdef list _ports
    cdef bint _is_open

    def __cinit__(self, PacketRing ring not None):
        self._ring = ring
        self._ports = []
        cdef int error = fz_reader_init(&self._c, ring._c)
        if error:
            raise OSError(-error, "a reader's eventfds could not be made")
        self._is_open = True

    def __dealloc__(self):
        if self._is_open:  # Else the fields are zero, and zero is somebody's descriptor.
            fz_reader_free(&self._c)

    @property
    def ready_fd(self) -> int:
        """Becomes readable when the sleeping consumer must look at the ring."""
        return self._c.ready_fd

    @property
    def space_fd(self) -> int:
        """To be written by the consumer when `release` says that the reader waits."""
        return self._c.space_fd

    def read_from(self, list ports) -> None:
        """Reads from these ports and no others. On return no read on a former one is under way: it may be closed.

        Raises: ValueError for more ports than a reader has room for.
        """
        cdef fz_reader_source sources[8]
        cdef uint32_t count = 0
        cdef UdpBatchPort udp
        cdef TunBatchPort tun
        if len(ports) > FZ_READER_MAX:
            raise ValueError(f"A reader takes {FZ_READER_MAX} ports, not {len(ports)}.")
        for port in ports:
            if isinstance(port, UdpBatchPort):
                udp = port
                sources[count] = fz_reader_source(udp.fd, <uint16_t>udp.socket_id, <uint16_t>udp.port, FZ_READER_UDP,
                                                  &udp._stats, NULL)
            else:
                tun = port
                sources[count] = fz_reader_source(tun.fd, 0, 0, FZ_READER_TUN, NULL, &tun._stats)
            count += 1
        with nogil:
            fz_reader_set(&self._c, sources, count)
        # Only now may the former ports go: until here the thread could hold pointers into them.
        self._ports = list(ports)

    def run(self) -> int:
        """Blocks without the GIL until `stop`. Returns 0, or the errno of a descriptor that died."""
        cdef int error
        with nogil:
            error = fz_reader_run(&self._c)
        return -error

    def stop(self) -> None:
        """Makes `run` return soon."""
        with nogil:
            fz_reader_stop(&self._c)

    def take_error(self) -> int:
        """Returns the errno of the last refused read, 0 if there was none since the last call."""
        return fz_reader_take_error(&self._c)
