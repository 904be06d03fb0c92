"""The batch: descriptor columns over a slab (see `csrc/fz_batch.h`), and the runs in which its rows leave."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc

import numpy as np

from firezone.kernels.types cimport FZ_FORWARD, FZ_PREFIX_SIZE, fz_addr, fz_batch_account, fz_row_init, fz_run, histogram_tuple

from firezone.kernels.types import ADDRESS, PREFIX_SIZE, RUN


cdef class PacketBatch:
    """Up to `capacity` packets or datagrams with their columns, over one slab.

    Shapes:    every column (capacity,); prefix (capacity, PREFIX_SIZE) uint8; slab 1-D uint8.
    Ownership: the columns are the batch's own; the slab belongs to a ring or to the batch's maker and is set by `over`.
    """

    def __cinit__(self, Py_ssize_t capacity):
        if not 1 <= capacity <= 1 << 16:
            raise ValueError(f"A batch holds between 1 and 65536 rows, not {capacity}.")
        self._c.capacity = <uint32_t>capacity
        self.slot = np.zeros(capacity, np.uint32)
        self.offset = np.zeros(capacity, np.uint32)
        self.length = np.zeros(capacity, np.uint32)
        self.stride = np.zeros(capacity, np.uint16)
        self.socket = np.zeros(capacity, np.uint16)
        self.local = np.zeros(capacity, ADDRESS)
        self.remote = np.zeros(capacity, ADDRESS)
        self.ecn = np.zeros(capacity, np.uint8)
        self.peer = np.full(capacity, -1, np.int32)
        self.session = np.full(capacity, -1, np.int32)
        self.channel = np.zeros(capacity, np.uint16)
        self.verdict = np.zeros(capacity, np.uint8)
        self.reason = np.zeros(capacity, np.uint8)
        self.prefix = np.zeros((capacity, PREFIX_SIZE), np.uint8)
        self.prefix_len = np.zeros(capacity, np.uint8)
        self.skip = np.zeros(capacity, np.uint16)
        self.ip_version = np.zeros(capacity, np.uint8)
        self.protocol = np.zeros(capacity, np.uint8)
        self.transport = np.zeros(capacity, np.uint16)
        self.flags = np.zeros(capacity, np.uint8)
        self.source_port = np.zeros(capacity, np.uint16)
        self.destination_port = np.zeros(capacity, np.uint16)
        self.next = np.full(capacity, -1, np.int32)
        self._c.slot = <uint32_t *><size_t>self.slot.ctypes.data
        self._c.offset = <uint32_t *><size_t>self.offset.ctypes.data
        self._c.length = <uint32_t *><size_t>self.length.ctypes.data
        self._c.stride = <uint16_t *><size_t>self.stride.ctypes.data
        self._c.socket = <uint16_t *><size_t>self.socket.ctypes.data
        self._c.local = <fz_addr *><size_t>self.local.ctypes.data
        self._c.remote = <fz_addr *><size_t>self.remote.ctypes.data
        self._c.ecn = <uint8_t *><size_t>self.ecn.ctypes.data
        self._c.peer = <int32_t *><size_t>self.peer.ctypes.data
        self._c.session = <int32_t *><size_t>self.session.ctypes.data
        self._c.channel = <uint16_t *><size_t>self.channel.ctypes.data
        self._c.verdict = <uint8_t *><size_t>self.verdict.ctypes.data
        self._c.reason = <uint8_t *><size_t>self.reason.ctypes.data
        self._c.prefix = <uint8_t *><size_t>self.prefix.ctypes.data
        self._c.prefix_len = <uint8_t *><size_t>self.prefix_len.ctypes.data
        self._c.skip = <uint16_t *><size_t>self.skip.ctypes.data
        self._c.ip_version = <uint8_t *><size_t>self.ip_version.ctypes.data
        self._c.protocol = <uint8_t *><size_t>self.protocol.ctypes.data
        self._c.transport = <uint16_t *><size_t>self.transport.ctypes.data
        self._c.flags = <uint8_t *><size_t>self.flags.ctypes.data
        self._c.source_port = <uint16_t *><size_t>self.source_port.ctypes.data
        self._c.destination_port = <uint16_t *><size_t>self.destination_port.ctypes.data
        self._c.next = <int32_t *><size_t>self.next.ctypes.data

    @property
    def n(self) -> int:
        """Rows in use."""
        return self._c.n

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return self._c.capacity

    def over(self, object slab) -> None:
        """Points the batch at a slab (any C-contiguous uint8 array) and empties it.

        Raises: ValueError when the array is empty or not contiguous: rows over a silent copy would write nowhere.
        """
        if not slab.flags.c_contiguous or slab.size == 0:
            raise ValueError("A slab must be one contiguous piece of memory of at least one byte.")
        cdef uint8_t[::1] view = slab if slab.ndim == 1 else slab.reshape(-1)
        self.slab = view.base
        self._c.slab = &view[0]
        self._c.slab_size = <unsigned long long>view.shape[0]
        self._c.n = 0

    def clear(self) -> None:
        """Forgets all rows; the slab stays."""
        self._c.n = 0

    def append(self, Py_ssize_t offset, Py_ssize_t length, int verdict=FZ_FORWARD) -> int:
        """Adds one row over bytes that already stand in the slab and returns its number.

        Raises: IndexError when the batch is full, ValueError when the bytes lie outside the slab.
        """
        if self._c.n >= self._c.capacity:
            raise IndexError(f"The batch is full ({self._c.capacity} rows).")
        if offset < 0 or length < 0 or <unsigned long long>(offset + length) > self._c.slab_size:
            raise ValueError(f"Bytes {offset}..{offset + length} lie outside a slab of {self._c.slab_size}.")
        cdef uint32_t row = self._c.n
        self._c.n += 1
        fz_row_init(&self._c, row, 0, <uint32_t>offset, <uint32_t>length)
        self._c.verdict[row] = <uint8_t>verdict
        return row

    def row_bytes(self, uint32_t row) -> bytes:
        """Returns a copy of the row's bytes as they would leave: prefix, then what the prefix does not replace."""
        if row >= self._c.n:
            raise IndexError(f"Row {row} of {self._c.n}.")
        cdef uint8_t *start = self._c.slab + self._c.offset[row] + self._c.skip[row]
        cdef bytes body = start[:self._c.length[row] - self._c.skip[row]]
        cdef uint8_t *prefix = self._c.prefix + <size_t>row * FZ_PREFIX_SIZE
        return prefix[:self._c.prefix_len[row]] + body

    def rows(self, int verdict) -> object:
        """Returns the numbers of the rows with this verdict, in order, as an int64 array."""
        return np.flatnonzero(self.verdict[:self._c.n] == verdict)

    def count_reasons(self, uint32_t[::1] counters) -> int:
        """Ends a batch's books: adds its size to `sizes`, and every dropped and punted row to counters[reason].

        Shapes:  counters (256,) uint32.
        Returns: how many rows are punted.
        """
        if counters.shape[0] < 256:
            raise ValueError("Counters need 256 places, one per reason.")
        cdef uint32_t punted
        with nogil:
            punted = fz_batch_account(&self._c, &counters[0])
        return punted

    def sizes(self) -> tuple:
        """Returns how many of the batches so far had how many rows (`base.histogram`), and their rows together."""
        return histogram_tuple(&self._c.sizes)


cdef class RunList:
    """The runs of one batch, in the order in which they leave.

    Shapes: runs (capacity,) `types.RUN`, the first n in use.
    """

    def __cinit__(self, Py_ssize_t capacity):
        self.capacity = capacity
        self.runs = np.zeros(capacity, RUN)
        self._c = <fz_run *><size_t>self.runs.ctypes.data
        self.n = 0

    def __dealloc__(self):
        free(self._table)

    def family(self, PacketBatch batch not None, Py_ssize_t index) -> int:
        """Returns the IP family, 4 or 6, of where a run leaves for. Raises IndexError when there is no such run."""
        if not 0 <= index < self.n:
            raise IndexError(f"Run {index} of {self.n}.")
        return batch._c.remote[self._c[index].first].family

    cdef int _make_table(self, uint32_t rows) except -1:
        """Makes the scratch table as large as `run_table_size` says; its contents are undefined."""
        cdef uint32_t size = run_table_size(rows)
        if size > self._table_allocated:
            free(self._table)
            self._table_allocated = 0
            self._table = <int32_t *>malloc(size * sizeof(int32_t))
            if self._table == NULL:
                raise MemoryError
            self._table_allocated = size
        self._table_size = size
        return 0
