# The C side of channels that data is received on: csrc/fz_channel.h.
from libc.stdint cimport uint8_t, uint32_t

from firezone.kernels.types cimport fz_addr


cdef extern from "fz_channel.h" nogil:
    enum:
        FZ_FIRST_CHANNEL
        FZ_CHANNELS
        FZ_CHANNEL_OPEN
        FZ_CHANNEL_RECEIVED

    ctypedef struct fz_channel_relay:
        fz_addr address
        uint8_t state[4096]

    ctypedef struct fz_channel_table:
        fz_channel_relay **relays
        uint32_t count

    fz_channel_relay *fz_channel_find(const fz_channel_table *t, const fz_addr *address)


cdef class ChannelTable:
    cdef fz_channel_table _c  # each relay calloc'ed, freed when it is removed or with the table
    cdef uint8_t *_state(self, object relay, int number) except? NULL
