// sources: fz_hash.c
// sanitize: address,undefined
/* Keys put in and taken out in any order, in a table kept as full as it may get, against a plain list. */
#include "fz_hash.h"
#include "fz_test.h"

enum { KEYS = 700, ROUNDS = 60000 };

static void grow(fz_hash *t) {
  uint32_t bits = t->bits + 1;
  fz_hash_entry *old = t->entries;
  fz_hash_move(t, test_alloc((size_t)1 << bits, sizeof *old), bits);
  free(old);
}

int main(void) {
  uint64_t state = 7;
  fz_hash t = {0};
  uint32_t keys[KEYS];
  int32_t slots[KEYS];
  CHECK(fz_hash_find(&t, 5) == FZ_HASH_NONE && !fz_hash_remove(&t, 5) && !fz_hash_has_room(&t));
  for (uint32_t i = 0; i < KEYS; i++) {
    /* Receiver indices: the upper 24 bits a connection, the lower a session; some neighbours, some far apart, 0 and ~0. */
    keys[i] = i == 0 ? 0 : i == 1 ? UINT32_MAX : i % 2 ? i << 8 : (test_random(&state) & 0xffffff00u) | (i & 0xff);
    for (uint32_t j = 0; j < i; j++) {
      if (keys[j] == keys[i]) keys[i] ^= 0x80000000u | i;
    }
    slots[i] = FZ_HASH_NONE;
  }
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t i = test_random(&state) % KEYS;
    CHECK(fz_hash_find(&t, keys[i]) == slots[i]);
    if (slots[i] == FZ_HASH_NONE) {
      if (!fz_hash_has_room(&t)) grow(&t);
      CHECK(fz_hash_has_room(&t));
      slots[i] = round;
      fz_hash_insert(&t, keys[i], round);
    } else {
      CHECK(fz_hash_remove(&t, keys[i]));
      CHECK(!fz_hash_remove(&t, keys[i]));
      slots[i] = FZ_HASH_NONE;
    }
    if (round % 500) continue;
    uint32_t count = 0;
    for (uint32_t k = 0; k < KEYS; k++) {
      CHECK(fz_hash_find(&t, keys[k]) == slots[k]);
      count += slots[k] != FZ_HASH_NONE;
    }
    CHECK(t.count == count);
  }
  CHECK(t.bits <= 11);
  free(t.entries);
  return 0;
}
