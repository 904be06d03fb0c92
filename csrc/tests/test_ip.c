// sources: fz_ip.c fz_csum.c fz_filter.c fz_lpm.c fz_memo.c fz_demux.c fz_channel.c
// sanitize: address,undefined
/* Hostile packets through parse, filter and the checksum: noise, truncated headers, flipped bytes. Each packet is the last thing in
 * its slab, so a read behind it is seen. */
#include "fz_csum.h"
#include "fz_demux.h"
#include "fz_filter.h"
#include "fz_ip.h"
#include "fz_test.h"

enum { ROUNDS = 60000, CAPACITY = 4 };

/* A packet that is right more often than chance would have it. */
static uint32_t make_packet(uint64_t *state, uint8_t *p, uint32_t room) {
  uint32_t n = test_random(state) % (room + 1);
  test_fill(state, p, n);
  if (n < 1 || test_random(state) % 8 == 0) return n;
  static const uint8_t protocols[] = {0, 1, 6, 6, 17, 17, 43, 44, 51, 58, 60, 132, 255};
  uint8_t protocol = protocols[test_random(state) % sizeof protocols];
  if (test_random(state) % 2) {
    p[0] = (uint8_t)(0x40 | (test_random(state) % 4 ? 5 : test_random(state) % 16));
    if (n >= 20) {
      fz_store_be16(p + 2, (uint16_t)(n - test_random(state) % 2));
      if (test_random(state) % 4) fz_store_be16(p + 6, 0);
      p[9] = protocol;
    }
  } else {
    p[0] = 0x60;
    if (n >= 40) {
      fz_store_be16(p + 4, (uint16_t)(n - 40));
      p[6] = protocol;
      for (uint32_t i = 40; i + 1 < n && i < 120; i += 8) p[i] = protocols[test_random(state) % sizeof protocols], p[i + 1] &= 1;
    }
  }
  return n;
}

static void check_parsed(const fz_batch *b, uint32_t row) {
  if (b->verdict[row] != FZ_FORWARD) {
    CHECK(b->reason[row] != 0);
    return;
  }
  CHECK(b->length[row] <= FZ_MAX_PACKET && b->transport[row] <= b->length[row]);
  CHECK(b->ip_version[row] == 4 || b->ip_version[row] == 6);
  CHECK(b->transport[row] >= (b->ip_version[row] == 4 ? 20 : 40));
}

static void run_round(uint64_t *state, fz_filters *filters) {
  uint8_t packet[1400];
  uint32_t n = make_packet(state, packet, test_random(state) % 4 ? 100 : 1400);
  fz_batch b = test_batch(CAPACITY, n);
  memcpy(b.slab, packet, n);
  for (uint32_t row = 0; row < CAPACITY; row++) {
    fz_row_init(&b, row, 0, 0, n);
    b.ecn[row] = (uint8_t)row;
    b.peer[row] = (int32_t)(test_random(state) % 3) - 1;
  }
  b.n = CAPACITY;
  fz_ip_parse_batch(&b, test_random(state) % 2 != 0);
  for (uint32_t row = 0; row < b.n; row++) check_parsed(&b, row);
  if (test_random(state) % 2) fz_admit_from_tunnel(filters, &b);
  else fz_admit_to_tunnel(filters, &b);
  fz_datagram_kind(b.slab, n);
  uint8_t *copy = test_alloc(n, 1);
  CHECK(fz_copy_sum(copy, b.slab, n) == fz_sum(b.slab, n));
  CHECK(memcmp(copy, b.slab, n) == 0);
  free(copy);
  test_batch_free(&b);
}

int main(void) {
  uint64_t state = 7;
  fz_lpm_node *nodes = test_alloc(16, sizeof *nodes);
  fz_port_range ranges[] = {{1, 1000}, {2000, 65535}};
  fz_rule rules[] = {{.icmp = true, .tcp_count = 2, .udp = 1, .udp_count = 1}};
  fz_filter filter = {.has_rules = true, .rule = rules, .ranges = ranges};
  uint8_t any[16] = {0};
  filter.remote.nodes = nodes;
  filter.rules.nodes = nodes + 8;
  filter.remote.capacity = filter.rules.capacity = 8;
  for (int v6 = 0; v6 < 2; v6++) {
    fz_lpm_set(&filter.remote, any, v6 != 0, 0, 0);
    fz_lpm_set(&filter.rules, any, v6 != 0, 1, 0);
  }
  fz_filter *of[2] = {&filter, NULL};
  uint64_t generation[2] = {1, 0};
  fz_filters filters = {.of = of, .generation = generation, .peers = 2};
  fz_memo *memos[2] = {&filters.from_tunnel, &filters.to_tunnel};
  for (int i = 0; i < 2; i++) fz_memo_move(memos[i], test_alloc((1u << 4) + FZ_MEMO_WAYS - 1, sizeof(fz_memo_entry)), 4);
  for (int round = 0; round < ROUNDS; round++) run_round(&state, &filters);
  for (int i = 0; i < 2; i++) free(memos[i]->entries);
  free(nodes);
  return 0;
}
