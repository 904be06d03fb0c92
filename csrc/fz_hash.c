#include "fz_hash.h"

void fz_hash_insert(fz_hash *t, uint32_t key, int32_t slot) {
  uint32_t mask = (uint32_t)((1ull << t->bits) - 1), at = fz_hash_home(t, key);
  while (t->entries[at].slot != FZ_HASH_NONE) at = (at + 1) & mask;
  t->entries[at] = (fz_hash_entry){key, slot};
  t->count++;
}

bool fz_hash_remove(fz_hash *t, uint32_t key) {
  if (!t->bits) return false;
  uint32_t mask = (uint32_t)((1ull << t->bits) - 1), gap = fz_hash_home(t, key);
  while (t->entries[gap].slot != FZ_HASH_NONE && t->entries[gap].key != key) gap = (gap + 1) & mask;
  if (t->entries[gap].slot == FZ_HASH_NONE) return false;
  /* An entry may fill the gap when its home is not behind the gap: it stands at least as far from home as from the gap. */
  for (uint32_t at = (gap + 1) & mask; t->entries[at].slot != FZ_HASH_NONE; at = (at + 1) & mask) {
    uint32_t from_home = (at - fz_hash_home(t, t->entries[at].key)) & mask;
    if (from_home < ((at - gap) & mask)) continue;
    t->entries[gap] = t->entries[at];
    gap = at;
  }
  t->entries[gap].slot = FZ_HASH_NONE;
  t->count--;
  return true;
}

void fz_hash_move(fz_hash *t, fz_hash_entry *entries, uint32_t bits) {
  fz_hash old = *t;
  *t = (fz_hash){entries, bits, 0};
  for (size_t i = 0; i < (size_t)1 << bits; i++) entries[i].slot = FZ_HASH_NONE;
  for (size_t i = 0; old.bits && i < (size_t)1 << old.bits; i++) {
    if (old.entries[i].slot != FZ_HASH_NONE) fz_hash_insert(t, old.entries[i].key, old.entries[i].slot);
  }
}
