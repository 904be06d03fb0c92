#include "fz_fair.h"

bool fz_fair_take(fz_fair *f, const fz_addrmap_key *key) {
  if (f->left == 0) return false;
  uint64_t hash = fz_addrmap_hash64(f->seed, key), paid = UINT64_MAX;
  uint64_t *places[FZ_FAIR_ROWS] = {&f->due_ns[0][hash % FZ_FAIR_PLACES], &f->due_ns[1][(hash >> 32) % FZ_FAIR_PLACES]};
  for (int i = 0; i < FZ_FAIR_ROWS; i++)
    if (*places[i] < paid) paid = *places[i];
  if (paid < f->now_ns) paid = f->now_ns;
  paid += f->step_ns;
  bool has_share = f->step_ns && paid <= f->now_ns + f->burst_ns;
  if (!has_share && f->left <= f->reserve) return false;
  for (int i = 0; has_share && i < FZ_FAIR_ROWS; i++)
    if (*places[i] < paid) *places[i] = paid;
  f->left--;
  return true;
}

fz_addrmap_key fz_fair_network_of(const fz_addr *address) {
  fz_addrmap_key key = fz_addrmap_key_of(address, 0);
  size_t kept = address->family == 4 ? 3 : 7;
  memset(key.address.ip + kept, 0, sizeof key.address.ip - kept);
  key.address.port = 0;
  return key;
}
