// sources: fz_relay.c fz_fair.c fz_addrmap.c
// sanitize: address,undefined
/* The relay's stages over reads of all kinds, in slots of their exact size: channels of many clients mixed with garbage, trains, empty
 * reads and lengths that lie, in batches longer than what is looked up at once. Every row is judged anew, on its own. */
#include "fz_test.h"

#include "fz_ip.h"
#include "fz_relay.h"

enum { CHANNELS = 200, SLOTS = 64, SLOT = 96, ROWS = 150, BATCHES = 4000, PORTS = 1000 };

static fz_relay relay = {.listen_port = 3478, .free_channel = -1};
static uint64_t state = 9;

static fz_addr client_of(uint32_t i) { return (fz_addr){.ip = {10, 0, (uint8_t)(i / 4), 1}, .port = 4000, .family = 4}; }
static fz_addr peer_of(uint32_t i) { return (fz_addr){.ip = {0xfd, (uint8_t)i, 1}, .port = (uint16_t)(500 + i % 7), .family = 6}; }
static uint16_t number_of(uint32_t i) { return (uint16_t)(FZ_CHANNEL_FIRST + i % 4); }
static uint16_t port_of(uint32_t i) { return (uint16_t)(PORTS + i / 4); }

static void bind_all(void) {
  fz_addrmap *maps[] = {&relay.by_client, &relay.by_peer};
  for (int m = 0; m < 2; m++) fz_addrmap_move(maps[m], test_alloc(1024, sizeof(fz_addrmap_entry)), 10);
  relay.channels = test_alloc(CHANNELS, sizeof *relay.channels);
  relay.room = CHANNELS;
  for (uint32_t i = 0; i < CHANNELS; i++) {
    fz_addr client = client_of(i), peer = peer_of(i);
    CHECK(fz_relay_has_room(&relay));
    fz_relay_bind(&relay, &client, number_of(i), &peer, port_of(i));
  }
  for (int i = 0; i < FZ_RELAY_ASKERS; i++) relay.allowances[i].left = UINT32_MAX;
}

