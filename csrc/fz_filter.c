#include "fz_filter.h"

#include "fz_ip.h"

static bool in_ranges(const fz_port_range *ranges, uint32_t count, uint16_t port) {
  uint32_t low = 0, high = count;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (port > ranges[middle].last) low = middle + 1;
    else high = middle;
  }
  return low < count && port >= ranges[low].first;
}

/* Whether the rule for our side's address lets a packet of this row with our side's port through. */
static bool permitted(const fz_filter *f, const fz_batch *b, uint32_t row, const uint8_t *ours, uint16_t port) {
  int32_t found = fz_lpm_lookup(&f->rules, ours, b->ip_version[row] == 6);
  if (found == FZ_LPM_NONE) return false;
  const fz_rule *rule = &f->rule[found];
  if (rule->permit_all) return true;
  if (b->flags[row] & FZ_ROW_ICMP) return rule->icmp;
  if (b->protocol[row] == FZ_TCP) return in_ranges(f->ranges + rule->tcp, rule->tcp_count, port);
  if (b->protocol[row] == FZ_UDP) return in_ranges(f->ranges + rule->udp, rule->udp_count, port);
  return false;
}

static uint8_t refuse_from_tunnel(const fz_filter *f, const fz_batch *b, uint32_t row) {
  bool v6 = b->ip_version[row] == 6;
  const uint8_t *destination = fz_row_destination(b, row);
  /* A client has no business to send errors into a site; answering them would be an error about an error. */
  if (f->has_rules && (b->flags[row] & FZ_ROW_ICMP_ERROR)) return FZ_NOT_PERMITTED;
  if (fz_lpm_lookup(&f->remote, fz_row_source(b, row), v6) == FZ_LPM_NONE) return FZ_REFUSED_SOURCE;
  if (f->has_local && fz_lpm_lookup(&f->local, destination, v6) == FZ_LPM_NONE) return FZ_REFUSED_DESTINATION;
  if (f->has_rules && !permitted(f, b, row, destination, b->destination_port[row])) return FZ_REFUSED_DESTINATION;
  return 0;
}

static uint8_t refuse_to_tunnel(const fz_filter *f, const fz_batch *b, uint32_t row) {
  bool v6 = b->ip_version[row] == 6;
  const uint8_t *source = fz_row_source(b, row);
  if (fz_lpm_lookup(&f->remote, fz_row_destination(b, row), v6) == FZ_LPM_NONE) return FZ_FOREIGN_DESTINATION;
  if (f->has_local && fz_lpm_lookup(&f->local, source, v6) == FZ_LPM_NONE) return FZ_FOREIGN_SOURCE;
  if (b->flags[row] & FZ_ROW_ICMP_ERROR) return 0;
  if (f->has_rules && !permitted(f, b, row, source, b->source_port[row])) return FZ_NOT_PERMITTED;
  return 0;
}

typedef uint8_t (*refuse_fn)(const fz_filter *f, const fz_batch *b, uint32_t row);

/* All that the decision depends on; of the ports that is the one of our side. */
static fz_memo_key key_of(const fz_filters *f, const fz_batch *b, uint32_t row, bool from_tunnel) {
  bool v6 = b->ip_version[row] == 6, is_icmp = b->flags[row] & FZ_ROW_ICMP;
  uint16_t port = from_tunnel ? b->destination_port[row] : b->source_port[row];
  fz_memo_key key = {.generation = f->generation[b->peer[row]],
                     .place = (uint64_t)(uint32_t)b->peer[row] << 32 | (is_icmp ? 0 : port),
                     .kind = (uint64_t)b->flags[row] << 16 | (uint64_t)b->protocol[row] << 8 | b->ip_version[row]};
  fz_memo_address(key.source, fz_row_source(b, row), v6);
  fz_memo_address(key.destination, fz_row_destination(b, row), v6);
  return key;
}

/* Neighbours in a batch are mostly of one flow. */
static bool same_flow(const fz_batch *b, uint32_t a, uint32_t c) {
  return b->peer[a] == b->peer[c] && b->ip_version[a] == b->ip_version[c] && b->protocol[a] == b->protocol[c] &&
         b->flags[a] == b->flags[c] && b->source_port[a] == b->source_port[c] &&
         b->destination_port[a] == b->destination_port[c] &&
         memcmp(fz_row_source(b, a), fz_row_source(b, c), b->ip_version[a] == 4 ? 8 : 32) == 0;
}

static uint8_t decide(const fz_filters *f, fz_memo *memo, const fz_batch *b, uint32_t row, const fz_memo_key *key, uint32_t home,
                      refuse_fn refuse) {
  const int32_t *known = fz_memo_find(memo, key, home);
  if (known) return (uint8_t)*known;
  uint8_t reason = refuse(f->of[b->peer[row]], b, row);
  fz_memo_put(memo, key, home, reason);
  return reason;
}

static inline bool act(fz_batch *b, uint32_t row, uint8_t reason) {
  if (reason >= FZ_STUN) fz_row_punt(b, row, reason);
  else if (reason) fz_row_drop(b, row, reason);
  return reason == 0;
}

enum { DECIDED, AS_BEFORE, TO_DECIDE, NOT_OURS };

static inline uint32_t admit(fz_filters *f, fz_memo *memo, fz_batch *b, bool from_tunnel, refuse_fn refuse) {
  uint32_t left = 0, last = UINT32_MAX;
  uint8_t reason = 0;
  for (uint32_t start = 0; start < b->n; start += FZ_MEMO_CHUNK) {
    uint32_t count = b->n - start < FZ_MEMO_CHUNK ? b->n - start : FZ_MEMO_CHUNK, home[FZ_MEMO_CHUNK];
    fz_memo_key key[FZ_MEMO_CHUNK];
    uint8_t step[FZ_MEMO_CHUNK];
    for (uint32_t i = 0; i < count; i++) {
      uint32_t row = start + i, peer = (uint32_t)b->peer[row];
      step[i] = NOT_OURS;
      if (b->verdict[row] != FZ_FORWARD) continue;
      step[i] = DECIDED;
      /* A row that was never parsed has no addresses to look at. */
      if (b->ip_version[row] == 0 || peer >= f->peers || f->generation[peer] == 0) continue;
      step[i] = last != UINT32_MAX && same_flow(b, last, row) ? AS_BEFORE : TO_DECIDE;
      last = row;
      if (step[i] == AS_BEFORE) continue;
      key[i] = key_of(f, b, row, from_tunnel);
      home[i] = fz_memo_home(memo, &key[i]);
      fz_memo_prefetch(memo, home[i]);
    }
    for (uint32_t i = 0; i < count; i++) {
      if (step[i] == NOT_OURS) continue;
      if (step[i] == TO_DECIDE) reason = decide(f, memo, b, start + i, &key[i], home[i], refuse);
      left += act(b, start + i, step[i] == DECIDED ? FZ_NOT_PERMITTED : reason);
    }
  }
  return left;
}

uint32_t fz_admit_from_tunnel(fz_filters *f, fz_batch *b) { return admit(f, &f->from_tunnel, b, true, refuse_from_tunnel); }

uint32_t fz_admit_to_tunnel(fz_filters *f, fz_batch *b) { return admit(f, &f->to_tunnel, b, false, refuse_to_tunnel); }
