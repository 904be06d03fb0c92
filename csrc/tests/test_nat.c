// sources: fz_nat.c fz_nat_stage.c fz_addrmap.c fz_csum.c fz_ip.c
// sanitize: address,undefined
/* Random packets both ways through a table that is always nearly full, errors with embedded packets cut anywhere included; the
 * indices and lists agree with the sessions after every batch. */
#include "fz_ip.h"
#include "fz_nat.h"
#include "fz_test.h"

enum { ROWS = 40, ROUNDS = 4000, CLIENTS = 3, ROOM = 256, SLOT = 160 };

static fz_nat table(void) {
  fz_nat n = {.free_session = -1, .free_translation = -1, .session_room = ROOM, .translation_room = 64, .client_room = CLIENTS,
              .peers = CLIENTS};
  n.inside.seed[0] = n.outside.seed[1] = n.proxies.seed[0] = 9;
  fz_addrmap_move(&n.inside, test_alloc(2 * ROOM, sizeof(fz_addrmap_entry)), 9);
  fz_addrmap_move(&n.outside, test_alloc(2 * ROOM, sizeof(fz_addrmap_entry)), 9);
  fz_addrmap_move(&n.proxies, test_alloc(128, sizeof(fz_addrmap_entry)), 7);
  n.sessions = test_alloc(ROOM, sizeof *n.sessions);
  n.translations = test_alloc(64, sizeof *n.translations);
  n.clients = test_alloc(CLIENTS, sizeof *n.clients);
  n.client_of_peer = test_alloc(CLIENTS, sizeof *n.client_of_peer);
  n.own_v4 = (fz_addr){.ip = {100, 64, 0, 2}, .family = 4};
  for (uint32_t i = 0; i < CLIENTS; i++) {
    fz_nat_add_client(&n, i);
    n.client_of_peer[i] = (int32_t)i;
  }
  return n;
}

static void table_free(fz_nat *n) {
  free(n->inside.entries);
  free(n->outside.entries);
  free(n->proxies.entries);
  free(n->sessions);
  free(n->translations);
  free(n->clients);
  free(n->client_of_peer);
}

/* Proxy IPs, real ones and the client's, by a small number. */
static void put_address(uint8_t *p, bool v6, char kind, uint32_t i) {
  static const uint8_t proxy6[16] = {0xfd, 0, 0x20, 0x21, 0x11, 0x11, 0x80}, other6[16] = {0xfd, 0x12};
  if (v6) memcpy(p, kind == 'p' ? proxy6 : other6, 16);
  else memcpy(p, kind == 'p' ? (uint8_t[]){100, 96, 0, 0} : (uint8_t[]){10, 0, 0, 0}, 4);
  p[v6 ? 15 : 3] = (uint8_t)(i % 3 + (kind == 'c' ? 100 : 0));
}

/* A packet with lengths that agree, of `n` bytes behind the IP header. */
static uint32_t put_packet(uint64_t *state, uint8_t *p, bool v6, char from, char to, uint8_t protocol, uint32_t n) {
  uint32_t head = v6 ? 40 : 20, size = v6 ? 16 : 4;
  memset(p, 0, head);
  p[0] = v6 ? 0x60 : 0x45;
  fz_store_be16(p + (v6 ? 4 : 2), (uint16_t)(v6 ? n : n + 20));
  p[v6 ? 6 : 9] = protocol;
  put_address(p + (v6 ? 8 : 12), v6, from, test_random(state));
  put_address(p + (v6 ? 8 : 12) + size, v6, to, test_random(state));
  uint8_t *t = p + head;
  test_fill(state, t, n);
  if (protocol == FZ_TCP) t[12] = 0x50;
  if (protocol == FZ_UDP) fz_store_be16(t + 4, (uint16_t)n);
  if (protocol != FZ_ICMP && protocol != FZ_ICMPV6) fz_store_be16(t, (uint16_t)(65530 + test_random(state) % 8));
  fz_store_be16(t + 2, protocol == FZ_TCP || protocol == FZ_UDP ? (uint16_t)(65530 + test_random(state) % 8) : 0);
  return head + n;
}