/* One read: of a bound channel, of one that is not, or of anything. */
static void push(fz_ring *ring, bool is_client) {
  uint32_t slot = fz_ring_head(ring), i = test_random(&state) % (CHANNELS + 20), kind = test_random(&state) % 8;
  uint32_t size = test_random(&state) % (SLOT / 3) + (kind ? 5 : 0), pieces = kind == 1 ? 3 : 1;
  uint8_t *p = ring->slab + (size_t)slot * SLOT;
  if (kind == 0) size = test_random(&state) % 6;
  if (size * pieces > SLOT) pieces = 1;
  test_fill(&state, p, SLOT);
  for (uint32_t piece = 0; is_client && kind && piece < pieces; piece++) {
    fz_store_be16(p + piece * size, number_of(i));
    fz_store_be16(p + piece * size + 2, (uint16_t)(kind == 2 ? size : size - 4));
  }
  if (kind == 3) memcpy(p, (uint8_t[]){0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, 8);
  ring->offset[slot] = 0;
  ring->length[slot] = kind == 4 ? 0 : size * pieces;
  ring->stride[slot] = (uint16_t)(kind == 5 ? size + 1 : size);
  ring->ecn[slot] = 0;
  ring->socket[slot] = is_client ? relay.listen_port : port_of(i);
  ring->local[slot] = (fz_addr){.ip = {1, 2, 3, 4}, .port = 3478, .family = 4};
  ring->remote[slot] = is_client ? client_of(i) : peer_of(i);
  if (kind == 6) ring->remote[slot].port = (uint16_t)(test_random(&state) % 2);
  fz_ring_commit(ring, 1);
}

/* What became of a row, found without the stage: the channel by walking through all. */
static void judge(const fz_ring *ring, const fz_batch *b, uint32_t row, uint32_t at, uint32_t length, bool is_client) {
  const uint8_t *p = ring->slab + at;
  const fz_addr *remote = &ring->remote[b->slot[row]];
  uint32_t i = 0;
  if (is_client) {
    bool is_data = (p[0] & 0xC0) == 0x40, is_whole = length >= 4 && fz_load_be16(p + 2) + 4u <= length;
    for (; i < CHANNELS; i++) {
      fz_addr client = client_of(i);
      if (is_data && is_whole && fz_load_be16(p) == number_of(i) && memcmp(&client, remote, sizeof client) == 0) break;
    }
    if (i == CHANNELS) {
      bool is_stun = p[0] <= 3 && length >= 20 && fz_load_be32(p + 4) == 0x2112A442u;
      CHECK(b->verdict[row] == (is_stun ? FZ_PUNT : FZ_DROP));
      CHECK(b->reason[row] == (is_stun ? FZ_STUN : is_data && is_whole ? FZ_NO_CHANNEL : FZ_MALFORMED_PACKET));
      return;
    }
    fz_addr peer = peer_of(i);
    CHECK(b->verdict[row] == FZ_FORWARD && b->socket[row] == port_of(i) && memcmp(&b->remote[row], &peer, sizeof peer) == 0);
    CHECK(b->offset[row] == at + 4 && b->length[row] == fz_load_be16(p + 2) && b->prefix_len[row] == 0);
    return;
  }
  for (; i < CHANNELS; i++) {
    fz_addr peer = peer_of(i);
    if (ring->socket[b->slot[row]] == port_of(i) && memcmp(&peer, remote, sizeof peer) == 0) break;
  }
  CHECK(b->verdict[row] == (i < CHANNELS ? FZ_FORWARD : FZ_DROP));
  if (i == CHANNELS) return;
  fz_addr client = client_of(i);
  CHECK(b->socket[row] == relay.listen_port && memcmp(&b->remote[row], &client, sizeof client) == 0);
  CHECK(b->offset[row] == at && b->length[row] == length && b->prefix_len[row] == 4);
  CHECK(fz_load_be16(b->prefix + (size_t)row * FZ_PREFIX_SIZE) == number_of(i));
}

static bool is_cut(const fz_ring *ring, uint32_t slot, bool is_client) {
  if (ring->remote[slot].port == 0 || ring->stride[slot] > ring->length[slot]) return ring->length[slot] == 0 && !is_client && ring->remote[slot].port;
  return ring->length[slot] != 0 || !is_client;
}

int main(void) {
  bind_all();
  for (int is_client = 0; is_client < 2; is_client++) {
    fz_ring *ring = test_ring(SLOTS, SLOT);
    fz_batch b = test_batch(ROWS, (size_t)SLOTS * SLOT);
    uint64_t forwarded = 0;
    free(b.slab);
    b.slab = ring->slab;
    for (int batch = 0; batch < BATCHES; batch++) {
      uint32_t n = test_random(&state) % (SLOTS - 1) + 1;
      for (uint32_t i = 0; i < n; i++) push(ring, is_client);
      b.n = 0;
      uint32_t taken = is_client ? fz_relay_from_clients(&relay, ring, n, &b) : fz_relay_from_peers(&relay, ring, n, &b);
      CHECK(taken > 0 && taken <= n && b.n >= taken);
      uint32_t done = 0;
      for (uint32_t row = 0; row < b.n; row++) {
        uint32_t slot = b.slot[row];
        done = row && slot == b.slot[row - 1] ? done + ring->stride[slot] : 0;
        if (!is_cut(ring, slot, is_client)) CHECK(b.verdict[row] == FZ_DROP);
        else {
          uint32_t left = ring->length[slot] - done;
          judge(ring, &b, row, slot * SLOT + done, left < ring->stride[slot] ? left : ring->stride[slot], is_client);
        }
        forwarded += b.verdict[row] == FZ_FORWARD;
      }
      fz_ring_release(ring, taken);
      while (fz_ring_ready(ring)) fz_ring_release(ring, 1);
    }
    CHECK(forwarded > BATCHES);
    b.slab = NULL;
    test_batch_free(&b);
    test_ring_free(ring);
  }
  free(relay.by_client.entries);
  free(relay.by_peer.entries);
  free(relay.channels);
  return 0;
}
