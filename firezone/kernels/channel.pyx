"""Which channels of which relays data is received on; read by the first stage from the network, written by the TURN client."""
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

import cython

from firezone.kernels.channel cimport (
    FZ_CHANNEL_OPEN,
    FZ_CHANNEL_RECEIVED,
    FZ_CHANNELS,
    FZ_FIRST_CHANNEL,
    fz_channel_find,
    fz_channel_relay,
)
from firezone.kernels.types cimport fz_addr

from firezone.base.errors import LocalError


@cython.final
cdef class ChannelTable:
    """Channels by relay socket and number, 4 KiB for each socket. Not for concurrent use: change it between batches."""

    def __dealloc__(self):
        for i in range(self._c.count):
            free(self._c.relays[i])
        free(self._c.relays)

    def __len__(self) -> int:
        """How many relay sockets are known."""
        return self._c.count

    def add_relay(self, object relay) -> None:
        """Makes a relay's socket known; its channels are closed. One that is known stays as it is."""
        cdef fz_addr address
        _put_address(&address, relay)
        if fz_channel_find(&self._c, &address) != NULL:
            return
        grown = realloc(self._c.relays, (self._c.count + 1) * sizeof(fz_channel_relay *))
        if grown == NULL:
            raise MemoryError
        self._c.relays = <fz_channel_relay **>grown
        made = <fz_channel_relay *>calloc(1, sizeof(fz_channel_relay))
        if made == NULL:
            raise MemoryError
        made.address = address
        self._c.relays[self._c.count] = made
        self._c.count += 1

    def remove_relay(self, object relay) -> None:
        """Forgets a relay's socket with all its channels, if it is known."""
        cdef fz_addr address
        _put_address(&address, relay)
        cdef fz_channel_relay *found = fz_channel_find(&self._c, &address)
        if found == NULL:
            return
        for i in range(self._c.count):
            if self._c.relays[i] == found:
                self._c.count -= 1
                self._c.relays[i] = self._c.relays[self._c.count]
                break
        free(found)

    def open(self, object relay, int number) -> None:
        """Lets WireGuard data of a channel pass, and forgets whether any did.

        Raises: LocalError for a relay that is not known or a number outside 0x4000..0x4FFF.
        """
        cdef uint8_t *state = self._state(relay, number)
        if state == NULL:
            raise LocalError(f"No relay is known at {relay}.")
        state[0] = FZ_CHANNEL_OPEN

    def close(self, object relay, int number) -> None:
        """Has all data of a channel go to the machine, which knows it no more. One that is not open stays so."""
        cdef uint8_t *state = self._state(relay, number)
        if state != NULL:
            state[0] = 0

    def has_received(self, object relay, int number) -> bool:
        """Tells whether data passed since the channel was opened."""
        cdef uint8_t *state = self._state(relay, number)
        return state != NULL and (state[0] & FZ_CHANNEL_RECEIVED) != 0

    cdef uint8_t *_state(self, object relay, int number) except? NULL:
        """Where the state of a channel stands; NULL for a relay that is not known."""
        cdef fz_addr address
        if number < <int>FZ_FIRST_CHANNEL or number >= <int>(FZ_FIRST_CHANNEL + FZ_CHANNELS):
            raise LocalError(f"{number:#06x} is no channel number.")
        _put_address(&address, relay)
        cdef fz_channel_relay *found = fz_channel_find(&self._c, &address)
        return NULL if found == NULL else &found.state[number - FZ_FIRST_CHANNEL]


cdef int _put_address(fz_addr *a, object endpoint) except -1:
    """Writes an `Endpoint`."""
    cdef bytes ip = endpoint.ip
    if len(ip) not in (4, 16):
        raise LocalError(f"An address has 4 or 16 bytes, not {len(ip)}.")
    memset(a, 0, sizeof(fz_addr))
    memcpy(a.ip, <const uint8_t *>ip, len(ip))
    a.port = endpoint.port
    a.family = 4 if len(ip) == 4 else 6
    return 0
