// sources: fz_lpm.c
// sanitize: address,undefined
/* Random prefixes set and removed in a trie with exactly the memory it asks for, against a plain list. */
#include "fz_lpm.h"
#include "fz_test.h"

enum { PREFIXES = 64, ROUNDS = 30000 };

typedef struct entry {
  uint8_t address[16];
  uint32_t bits;
  int32_t value; /* FZ_LPM_NONE: not there */
  bool v6;
} entry;

static bool covers(const entry *e, const uint8_t *address, bool v6) {
  if (e->value == FZ_LPM_NONE || e->v6 != v6) return false;
  for (uint32_t bit = 0; bit < e->bits; bit++) {
    if ((e->address[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1) return false;
  }
  return true;
}

static bool same_prefix(const entry *a, const entry *b) {
  entry probe = *a;
  probe.value = 0;
  return a->v6 == b->v6 && a->bits == b->bits && covers(&probe, b->address, b->v6);
}

int main(void) {
  uint64_t state = 3;
  entry list[PREFIXES];
  for (int i = 0; i < PREFIXES; i++) list[i].value = FZ_LPM_NONE;
  fz_lpm t = {0};
  for (int round = 0; round < ROUNDS; round++) {
    entry e = {.v6 = test_random(&state) % 2 != 0, .value = (int32_t)(test_random(&state) % 100)};
    e.bits = test_random(&state) % (e.v6 ? 129 : 33);
    for (int i = 0; i < 16; i++) e.address[i] = test_random(&state) % 4 ? 0 : (uint8_t)test_random(&state);
    uint32_t place = test_random(&state) % PREFIXES;
    if (list[place].value != FZ_LPM_NONE) {
      CHECK(fz_lpm_remove(&t, list[place].address, list[place].v6, list[place].bits));
      CHECK(!fz_lpm_remove(&t, list[place].address, list[place].v6, list[place].bits));
      list[place].value = FZ_LPM_NONE;
    }
    for (uint32_t i = 0; i < PREFIXES; i++) {
      if (list[i].value != FZ_LPM_NONE && same_prefix(&list[i], &e)) place = i;
    }
    if (!fz_lpm_room(&t)) {
      t.capacity = t.used + FZ_LPM_NODES_PER_INSERT + (t.used == 0);
      t.nodes = realloc(t.nodes, t.capacity * sizeof *t.nodes);
      CHECK(t.nodes != NULL);
    }
    fz_lpm_set(&t, e.address, e.v6, e.bits, e.value);
    list[place] = e;
    uint8_t probe[16];
    for (int i = 0; i < 16; i++) probe[i] = test_random(&state) % 4 ? e.address[i] : (uint8_t)test_random(&state);
    int32_t best = FZ_LPM_NONE, best_bits = -1;
    for (uint32_t i = 0; i < PREFIXES; i++) {
      if (covers(&list[i], probe, e.v6) && (int32_t)list[i].bits > best_bits) {
        best = list[i].value;
        best_bits = (int32_t)list[i].bits;
      }
    }
    CHECK(fz_lpm_lookup(&t, probe, e.v6) == best);
    CHECK(fz_lpm_get(&t, e.address, e.v6, e.bits) == e.value);
    CHECK(t.used <= 2 * PREFIXES + 8); /* nodes given back are used again */
  }
  free(t.nodes);
  return 0;
}
