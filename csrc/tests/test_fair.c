// sources: fz_fair.c fz_addrmap.c
// sanitize: address,undefined
/* Shares: what is kept is for those within theirs, an allowance is never overdrawn, a network is a network whatever the host. */
#include "fz_test.h"

#include "fz_fair.h"

enum { PLAYERS = 300, ROUNDS = 200000, BURST = 8 };

#define STEP 1000000u

static fz_fair f = {.seed = {7, 11}, .step_ns = STEP, .burst_ns = BURST * STEP};

static fz_addrmap_key player(uint32_t i) {
  fz_addr a = {.ip = {10, (uint8_t)(i >> 8), (uint8_t)i, 1}, .port = 9, .family = 4};
  return fz_fair_network_of(&a);
}

static uint32_t take(uint32_t i, uint32_t times) {
  fz_addrmap_key key = player(i);
  uint32_t got = 0;
  while (times--) got += fz_fair_take(&f, &key);
  return got;
}

static void test_networks(void) {
  fz_addr a = {.ip = {192, 0, 2, 7}, .port = 5, .family = 4}, b = {.ip = {192, 0, 2, 200}, .port = 6, .family = 4};
  fz_addr c = {.ip = {0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5}, .port = 5, .family = 6}, d = c;
  fz_addrmap_key x = fz_fair_network_of(&a), y = fz_fair_network_of(&b);
  CHECK(memcmp(&x, &y, sizeof x) == 0);
  b.ip[2]++;
  y = fz_fair_network_of(&b);
  CHECK(memcmp(&x, &y, sizeof x) != 0);
  d.ip[7] = 200;
  d.ip[15] = 1;
  x = fz_fair_network_of(&c), y = fz_fair_network_of(&d);
  CHECK(memcmp(&x, &y, sizeof x) == 0);
  d.ip[6]++;
  y = fz_fair_network_of(&d);
  CHECK(memcmp(&x, &y, sizeof x) != 0);
}

int main(void) {
  uint64_t state = 5;
  test_networks();
  f.left = 100, f.reserve = 50;
  CHECK(take(0, 1000) == 50);
  CHECK(take(1, 1000) == BURST && take(2, 1000) == BURST && take(0, 10) == 0);
  f.now_ns = 3 * STEP; /* all three have been paid for */
  CHECK(take(1, 10) == 3 && take(0, 10) == 3);
  CHECK(f.left == 50 - 2 * BURST - 6);
  CHECK(take(3, 1000) == BURST && take(4, 1000) == BURST && take(5, 1000) == BURST && take(6, 1000) == 50 - 5 * BURST - 6);
  CHECK(f.left == 0 && take(7, 1) == 0);
  memset(f.due_ns, 0, sizeof f.due_ns);
  static uint32_t got[PLAYERS];
  uint64_t begin = f.now_ns = 1ull << 40; /* always in the reserve: nobody gets more than the share */
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t i = test_random(&state) % PLAYERS;
    f.left = f.reserve = 50;
    f.now_ns += test_random(&state) % 2000;
    got[i] += take(i, 1);
    CHECK(got[i] <= BURST + (f.now_ns - begin) / STEP + 1);
  }
  for (uint32_t i = 0; i < PLAYERS; i++) CHECK(got[i] > (f.now_ns - begin) / STEP / 2); /* asked three times as often */
  f.step_ns = f.burst_ns = 0; /* no shares: the reserve is nobody's */
  f.left = 51, f.reserve = 50;
  CHECK(take(1, 5) == 1);
  f.reserve = 0;
  CHECK(take(1, 100) == 50);
  return 0;
}
