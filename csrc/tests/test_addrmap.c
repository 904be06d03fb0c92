// sources: fz_addrmap.c
// sanitize: address,undefined
/* Keys put in and taken out in any order, in a map kept as full as it may get, against a plain list. */
#include "fz_addrmap.h"
#include "fz_test.h"

enum { KEYS = 700, ROUNDS = 60000 };

static void grow(fz_addrmap *m) {
  uint32_t bits = m->bits + 1;
  fz_addrmap_entry *old = m->entries;
  fz_addrmap_move(m, test_alloc((size_t)1 << bits, sizeof *old), bits);
  free(old);
}

/* Neighbours in every field, and pairs that differ in one only. */
static fz_addrmap_key key_of(uint32_t i) {
  fz_addr address = {.family = i % 2 ? 6 : 4, .port = (uint16_t)(1000 + i / 4 % 3)};
  address.ip[3] = (uint8_t)(i / 12);
  if (i % 2) address.ip[15] = (uint8_t)(i / 24);
  return fz_addrmap_key_of(&address, (uint16_t)(0x4000 + i));
}

int main(void) {
  uint64_t state = 7;
  fz_addrmap m = {.seed = {1, 2}};
  int32_t slots[KEYS];
  fz_addrmap_key first = key_of(0);
  CHECK(fz_addrmap_find(&m, &first) == FZ_ADDRMAP_NONE && !fz_addrmap_remove(&m, &first) && !fz_addrmap_has_room(&m));
  for (uint32_t i = 0; i < KEYS; i++) slots[i] = FZ_ADDRMAP_NONE;
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t i = test_random(&state) % KEYS;
    fz_addrmap_key key = key_of(i);
    CHECK(fz_addrmap_find(&m, &key) == slots[i]);
    if (slots[i] == FZ_ADDRMAP_NONE) {
      if (!fz_addrmap_has_room(&m)) grow(&m);
      CHECK(fz_addrmap_has_room(&m));
      slots[i] = round;
      fz_addrmap_insert(&m, &key, round);
    } else {
      CHECK(fz_addrmap_remove(&m, &key));
      CHECK(!fz_addrmap_remove(&m, &key));
      slots[i] = FZ_ADDRMAP_NONE;
    }
  }
  uint32_t left = 0;
  for (uint32_t i = 0; i < KEYS; i++) {
    fz_addrmap_key key = key_of(i);
    CHECK(fz_addrmap_find(&m, &key) == slots[i]);
    left += slots[i] != FZ_ADDRMAP_NONE;
  }
  CHECK(left == m.count);
  free(m.entries);
  return 0;
}
