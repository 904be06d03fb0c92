// sources: fz_aead.c fz_aead_portable.c fz_aead_avx2.c fz_aead_avx512.c fz_cpu.c
// sanitize: address,undefined
/* Every implementation on the machine against the reference: each packet in an allocation of its own size, in place or not, some
 * damaged by one bit before they are opened. */
#include "fz_aead.h"
#include "fz_cpu.h"
#include <stdbool.h>

#include "fz_test.h"

enum { MOST = 40, ROUNDS = 1500, LONGEST = 1500 };

/* A packet and what it must become. */
typedef struct packet {
  uint8_t key[FZ_KEY_SIZE], *plain, *in, *out, *expected, tag[FZ_TAG_SIZE], expected_tag[FZ_TAG_SIZE];
} packet;

static uint32_t length_of(uint64_t *state) {
  switch (test_random(state) % 4) {
    case 0: return test_random(state) % 70;
    case 1: return test_random(state) % LONGEST;
    case 2: return 16 * (test_random(state) % 20);
    default: return 1424;
  }
}

static void round_trip(uint64_t *state, uint32_t features) {
  packet packets[MOST];
  fz_aead_job jobs[MOST], reference[MOST];
  uint32_t n = test_random(state) % (MOST + 1);
  bool in_place = test_random(state) % 2, one_key = test_random(state) % 2;
  for (uint32_t i = 0; i < n; i++) {
    packet *p = &packets[i];
    uint32_t length = length_of(state);
    test_fill(state, p->key, sizeof p->key);
    p->plain = test_alloc(length, 1);
    p->in = test_alloc(length, 1);
    p->out = in_place ? p->in : test_alloc(length, 1);
    p->expected = test_alloc(length, 1);
    test_fill(state, p->plain, length);
    memcpy(p->in, p->plain, length);
    uint64_t counter = (uint64_t)test_random(state) << 32 | test_random(state);
    const uint8_t *key = packets[one_key ? 0 : i].key;
    jobs[i] = (fz_aead_job){key, counter, p->in, p->out, p->tag, length, 7};
    reference[i] = (fz_aead_job){key, counter, p->plain, p->expected, p->expected_tag, length, 7};
  }
  fz_aead_seal_portable(reference, n);
  fz_cpu_force(features);
  fz_aead_seal(jobs, n);
  for (uint32_t i = 0; i < n; i++) {
    CHECK(memcmp(packets[i].out, packets[i].expected, jobs[i].length) == 0);
    CHECK(memcmp(packets[i].tag, packets[i].expected_tag, FZ_TAG_SIZE) == 0);
  }
  /* Back again, with some packets damaged at one bit. */
  size_t authentic = 0;
  uint32_t damage[MOST];
  for (uint32_t i = 0; i < n; i++) {
    damage[i] = test_random(state) % 3;
    uint32_t bit = test_random(state);
    if (damage[i] == 1 && jobs[i].length) packets[i].out[bit / 8 % jobs[i].length] ^= (uint8_t)(1u << bit % 8);
    else if (damage[i]) packets[i].tag[bit / 8 % FZ_TAG_SIZE] ^= (uint8_t)(1u << bit % 8);
    if (damage[i]) memcpy(packets[i].expected, packets[i].out, jobs[i].length);
    authentic += !damage[i];
    jobs[i].in = jobs[i].out;
  }
  CHECK(fz_aead_open(jobs, n) == authentic);
  for (uint32_t i = 0; i < n; i++) {
    CHECK(jobs[i].ok == !damage[i]);
    CHECK(memcmp(packets[i].out, damage[i] ? packets[i].expected : packets[i].plain, jobs[i].length) == 0);
    free(packets[i].plain);
    free(packets[i].in);
    if (!in_place) free(packets[i].out);
    free(packets[i].expected);
  }
}

int main(void) {
  uint64_t state = 11;
  uint32_t all = fz_cpu_force(~0u);
  for (int round = 0; round < ROUNDS; round++) {
    round_trip(&state, test_random(&state) & all);
    round_trip(&state, all);
  }
  fz_aead_seal(NULL, 0);
  CHECK(fz_aead_open(NULL, 0) == 0);
  return 0;
}
