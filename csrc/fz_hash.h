/* A table from 32-bit keys to slots: open addressing with linear probing, at most half full, over memory of the caller.
 *
 * Keys are numbers that we gave out ourselves (receiver indices), so a multiplication spreads them well enough and nobody
 * outside can choose colliding ones. Removing shifts later entries back: there are no tombstones, and a look-up never gets
 * longer with age. Not for concurrent use: change it only while nobody looks up.
 */
#ifndef FZ_HASH_H
#define FZ_HASH_H

#include <stdbool.h>

#include "fz_common.h"

#define FZ_HASH_NONE (-1)

typedef struct fz_hash_entry {
  uint32_t key;
  int32_t slot; /* FZ_HASH_NONE: free */
} fz_hash_entry;

/* All zero: an empty table without memory. */
typedef struct fz_hash {
  fz_hash_entry *entries;
  uint32_t bits; /* log2 of the size, 0 without memory */
  uint32_t count;
} fz_hash;

/* True when one more key may be inserted. */
static inline bool fz_hash_has_room(const fz_hash *t) { return t->bits && 2 * ((uint64_t)t->count + 1) <= 1ull << t->bits; }

static inline uint32_t fz_hash_home(const fz_hash *t, uint32_t key) { return (key * 0x9e3779b1u) >> (32 - t->bits); }

/* The slot under a key, or FZ_HASH_NONE. */
static inline int32_t fz_hash_find(const fz_hash *t, uint32_t key) {
  if (!t->bits) return FZ_HASH_NONE;
  uint32_t mask = (uint32_t)((1ull << t->bits) - 1), at = fz_hash_home(t, key);
  while (t->entries[at].slot != FZ_HASH_NONE && t->entries[at].key != key) at = (at + 1) & mask;
  return t->entries[at].slot;
}

/* Stores a key that is not there. fz_hash_has_room must hold; slot >= 0. */
void fz_hash_insert(fz_hash *t, uint32_t key, int32_t slot);

/* Removes a key. False: it was not there. */
bool fz_hash_remove(fz_hash *t, uint32_t key);

/* Moves everything into `entries`, 2^bits of them (1..31), room for at least what is stored. The old memory is the caller's. */
void fz_hash_move(fz_hash *t, fz_hash_entry *entries, uint32_t bits);

#endif
