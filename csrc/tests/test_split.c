// sources: fz_split.c fz_join.c fz_csum.c fz_ip.c fz_demux.c fz_channel.c
// sanitize: address,undefined
/* Hostile TUN reads through split, parse, join and group, in slabs of exactly the size they are told; what was joined is split again
 * and must be the same packets but for the IPv4 identification. */
#include "fz_demux.h"
#include "fz_ip.h"
#include "fz_join.h"
#include "fz_test.h"

enum { SLOTS = 8, SLOT_SIZE = 4096, ROWS = 512, TABLE = 1024, ROUNDS = 4000 };

static uint32_t make_read(uint64_t *state, uint8_t *base) {
  uint32_t n = test_random(state) % (SLOT_SIZE - 10 + 1);
  test_fill(state, base, 10 + (size_t)n);
  if (test_random(state) % 8 == 0 || n < 60) return n;
  bool v4 = test_random(state) % 2 != 0, tcp = test_random(state) % 2 != 0;
  uint8_t *p = base + 10, *t = p + (v4 ? 20 : 40);
  fz_vnet v = {.flags = 1, .gso_type = tcp ? (v4 ? 1 : 4) : 5, .gso_size = (uint16_t)(1 + test_random(state) % 1300),
               .csum_start = v4 ? 20 : 40, .csum_offset = tcp ? 16 : 6};
  if (test_random(state) % 8 == 0) v.csum_start = (uint16_t)test_random(state);
  if (test_random(state) % 8 == 0) v.gso_type = (uint8_t)(test_random(state) % 7);
  fz_vnet_store(base, &v);
  memset(p, 0, 40);
  p[0] = v4 ? 0x45 : 0x60;
  p[v4 ? 9 : 6] = tcp ? 6 : 17;
  p[v4 ? 19 : 39] = (uint8_t)(test_random(state) % 2);
  if (tcp) t[12] = (uint8_t)(test_random(state) % 8 ? 0x50 : test_random(state)), t[13] = 0x18;
  return n;
}

static fz_ring *make_ring(uint64_t *state) {
  fz_ring *r = test_ring(SLOTS, SLOT_SIZE);
  uint32_t shift = test_random(state) % SLOTS;
  fz_ring_commit(r, shift);
  fz_ring_release(r, shift);
  for (uint32_t i = 0; i < SLOTS; i++) {
    uint32_t slot = fz_ring_head(r);
    r->length[slot] = make_read(state, r->slab + (size_t)slot * SLOT_SIZE);
    r->offset[slot] = test_random(state) % 16 ? 10 : test_random(state);
    if (test_random(state) % 16 == 0) r->length[slot] = test_random(state);
    fz_ring_commit(r, 1);
  }
  return r;
}

/* Writes what the runs gather into a ring, as a TUN device would hand it back. */
static fz_ring *write_runs(const fz_batch *b, const fz_run *runs, uint32_t count) {
  fz_ring *r = test_ring(1024, SLOT_SIZE + 4 * 1280);
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *base = r->slab + (size_t)i * r->slot_size, *out = base + 10;
    memcpy(base, runs[i].vnet, 10);
    for (int32_t row = runs[i].first; row >= 0; row = b->next[row]) {
      CHECK(out + b->prefix_len[row] + b->length[row] <= base + r->slot_size);
      memcpy(out, b->prefix + (size_t)row * FZ_PREFIX_SIZE, b->prefix_len[row]);
      out += b->prefix_len[row];
      memcpy(out, b->slab + b->offset[row] + b->skip[row], b->length[row] - b->skip[row]);
      out += b->length[row] - b->skip[row];
    }
    r->offset[i] = 10;
    r->length[i] = (uint32_t)(out - base) - 10;
    CHECK(r->length[i] == runs[i].total);
    fz_ring_commit(r, 1);
  }
  return r;
}

static void check_same(const uint8_t *a, const uint8_t *c, uint32_t n) {
  if (a[0] >> 4 == 4) {
    CHECK(memcmp(a, c, 4) == 0 && memcmp(a + 6, c + 6, 4) == 0 && memcmp(a + 12, c + 12, n - 12) == 0);
  } else {
    CHECK(memcmp(a, c, n) == 0);
  }
}

static void check_round_trip(fz_batch *b, fz_run *runs, int32_t *table) {
  uint32_t count = fz_join_batch(b, runs, ROWS, true, table, TABLE), row = 0;
  fz_ring *r = write_runs(b, runs, count);
  fz_batch again = test_batch(ROWS, 1 << 20);
  uint64_t used = 0;
  CHECK(fz_split_batch(r, count, &again, &used) == count);
  for (uint32_t i = 0; i < count; i++) {
    for (int32_t first = runs[i].first; first >= 0; first = b->next[first], row++) {
      CHECK(again.verdict[row] == FZ_FORWARD && again.length[row] == b->length[first]);
      check_same(again.slab + again.offset[row], b->slab + b->offset[first], b->length[first]);
    }
  }
  CHECK(row == again.n);
  test_batch_free(&again);
  test_ring_free(r);
}

int main(void) {
  uint64_t state = 11;
  fz_run *runs = test_alloc(ROWS, sizeof *runs);
  int32_t *table = test_alloc(TABLE, sizeof *table);
  for (int round = 0; round < ROUNDS; round++) {
    fz_ring *r = make_ring(&state);
    fz_batch b = test_batch(ROWS, 64 + test_random(&state) % 40000);
    uint64_t used = 0;
    uint32_t taken = fz_split_batch(r, SLOTS, &b, &used);
    CHECK(taken >= 1 && used <= b.slab_size);
    for (uint32_t row = 0; row < b.n; row++) {
      if (b.verdict[row] == FZ_FORWARD) CHECK(b.offset[row] >= 16 && b.offset[row] + b.length[row] + 16 <= used);
    }
    fz_ip_parse_batch(&b, false);
    check_round_trip(&b, runs, table);
    fz_group_runs(&b, runs, ROWS, table, TABLE);
    test_batch_free(&b);
    b = test_batch(ROWS, 1);
    free(b.slab);
    b.slab = r->slab;
    b.slab_size = (uint64_t)SLOTS * SLOT_SIZE;
    for (uint32_t i = 0; i < SLOTS; i++) r->stride[i] = (uint16_t)(test_random(&state) % 1400), r->local[i].family = 4;
    fz_cut_datagrams(r, SLOTS, &b, NULL);
    fz_ip_parse_batch(&b, true);
    r->slab = NULL; /* freed with the batch */
    test_batch_free(&b);
    test_ring_free(r);
  }
  free(runs);
  free(table);
  return 0;
}
