/* Longest-prefix match: a path-compressed binary trie per family over nodes that the caller owns.
 *
 * A node stands for one prefix; its children continue it with bit 0 and bit 1. There are at most two nodes per prefix stored.
 * A look-up visits at most one node per bit of branching: about 17 for 100 000 prefixes, two or three for a handful.
 * IPv4 keys occupy the top 32 bits of `high`. Not for concurrent use: change it only while nobody looks up.
 */
#ifndef FZ_LPM_H
#define FZ_LPM_H

#include <stdbool.h>

#include "fz_common.h"

#define FZ_LPM_NONE INT32_MIN /* no prefix matches; not allowed as a value */
#define FZ_LPM_NODES_PER_INSERT 2u

typedef struct fz_lpm_node {
  uint64_t high, low; /* the prefix, bits behind it zero */
  int32_t value;      /* FZ_LPM_NONE: only a fork */
  uint32_t bits;      /* prefix length */
  uint32_t child[2];  /* 0 = none */
} fz_lpm_node;

typedef struct fz_lpm {
  fz_lpm_node *nodes; /* node 0 is never used */
  uint32_t capacity;  /* nodes there is memory for */
  uint32_t used;      /* nodes ever handed out, node 0 included; 0 in an empty table without memory */
  uint32_t spare;     /* head of the list of nodes given back, linked by child[0] */
  uint32_t count;     /* prefixes stored */
  uint32_t root[2];   /* IPv4, IPv6 */
} fz_lpm;

typedef struct fz_lpm_key {
  uint64_t high, low;
} fz_lpm_key;

static inline fz_lpm_key fz_lpm_key_v4(const uint8_t *p) { return (fz_lpm_key){(uint64_t)fz_load_be32(p) << 32, 0}; }

static inline fz_lpm_key fz_lpm_key_v6(const uint8_t *p) {
  return (fz_lpm_key){(uint64_t)fz_load_be32(p) << 32 | fz_load_be32(p + 4),
                      (uint64_t)fz_load_be32(p + 8) << 32 | fz_load_be32(p + 12)};
}

/* Mask of the first `bits` bits, 0..128. */
static inline fz_lpm_key fz_lpm_mask(uint32_t bits) {
  if (bits == 0) return (fz_lpm_key){0, 0};
  if (bits <= 64) return (fz_lpm_key){~0ull << (64 - bits), 0};
  return (fz_lpm_key){~0ull, ~0ull << (128 - bits)};
}

static inline uint32_t fz_lpm_bit(fz_lpm_key key, uint32_t bit) {
  return (uint32_t)((bit < 64 ? key.high >> (63 - bit) : key.low >> (127 - bit)) & 1u);
}

/* The value of the longest prefix that covers the address (4 or 16 bytes), or FZ_LPM_NONE. */
static inline int32_t fz_lpm_lookup(const fz_lpm *t, const uint8_t *address, bool v6) {
  fz_lpm_key key = v6 ? fz_lpm_key_v6(address) : fz_lpm_key_v4(address);
  uint32_t width = v6 ? 128 : 32, at = t->root[v6];
  int32_t best = FZ_LPM_NONE;
  while (at) {
    const fz_lpm_node *node = &t->nodes[at];
    fz_lpm_key mask = fz_lpm_mask(node->bits);
    if (((key.high ^ node->high) & mask.high) | ((key.low ^ node->low) & mask.low)) break;
    if (node->value != FZ_LPM_NONE) best = node->value;
    if (node->bits == width) break;
    at = node->child[fz_lpm_bit(key, node->bits)];
  }
  return best;
}

/* Stores a value under a prefix, replacing the one there. Room for FZ_LPM_NODES_PER_INSERT more nodes must have been made
 * (fz_lpm_room). Bits of the address behind the prefix are ignored. */
void fz_lpm_set(fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits, int32_t value);

/* Removes a prefix. False: it was not there. */
bool fz_lpm_remove(fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits);

/* The value stored under exactly this prefix, or FZ_LPM_NONE. */
int32_t fz_lpm_get(const fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits);

/* True when `capacity` suffices for one more fz_lpm_set. */
static inline bool fz_lpm_room(const fz_lpm *t) {
  return t->capacity >= (t->used ? t->used : 1u) + FZ_LPM_NODES_PER_INSERT;
}

#endif
