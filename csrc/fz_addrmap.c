#include "fz_addrmap.h"

#define ROTATE(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

static inline void sip_round(uint64_t v[4]) {
  v[0] += v[1];
  v[2] += v[3];
  v[1] = ROTATE(v[1], 13) ^ v[0];
  v[3] = ROTATE(v[3], 16) ^ v[2];
  v[0] = ROTATE(v[0], 32);
  v[2] += v[1];
  v[0] += v[3];
  v[1] = ROTATE(v[1], 17) ^ v[2];
  v[3] = ROTATE(v[3], 21) ^ v[0];
  v[2] = ROTATE(v[2], 32);
}

/* One compression round per word, three at the end: enough against strangers who see neither hash nor order of the entries. */
uint64_t fz_addrmap_hash64(const uint64_t seed[2], const fz_addrmap_key *key) {
  uint64_t words[3];
  _Static_assert(sizeof(fz_addrmap_key) == sizeof words, "the key is three words without padding");
  memcpy(words, key, sizeof words);
  uint64_t v[4] = {seed[0] ^ 0x736f6d6570736575u, seed[1] ^ 0x646f72616e646f6du, seed[0] ^ 0x6c7967656e657261u,
                   seed[1] ^ 0x7465646279746573u};
  for (int i = 0; i < 3; i++) {
    v[3] ^= words[i];
    sip_round(v);
    v[0] ^= words[i];
  }
  uint64_t last = (uint64_t)sizeof words << 56;
  v[3] ^= last;
  sip_round(v);
  v[0] ^= last;
  v[2] ^= 0xff;
  for (int i = 0; i < 3; i++) sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint32_t home(const fz_addrmap *m, uint32_t hash) { return hash >> (32 - m->bits); }

/* Where the key is, or the free place where its probing ended. */
static uint32_t place_of(const fz_addrmap *m, const fz_addrmap_key *key, uint32_t hash) {
  uint32_t mask = (uint32_t)((1ull << m->bits) - 1), at = home(m, hash);
  while (m->entries[at].slot != FZ_ADDRMAP_NONE &&
         (m->entries[at].hash != hash || memcmp(&m->entries[at].key, key, sizeof *key) != 0))
    at = (at + 1) & mask;
  return at;
}

int32_t fz_addrmap_find_hashed(const fz_addrmap *m, const fz_addrmap_key *key, uint32_t hash) {
  return m->bits ? m->entries[place_of(m, key, hash)].slot : FZ_ADDRMAP_NONE;
}

int32_t fz_addrmap_find(const fz_addrmap *m, const fz_addrmap_key *key) {
  return m->bits ? fz_addrmap_find_hashed(m, key, fz_addrmap_hash(m, key)) : FZ_ADDRMAP_NONE;
}

void fz_addrmap_insert(fz_addrmap *m, const fz_addrmap_key *key, int32_t slot) {
  uint32_t hash = fz_addrmap_hash(m, key);
  m->entries[place_of(m, key, hash)] = (fz_addrmap_entry){*key, hash, slot};
  m->count++;
}

bool fz_addrmap_remove(fz_addrmap *m, const fz_addrmap_key *key) {
  if (!m->bits) return false;
  uint32_t mask = (uint32_t)((1ull << m->bits) - 1), hole = place_of(m, key, fz_addrmap_hash(m, key));
  if (m->entries[hole].slot == FZ_ADDRMAP_NONE) return false;
  for (uint32_t at = (hole + 1) & mask; m->entries[at].slot != FZ_ADDRMAP_NONE; at = (at + 1) & mask) {
    /* An entry may fill the hole unless its home lies behind the hole: it would not be found before its home. */
    if (((at - home(m, m->entries[at].hash)) & mask) < ((at - hole) & mask)) continue;
    m->entries[hole] = m->entries[at];
    hole = at;
  }
  m->entries[hole].slot = FZ_ADDRMAP_NONE;
  m->count--;
  return true;
}

void fz_addrmap_move(fz_addrmap *m, fz_addrmap_entry *entries, uint32_t bits) {
  fz_addrmap_entry *old = m->entries;
  uint64_t size = m->bits ? 1ull << m->bits : 0;
  for (uint64_t i = 0; i < 1ull << bits; i++) entries[i].slot = FZ_ADDRMAP_NONE;
  m->entries = entries;
  m->bits = bits;
  for (uint64_t i = 0; i < size; i++)
    if (old[i].slot != FZ_ADDRMAP_NONE) entries[place_of(m, &old[i].key, old[i].hash)] = old[i];
}
