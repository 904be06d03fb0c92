#include "fz_lpm.h"

static fz_lpm_key masked_key(const uint8_t *address, bool v6, uint32_t bits) {
  fz_lpm_key key = v6 ? fz_lpm_key_v6(address) : fz_lpm_key_v4(address), mask = fz_lpm_mask(bits);
  return (fz_lpm_key){key.high & mask.high, key.low & mask.low};
}

/* How many leading bits two keys share, 128 when they are equal. */
static uint32_t shared_bits(fz_lpm_key a, fz_lpm_key b) {
  if (a.high != b.high) return (uint32_t)__builtin_clzll(a.high ^ b.high);
  if (a.low != b.low) return 64u + (uint32_t)__builtin_clzll(a.low ^ b.low);
  return 128;
}

static uint32_t new_node(fz_lpm *t, fz_lpm_key key, uint32_t bits, int32_t value) {
  uint32_t at = t->spare;
  if (at) {
    t->spare = t->nodes[at].child[0];
  } else {
    if (t->used == 0) t->used = 1;
    at = t->used++;
  }
  fz_lpm_key mask = fz_lpm_mask(bits);
  t->nodes[at] = (fz_lpm_node){key.high & mask.high, key.low & mask.low, value, bits, {0, 0}};
  return at;
}

static void free_node(fz_lpm *t, uint32_t at) {
  t->nodes[at].child[0] = t->spare;
  t->spare = at;
}

void fz_lpm_set(fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits, int32_t value) {
  fz_lpm_key key = masked_key(address, v6, bits);
  uint32_t *link = &t->root[v6];
  while (*link) {
    fz_lpm_node *node = &t->nodes[*link];
    uint32_t shared = shared_bits(key, (fz_lpm_key){node->high, node->low});
    if (shared > bits) shared = bits;
    if (shared < node->bits) { /* the new prefix leaves the path inside this node */
      uint32_t old = *link, old_side = fz_lpm_bit((fz_lpm_key){node->high, node->low}, shared);
      uint32_t fork = new_node(t, key, shared, shared == bits ? value : FZ_LPM_NONE);
      t->nodes[fork].child[old_side] = old;
      if (shared != bits) t->nodes[fork].child[!old_side] = new_node(t, key, bits, value);
      *link = fork;
      t->count++;
      return;
    }
    if (node->bits == bits) {
      if (node->value == FZ_LPM_NONE) t->count++;
      node->value = value;
      return;
    }
    link = &node->child[fz_lpm_bit(key, node->bits)];
  }
  *link = new_node(t, key, bits, value);
  t->count++;
}

/* Takes a node without a value out of the trie when it no longer forks. */
static void collapse(fz_lpm *t, uint32_t *link) {
  uint32_t at = *link;
  if (at == 0 || t->nodes[at].value != FZ_LPM_NONE || (t->nodes[at].child[0] && t->nodes[at].child[1])) return;
  *link = t->nodes[at].child[0] ? t->nodes[at].child[0] : t->nodes[at].child[1];
  free_node(t, at);
}

/* The links above and to the node of exactly this prefix; *out 0 when there is none. */
static uint32_t *find_link(const fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits, uint32_t **above) {
  fz_lpm_key key = masked_key(address, v6, bits);
  uint32_t *link = (uint32_t *)&t->root[v6];
  *above = NULL;
  while (*link) {
    fz_lpm_node *node = &t->nodes[*link];
    fz_lpm_key mask = fz_lpm_mask(node->bits);
    if (node->bits > bits || (key.high & mask.high) != node->high || (key.low & mask.low) != node->low) return NULL;
    if (node->bits == bits) return node->value == FZ_LPM_NONE ? NULL : link;
    *above = link;
    link = &node->child[fz_lpm_bit(key, node->bits)];
  }
  return NULL;
}

bool fz_lpm_remove(fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits) {
  uint32_t *above, *link = find_link(t, address, v6, bits, &above);
  if (link == NULL) return false;
  t->nodes[*link].value = FZ_LPM_NONE;
  t->count--;
  collapse(t, link);
  if (above) collapse(t, above);
  return true;
}

int32_t fz_lpm_get(const fz_lpm *t, const uint8_t *address, bool v6, uint32_t bits) {
  uint32_t *above, *link = find_link(t, address, v6, bits, &above);
  return link == NULL ? FZ_LPM_NONE : t->nodes[*link].value;
}
