/* Routing: which peer a packet from TUN goes to, by longest prefix of its destination, and what was found remembered.
 *
 * A change of one host's route leaves what is known of all others: at a gateway routes are its clients, and they come and go.
 * All memory is the caller's.
 */
#ifndef FZ_ROUTE_H
#define FZ_ROUTE_H

#include "fz_batch.h"
#include "fz_lpm.h"
#include "fz_memo.h"

typedef struct fz_routes {
  fz_lpm prefixes; /* values are peer rows, -1 for "ask for one" */
  fz_memo found;   /* by destination */
  uint64_t generation; /* of everything but the routes of single hosts; never 0 once there is a route */
} fz_routes;

/* Must follow every change of `prefixes`: forgets what was found by the route of this prefix as it was. */
void fz_route_changed(fz_routes *r, const uint8_t *address, bool v6, uint32_t bits);

/* Sets the peer of every parsed FORWARD row; without a route it is dropped, without a peer yet punted. Returns rows left FORWARD. */
uint32_t fz_route_batch(fz_routes *r, fz_batch *b);

#endif
