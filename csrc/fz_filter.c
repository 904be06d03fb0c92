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

/* Everything the decision depends on is equal: neighbours in a batch are mostly of one flow. */
static bool same_decision(const fz_batch *b, uint32_t a, uint32_t c) {
  return b->peer[a] == b->peer[c] && b->ip_version[a] == b->ip_version[c] && b->protocol[a] == b->protocol[c] &&
         b->flags[a] == b->flags[c] && b->source_port[a] == b->source_port[c] &&
         b->destination_port[a] == b->destination_port[c] &&
         memcmp(fz_row_source(b, a), fz_row_source(b, c), b->ip_version[a] == 4 ? 8 : 32) == 0;
}

typedef uint8_t (*refuse_fn)(const fz_filter *f, const fz_batch *b, uint32_t row);

static inline uint32_t admit(fz_filter *const *filters, uint32_t peers, fz_batch *b, refuse_fn refuse) {
  uint32_t left = 0, last = UINT32_MAX;
  uint8_t reason = 0;
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] != FZ_FORWARD) continue;
    if (b->ip_version[row] == 0) { /* never parsed: there are no addresses to look at */
      fz_row_drop(b, row, FZ_NOT_PERMITTED);
      continue;
    }
    if (last == UINT32_MAX || !same_decision(b, last, row)) {
      uint32_t peer = (uint32_t)b->peer[row];
      reason = peer < peers && filters[peer] ? refuse(filters[peer], b, row) : FZ_NOT_PERMITTED;
      last = row;
    }
    if (reason == 0) left++;
    else if (reason >= FZ_STUN) fz_row_punt(b, row, reason);
    else fz_row_drop(b, row, reason);
  }
  return left;
}

uint32_t fz_admit_from_tunnel(fz_filter *const *filters, uint32_t peers, fz_batch *b) {
  return admit(filters, peers, b, refuse_from_tunnel);
}

uint32_t fz_admit_to_tunnel(fz_filter *const *filters, uint32_t peers, fz_batch *b) {
  return admit(filters, peers, b, refuse_to_tunnel);
}
