// sources: fz_memo.c
// sanitize: address,undefined
/* A memo that is far too small and one that is large enough, in exactly the memory they ask for, against a plain list: what is found
 * is what was put last, what was decided by former tables or forgotten is never found, and what fits is found. */
#include "fz_memo.h"
#include "fz_test.h"

enum { FLOWS = 200, ROUNDS = 200000 };

typedef struct flow {
  fz_memo_key key;
  int32_t value;
  bool is_known;
} flow;

static flow random_flow(uint64_t *state) {
  flow f = {.key = {.place = test_random(state) % 4, .kind = test_random(state) % 2 ? 4 : 6}};
  for (int i = 0; i < 2; i++) {
    f.key.source[i] = test_random(state) % 3 ? 0 : test_random(state);
    f.key.destination[i] = (uint64_t)test_random(state) << 32 | test_random(state);
  }
  return f;
}

static void run(uint32_t bits, uint32_t flows, bool fits) {
  uint64_t state = bits + 1, generation = 1, found = 0, asked = 0;
  fz_memo m = {.seed = {test_random(&state), test_random(&state)}};
  fz_memo_entry *entries = test_alloc((1u << bits) + FZ_MEMO_WAYS - 1, sizeof *entries);
  flow list[FLOWS];
  CHECK(fz_memo_is_crowded(&m));
  fz_memo_move(&m, entries, bits);
  for (uint32_t i = 0; i < flows; i++) list[i] = random_flow(&state);
  for (int round = 0; round < ROUNDS; round++) {
    flow *f = &list[test_random(&state) % flows];
    if (test_random(&state) % 1000 == 0) {
      generation++;
      for (uint32_t i = 0; i < flows; i++) list[i].is_known = false;
    }
    f->key.generation = generation;
    if (test_random(&state) % 50 == 0) {
      fz_memo_forget(&m, &f->key);
      f->is_known = false;
    }
    uint32_t home = fz_memo_home(&m, &f->key);
    CHECK(home < 1u << bits);
    const int32_t *value = fz_memo_find(&m, &f->key, home);
    CHECK(value == NULL || (f->is_known && *value == f->value));
    found += value != NULL;
    asked += f->is_known;
    if (value) continue;
    f->value = (int32_t)test_random(&state);
    f->is_known = true;
    fz_memo_put(&m, &f->key, home, f->value);
    value = fz_memo_find(&m, &f->key, home);
    CHECK(value && *value == f->value);
  }
  CHECK(fz_memo_is_crowded(&m) == !fits);
  if (fits) CHECK(found == asked);
  else CHECK(found > 0 && found < asked);
  free(entries);
}

int main(void) {
  run(1, FLOWS, false);
  run(5, FLOWS, false);
  run(14, FLOWS, true);
  return 0;
}
