/* Admission: which packets a peer may send out of its tunnel, and which may be sent into it.
 *
 * One filter per peer: the addresses of its side (remote), of ours (local, optional) and rules (optional) found by longest prefix of
 * our side's address. Without a filter nothing is admitted. All memory is the caller's.
 */
#ifndef FZ_FILTER_H
#define FZ_FILTER_H

#include "fz_batch.h"
#include "fz_lpm.h"

/* Inclusive; the ranges of a rule are sorted and do not overlap. */
typedef struct fz_port_range {
  uint16_t first, last;
} fz_port_range;

typedef struct fz_rule {
  bool permit_all;
  bool icmp;
  uint32_t tcp, tcp_count; /* first range in fz_filter.ranges, number of ranges */
  uint32_t udp, udp_count;
} fz_rule;

typedef struct fz_filter {
  fz_lpm remote; /* values are of no meaning */
  fz_lpm local;
  fz_lpm rules; /* values are places in `rule` */
  bool has_local;
  bool has_rules;
  fz_rule *rule;
  fz_port_range *ranges;
  uint32_t rule_count, range_count; /* in use */
} fz_filter;

/* filters[row] is the filter of peer row, NULL without one, for rows below `peers`. Both look at parsed FORWARD rows only, drop or punt
 * what is not admitted, and return how many rows are left. */
uint32_t fz_admit_from_tunnel(fz_filter *const *filters, uint32_t peers, fz_batch *b);
uint32_t fz_admit_to_tunnel(fz_filter *const *filters, uint32_t peers, fz_batch *b);

#endif
