#include "fz_demux.h"

#include "fz_ip.h"

#define STUN_COOKIE 0x2112A442u

uint8_t fz_datagram_kind(const uint8_t *p, uint32_t n) {
  if (n >= 4) {
    uint32_t type = fz_load_le32(p); /* one byte of type and three reserved zeroes */
    if (type == 4 && n >= 32) return 0;
    /* No STUN message looks like these: its length field would be zero, and n 20. */
    if ((type == 1 && n == 148) || (type == 2 && n == 92) || (type == 3 && n == 64)) return FZ_HANDSHAKE;
  }
  if (n >= 20 && p[0] <= 3 && fz_load_be32(p + 4) == STUN_COOKIE) return FZ_STUN;
  if (n >= 1 && p[0] >= 0x40 && p[0] <= 0x4F) return FZ_CHANNEL_DATA;
  return FZ_UNKNOWN_DATAGRAM;
}

/* Why a read cannot be cut, 0 when it can. */
static uint8_t refuse_read(const fz_ring *ring, uint32_t slot) {
  uint32_t length = ring->length[slot], stride = ring->stride[slot];
  if (length == 0) return FZ_EMPTY;
  if (ring->offset[slot] > ring->slot_size || length > ring->slot_size - ring->offset[slot]) return FZ_OVERSIZED;
  if (ring->local[slot].family == 0) return FZ_NO_LOCAL_ADDRESS;
  if (stride == 0 || stride > length) return FZ_BAD_STRIDE;
  if (stride > FZ_MAX_DATAGRAM) return stride == length ? FZ_OVERSIZED : FZ_BAD_STRIDE;
  return 0;
}

static void add_row(const fz_ring *ring, uint32_t slot, fz_batch *b, uint32_t offset, uint32_t length) {
  uint32_t row = b->n++;
  fz_row_init(b, row, slot, offset, length);
  b->stride[row] = ring->stride[slot];
  b->socket[row] = ring->socket[slot];
  b->local[row] = ring->local[slot];
  b->remote[row] = ring->remote[slot];
  b->ecn[row] = ring->ecn[slot] & 3u;
}

static void add_refused(const fz_ring *ring, uint32_t slot, fz_batch *b, uint8_t reason) {
  add_row(ring, slot, b, slot * ring->slot_size, 0);
  fz_row_drop(b, b->n - 1, reason);
}

/* Takes the header off a row of channel data when WireGuard data is behind it and the channel is open; what else it may be. */
static uint8_t unwrap(fz_channel_relay *relay, fz_batch *b, uint32_t row) {
  const uint8_t *p = b->slab + b->offset[row];
  uint32_t channel = fz_channel_of(p, b->length[row]);
  if (!relay || channel == FZ_CHANNELS) return FZ_UNKNOWN_DATAGRAM;
  bool is_data = fz_datagram_kind(p + FZ_CHANNEL_DATA_HEADER, b->length[row] - FZ_CHANNEL_DATA_HEADER) == 0;
  if (!is_data || !(relay->state[channel] & FZ_CHANNEL_OPEN)) return FZ_CHANNEL_DATA;
  relay->state[channel] |= FZ_CHANNEL_RECEIVED;
  b->channel[row] = (uint16_t)(FZ_FIRST_CHANNEL + channel);
  b->offset[row] += FZ_CHANNEL_DATA_HEADER;
  b->length[row] -= FZ_CHANNEL_DATA_HEADER;
  return 0;
}

static void cut_read(const fz_ring *ring, uint32_t slot, fz_batch *b, const fz_channel_table *channels) {
  uint32_t at = slot * ring->slot_size + ring->offset[slot], left = ring->length[slot], stride = ring->stride[slot];
  fz_channel_relay *relay = channels ? fz_channel_find(channels, &ring->remote[slot]) : NULL;
  while (left) {
    uint32_t n = left < stride ? left : stride;
    uint8_t kind = fz_datagram_kind(ring->slab + at, n);
    add_row(ring, slot, b, at, n);
    if (kind == FZ_CHANNEL_DATA && channels) kind = unwrap(relay, b, b->n - 1);
    if (kind) fz_row_punt(b, b->n - 1, kind);
    at += n;
    left -= n;
  }
}

uint32_t fz_cut_datagrams(fz_ring *ring, uint32_t entries, fz_batch *b, const fz_channel_table *channels) {
  uint32_t ready = fz_ring_ready(ring), slot = fz_ring_tail(ring), taken = 0;
  if (entries > ready) entries = ready;
  for (; taken < entries; taken++, slot = (slot + 1) & (ring->slots - 1u)) {
    uint8_t reason = refuse_read(ring, slot);
    uint32_t rows = reason ? 1u : (ring->length[slot] + ring->stride[slot] - 1u) / ring->stride[slot];
    if (rows > b->capacity - b->n) {
      if (b->n != 0) break;
      reason = FZ_BATCH_FULL;
    }
    if (reason) add_refused(ring, slot, b, reason);
    else cut_read(ring, slot, b, channels);
  }
  return taken;
}
