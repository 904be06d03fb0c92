/* Channels that data may be received on: for each socket of a relay a byte per channel number (RFC 8656 section 12).
 *
 * Relays are few (a handful), channels up to 4096 on each: a datagram costs one comparison of addresses per read and one byte looked
 * up. All memory is the caller's (firezone.kernels.channel). Not for concurrent use: change it between batches.
 */
#ifndef FZ_CHANNEL_H
#define FZ_CHANNEL_H

#include <stdbool.h>

#include "fz_batch.h"

#define FZ_FIRST_CHANNEL 0x4000u
#define FZ_CHANNELS 4096u
#define FZ_CHANNEL_DATA_HEADER 4u /* number and length, big endian */

#define FZ_CHANNEL_OPEN 1u     /* data may pass */
#define FZ_CHANNEL_RECEIVED 2u /* data passed since it was opened */

typedef struct fz_channel_relay {
  fz_addr address;
  uint8_t state[FZ_CHANNELS];
} fz_channel_relay;

/* All zero: no relays. */
typedef struct fz_channel_table {
  fz_channel_relay **relays;
  uint32_t count;
} fz_channel_table;

/* The relay with this socket, NULL when it is none. */
fz_channel_relay *fz_channel_find(const fz_channel_table *t, const fz_addr *address);

/* Where in `state` the channel of a datagram stands; FZ_CHANNELS when the n bytes are no well-formed channel data. */
uint32_t fz_channel_of(const uint8_t *p, uint32_t n);

#endif
