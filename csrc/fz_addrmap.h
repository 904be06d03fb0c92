/* A map from (address, number) to a slot: open addressing with linear probing, at most half full, over memory of the caller.
 *
 * The addresses are those of strangers, who may choose them so that they collide: keys are hashed by SipHash-1-3 under a secret
 * seed (Aumasson and Bernstein, "SipHash: a fast short-input PRF"). Removing shifts later entries back: there are no tombstones,
 * and a look-up never gets longer with age. Not for concurrent use: change it only while nobody looks up.
 */
#ifndef FZ_ADDRMAP_H
#define FZ_ADDRMAP_H

#include <stdbool.h>

#include "fz_batch.h"

#define FZ_ADDRMAP_NONE (-1)

typedef struct fz_addrmap_key {
  fz_addr address;
  uint16_t number;
  uint16_t zero;
} fz_addrmap_key;

typedef struct fz_addrmap_entry {
  fz_addrmap_key key;
  uint32_t hash;
  int32_t slot; /* FZ_ADDRMAP_NONE: free */
} fz_addrmap_entry;

/* All zero but for the seed: an empty map without memory. */
typedef struct fz_addrmap {
  fz_addrmap_entry *entries;
  uint64_t seed[2];
  uint32_t bits; /* log2 of the size, 0 without memory */
  uint32_t count;
} fz_addrmap;

static inline fz_addrmap_key fz_addrmap_key_of(const fz_addr *address, uint16_t number) {
  fz_addrmap_key key;
  key.address = *address;
  key.address.zero = 0;
  key.number = number;
  key.zero = 0;
  return key;
}

/* SipHash-1-3 of a key under a seed. */
uint64_t fz_addrmap_hash64(const uint64_t seed[2], const fz_addrmap_key *key);

/* True when one more key may be inserted. */
static inline bool fz_addrmap_has_room(const fz_addrmap *m) { return m->bits && 2 * ((uint64_t)m->count + 1) <= 1ull << m->bits; }

/* The slot under a key, or FZ_ADDRMAP_NONE. */
int32_t fz_addrmap_find(const fz_addrmap *m, const fz_addrmap_key *key);

/* The same in two steps, for those who look up many: hash all, prefetch all, then find. The hash of a key never changes. */
static inline uint32_t fz_addrmap_hash(const fz_addrmap *m, const fz_addrmap_key *key) { return (uint32_t)fz_addrmap_hash64(m->seed, key); }
int32_t fz_addrmap_find_hashed(const fz_addrmap *m, const fz_addrmap_key *key, uint32_t hash);

static inline void fz_addrmap_prefetch(const fz_addrmap *m, uint32_t hash) {
  if (m->bits) __builtin_prefetch(&m->entries[hash >> (32 - m->bits)]);
}

/* Stores a key that is not there. fz_addrmap_has_room must hold; slot >= 0. */
void fz_addrmap_insert(fz_addrmap *m, const fz_addrmap_key *key, int32_t slot);

/* Removes a key. False: it was not there. */
bool fz_addrmap_remove(fz_addrmap *m, const fz_addrmap_key *key);

/* Moves everything into `entries`, 2^bits of them (1..31), room for at least what is stored. The old memory is the caller's. */
void fz_addrmap_move(fz_addrmap *m, fz_addrmap_entry *entries, uint32_t bits);

#endif