static uint32_t put_any(uint64_t *state, uint8_t *p, bool out) {
  bool v6 = test_random(state) & 1;
  static const uint8_t protocols[] = {FZ_TCP, FZ_UDP, FZ_ICMP, 47};
  uint8_t protocol = protocols[test_random(state) % 4];
  if (v6 && protocol == FZ_ICMP) protocol = FZ_ICMPV6;
  uint32_t n = put_packet(state, p, v6, out ? 'c' : 'r', out ? 'p' : 'c', protocol, 20 + test_random(state) % 10);
  if (protocol != FZ_ICMP && protocol != FZ_ICMPV6) return n;
  uint8_t *t = p + (v6 ? 40 : 20);
  t[0] = v6 ? 128 : 8;
  fz_store_be16(t + 4, (uint16_t)(test_random(state) % 4));
  if (out || test_random(state) % 3 == 0) return n;
  t[0] = v6 ? (uint8_t)(1 + test_random(state) % 3) : 3;
  uint8_t about[SLOT];
  uint8_t inner = test_random(state) % 2 ? FZ_TCP : FZ_UDP;
  uint32_t whole = put_packet(state, about, v6, 'c', 'r', inner, 24), cut = test_random(state) % (whole + 1);
  memcpy(t + 8, about, cut);
  n = (v6 ? 40u : 20u) + 8u + cut;
  fz_store_be16(p + (v6 ? 4 : 2), (uint16_t)(v6 ? n - 40 : n));
  return n;
}

static void consistent(const fz_nat *n) {
  uint32_t live = 0, ended = 0, in_lists = 0;
  for (uint32_t i = 0; i < n->session_used; i++) {
    const fz_nat_session *s = &n->sessions[i];
    if (s->family == 0) continue;
    fz_addrmap_key outside = fz_nat_key(s->client, &(fz_nat_flow){s->real, s->outside, s->protocol, s->family});
    fz_addrmap_key inside = fz_nat_key(s->client, &(fz_nat_flow){s->proxy, s->inside, s->protocol, s->family});
    CHECK(fz_addrmap_find(&n->outside, &outside) == (int32_t)i);
    if (s->flags & FZ_NAT_ENDED_FLAG) CHECK(fz_addrmap_find(&n->inside, &inside) != (int32_t)i);
    else CHECK(fz_addrmap_find(&n->inside, &inside) == (int32_t)i);
    if (s->flags & FZ_NAT_ENDED_FLAG) ended++;
    else live++;
  }
  CHECK(live == n->inside.count && live + ended == n->outside.count && live + ended == n->session_count);
  for (uint32_t i = 0; i < CLIENTS; i++) {
    uint32_t count = 0;
    for (int32_t at = n->clients[i].live.first; at >= 0; at = n->sessions[at].next) count++;
    CHECK(count == n->clients[i].live.count);
    in_lists += count;
  }
  CHECK(in_lists == live);
}

static void change_tables(uint64_t *state, fz_nat *n) {
  bool v6 = test_random(state) & 1;
  uint8_t proxy[16] = {0}, real[16] = {0};
  uint32_t client = test_random(state) % CLIENTS, choice = test_random(state) % 40;
  put_address(proxy, v6, 'p', test_random(state));
  put_address(real, v6, 'r', test_random(state));
  if (choice < 20) fz_nat_set_translation(n, client, proxy, choice ? real : NULL, v6);
  else if (choice == 20) fz_nat_remove_translation(n, client, proxy, v6);
  else if (choice == 21) fz_nat_clear_client(n, client);
  else if (choice == 22) fz_nat_remove_client(n, client), fz_nat_add_client(n, client);
}

int main(void) {
  uint64_t state = 11;
  fz_nat n = table();
  int64_t now = 0;
  for (int round = 0; round < ROUNDS; round++) {
    fz_batch b = test_batch(ROWS, ROWS * SLOT);
    bool out = test_random(&state) & 1;
    change_tables(&state, &n);
    for (b.n = 0; b.n < ROWS;) {
      uint8_t packet[SLOT];
      uint32_t length = put_any(&state, packet, out), at = b.n * SLOT + SLOT - length; /* ends where the next begins */
      memcpy(b.slab + at, packet, length);
      fz_row_init(&b, b.n++, 0, at, length);
      b.peer[b.n - 1] = (int32_t)(test_random(&state) % (CLIENTS + 1));
    }
    CHECK(fz_ip_parse_batch(&b, false) > ROWS / 2);
    uint32_t left = out ? fz_nat_from_tunnel(&n, &b, now) : fz_nat_to_tunnel(&n, &b, now), forward = 0;
    for (uint32_t row = 0; row < ROWS; row++) {
      forward += b.verdict[row] == FZ_FORWARD;
      CHECK(b.offset[row] >= row * SLOT && b.offset[row] + b.length[row] <= (row + 1) * SLOT);
    }
    CHECK(left == forward);
    consistent(&n);
    test_batch_free(&b);
    now += test_random(&state) % 8 ? FZ_NAT_SECOND / 3 : 30 * FZ_NAT_SECOND;
  }
  CHECK(n.stats.opened > 1000 && n.stats.ended > 1000 && n.stats.translated_in > 100 && n.stats.errors_in > 100);
  table_free(&n);
  return 0;
}
