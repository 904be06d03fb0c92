/* Admission: which packets a peer may send out of its tunnel, and which may be sent into it.
 *
 * One filter per peer: the addresses of its side (remote), of ours (local, optional) and rules (optional) found by longest prefix of
 * our side's address. Without a filter nothing is admitted. What was decided is remembered until the peer's filter changes, so that
 * the size of a filter costs nothing per packet. All memory is the caller's.
 */
#ifndef FZ_FILTER_H
#define FZ_FILTER_H

#include "fz_batch.h"
#include "fz_lpm.h"
#include "fz_memo.h"

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

/* The filters of all peers, and what they have decided. Room for a decision is made by the caller before a stage runs. */
typedef struct fz_filters {
  fz_filter **of; /* by peer row, NULL without one */
  uint64_t *generation; /* by peer row: of its filter as it is now, 0 without one */
  uint32_t peers;
  uint64_t changes; /* generations given out so far */
  fz_memo from_tunnel, to_tunnel;
} fz_filters;

/* Both look at parsed FORWARD rows only, drop or punt what is not admitted, and return how many rows are left. */
uint32_t fz_admit_from_tunnel(fz_filters *f, fz_batch *b);
uint32_t fz_admit_to_tunnel(fz_filters *f, fz_batch *b);

#endif
