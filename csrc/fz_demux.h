/* From reads to datagrams: cuts GRO trains at their stride and tells the kinds of datagrams apart by their first bytes.
 *
 * WireGuard data stays FORWARD; handshakes, STUN, channel data and unknown datagrams are punted under their own reason. Reads
 * that cannot be cut become one dropped row each. Nothing is copied: rows point into the ring's slab.
 *
 * WireGuard data inside channel data of an open channel loses its header and stays FORWARD as well. Channel data of anybody but a
 * relay, or with a wrong length, is an unknown datagram; all other is punted, since the machine may know the channel already.
 */
#ifndef FZ_DEMUX_H
#define FZ_DEMUX_H

#include "fz_channel.h"
#include "fz_ring.h"

#define FZ_MAX_DATAGRAM 1316u

/* The kind of a datagram: 0 for WireGuard data, else the reason of its punt. */
uint8_t fz_datagram_kind(const uint8_t *p, uint32_t n);

/* Cuts up to `entries` of the oldest slots into rows behind the b->n rows there are; b must stand over the ring's slab. Returns
 * slots consumed: stops in front of a slot whose rows do not fit, except that an empty batch drops it as too big for ever.
 * channels: may be NULL, then all channel data is punted. */
uint32_t fz_cut_datagrams(fz_ring *ring, uint32_t entries, fz_batch *b, const fz_channel_table *channels);

#endif
