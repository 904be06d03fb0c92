// sources: fz_channel.c fz_demux.c
// sanitize: address,undefined
/* Random reads from relays and others, cut with random channels open, against a list of what is open. */
#include "fz_demux.h"
#include "fz_ip.h"
#include "fz_test.h"

enum { RELAYS = 3, ROUNDS = 20000, NUMBERS = 6 };

static fz_addr relay_address(uint32_t index) {
  fz_addr a = {.port = 3478, .family = index == 2 ? 6 : 4};
  a.ip[0] = 203;
  a.ip[3] = (uint8_t)index;
  return a;
}

/* Writes one datagram and returns its size: WireGuard data, a handshake or noise, mostly framed, sometimes with a wrong length. */
static uint32_t make(uint64_t *state, uint8_t *p, uint32_t number, uint32_t size, uint32_t what) {
  test_fill(state, p, size + 4);
  fz_store_be16(p, (uint16_t)number);
  fz_store_be16(p + 2, (uint16_t)(what == 3 ? size + 1 : size));
  memset(p + 4, 0, size < 4 ? size : 4);
  if (size) p[4] = what == 0 ? 4 : what == 1 ? 9 : 4;
  return size + 4;
}

int main(void) {
  uint64_t state = 11;
  fz_channel_table t = {.relays = test_alloc(RELAYS, sizeof *t.relays), .count = 2};
  for (uint32_t i = 0; i < t.count; i++) {
    t.relays[i] = test_alloc(1, sizeof **t.relays);
    t.relays[i]->address = relay_address(i);
  }
  CHECK(fz_channel_of((const uint8_t *)"\x40\0\0", 3) == FZ_CHANNELS);
  CHECK(fz_channel_of((const uint8_t *)"\x40\0\0\0", 4) == 0);
  CHECK(fz_channel_of((const uint8_t *)"\x4F\xFF\0\1x", 5) == FZ_CHANNELS - 1);
  CHECK(fz_channel_of((const uint8_t *)"\x50\0\0\0", 4) == FZ_CHANNELS);
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t source = test_random(&state) % RELAYS, offset = test_random(&state) % NUMBERS;
    uint32_t number = FZ_FIRST_CHANNEL + (test_random(&state) % 2 ? offset : FZ_CHANNELS - 1 - offset);
    if (source < t.count && test_random(&state) % 2) {
      t.relays[source]->state[number - FZ_FIRST_CHANNEL] = test_random(&state) % 2 ? FZ_CHANNEL_OPEN : 0;
    }
    bool is_open = source < t.count && t.relays[source]->state[number - FZ_FIRST_CHANNEL] != 0;
    uint32_t size = test_random(&state) % 60, what = test_random(&state) % 4;
    uint32_t count = 1 + test_random(&state) % 3, stride = size + 4;
    fz_ring *ring = test_ring(2, stride * count);
    for (uint32_t i = 0; i < count; i++) make(&state, ring->slab + i * stride, number, size, what);
    ring->length[0] = stride * count;
    ring->stride[0] = (uint16_t)stride;
    ring->local[0].family = 4;
    ring->remote[0] = relay_address(source);
    fz_ring_commit(ring, 1);
    fz_batch b = test_batch(8, 0);
    free(b.slab);
    b.slab = ring->slab;
    CHECK(fz_cut_datagrams(ring, 1, &b, &t) == 1);
    CHECK(b.n == count);
    bool is_data = size >= 32 && what != 1, is_framed = what != 3;
    for (uint32_t row = 0; row < count; row++) {
      if (source >= t.count || !is_framed) {
        CHECK(b.verdict[row] == FZ_PUNT && b.reason[row] == FZ_UNKNOWN_DATAGRAM && b.channel[row] == 0);
      } else if (!is_open || !is_data) {
        CHECK(b.verdict[row] == FZ_PUNT && b.reason[row] == FZ_CHANNEL_DATA && b.length[row] == stride);
      } else {
        CHECK(b.verdict[row] == FZ_FORWARD && b.channel[row] == number && b.length[row] == size);
        CHECK(b.offset[row] == row * stride + 4);
      }
    }
    if (source < t.count && is_open && is_data && is_framed) {
      CHECK(t.relays[source]->state[number - FZ_FIRST_CHANNEL] == (FZ_CHANNEL_OPEN | FZ_CHANNEL_RECEIVED));
    }
    b.slab = NULL;
    test_batch_free(&b);
    test_ring_free(ring);
  }
  for (uint32_t i = 0; i < t.count; i++) free(t.relays[i]);
  free(t.relays);
  return 0;
}
