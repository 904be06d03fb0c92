/* An allowance that many share, so that whoever asks too often uses up what is left over, and not what is others'. Pure.
 *
 * While more than `reserve` of the allowance is left, anybody takes from it. What is left then is for those who have not used up their
 * own share: `burst_ns / step_ns` at once, one per `step_ns` in the long run. Shares are kept for keys (a prefix of addresses, a client,
 * a port) in a table of fixed size, as the time at which the last one taken is paid for (GCRA, ITU-T I.371), in two rows of places
 * that are chosen by one keyed hash (a count-min sketch with conservative update, Estan and Varghese): a key's share is used up only
 * when both of its places say so. A flood from many keys so takes no memory and drives nobody out: of the others it reaches those
 * who share both places with it, which nobody can arrange who does not know the seed. One from k keys reaches about (k / PLACES)^2.
 */
#ifndef FZ_FAIR_H
#define FZ_FAIR_H

#include "fz_addrmap.h"

#define FZ_FAIR_ROWS 2
#define FZ_FAIR_PLACES 4096u

typedef struct fz_fair {
  uint64_t seed[2];
  uint32_t left; /* of the allowance */
  uint32_t reserve;
  uint64_t now_ns;
  uint64_t step_ns, burst_ns; /* both 0: nobody has a share of the reserve */
  uint64_t due_ns[FZ_FAIR_ROWS][FZ_FAIR_PLACES];
} fz_fair;

/* Takes one for a key. False: it may not have it. */
bool fz_fair_take(fz_fair *f, const fz_addrmap_key *key);

/* The network that an address is in: one /24 of IPv4 or one /56 of IPv6, which is what one customer has at most. */
fz_addrmap_key fz_fair_network_of(const fz_addr *address);

#endif
