#include "fz_route.h"

#include "fz_ip.h"

static fz_memo_key key_of(const fz_routes *r, const uint8_t *destination, bool v6) {
  fz_memo_key key = {.generation = r->generation, .kind = v6 ? 6 : 4};
  fz_memo_address(key.destination, destination, v6);
  return key;
}

void fz_route_changed(fz_routes *r, const uint8_t *address, bool v6, uint32_t bits) {
  fz_memo_key key = key_of(r, address, v6);
  if (bits == (v6 ? 128u : 32u) && r->generation) fz_memo_forget(&r->found, &key);
  else r->generation++;
}

static int32_t look_up(fz_routes *r, const fz_memo_key *key, uint32_t home) {
  const int32_t *known = fz_memo_find(&r->found, key, home);
  if (known) return *known;
  int32_t peer = fz_lpm_lookup(&r->prefixes, (const uint8_t *)key->destination, key->kind == 6);
  fz_memo_put(&r->found, key, home, peer);
  return peer;
}

static bool act(fz_batch *b, uint32_t row, int32_t peer) {
  if (peer == FZ_LPM_NONE) fz_row_drop(b, row, FZ_NO_ROUTE);
  else if (peer < 0) fz_row_punt(b, row, FZ_NO_PEER);
  else b->peer[row] = peer;
  return peer >= 0;
}

enum { AS_BEFORE, TO_LOOK_UP, NO_ROUTE, NOT_OURS };

uint32_t fz_route_batch(fz_routes *r, fz_batch *b) {
  uint32_t left = 0;
  uint8_t version = 0; /* of the row before, whose answer holds for equal destinations */
  int32_t peer = FZ_LPM_NONE;
  const uint8_t *previous = NULL;
  for (uint32_t start = 0; start < b->n; start += FZ_MEMO_CHUNK) {
    uint32_t count = b->n - start < FZ_MEMO_CHUNK ? b->n - start : FZ_MEMO_CHUNK, home[FZ_MEMO_CHUNK];
    fz_memo_key key[FZ_MEMO_CHUNK];
    uint8_t step[FZ_MEMO_CHUNK];
    for (uint32_t i = 0; i < count; i++) {
      uint32_t row = start + i;
      step[i] = b->verdict[row] != FZ_FORWARD ? NOT_OURS : NO_ROUTE;
      if (step[i] == NOT_OURS || b->ip_version[row] == 0 || r->generation == 0) continue; /* never parsed: no destination to look at */
      const uint8_t *destination = fz_row_destination(b, row);
      bool is_same = b->ip_version[row] == version && memcmp(previous, destination, version == 4 ? 4 : 16) == 0;
      version = b->ip_version[row];
      previous = destination;
      step[i] = is_same ? AS_BEFORE : TO_LOOK_UP;
      if (is_same) continue;
      key[i] = key_of(r, destination, version == 6);
      home[i] = fz_memo_home(&r->found, &key[i]);
      fz_memo_prefetch(&r->found, home[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
      if (step[i] == NOT_OURS) continue;
      if (step[i] == TO_LOOK_UP) peer = look_up(r, &key[i], home[i]);
      left += act(b, start + i, step[i] == NO_ROUTE ? FZ_LPM_NONE : peer);
    }
  }
  return left;
}
