/* Single-producer single-consumer ring: a slab of equal slots, one descriptor per slot, an index pair under C11 atomics.
 *
 *        tail                         head
 *          v                            v
 *   ... [free][ready][ready][in batch]...[filling][free] ...
 *
 * head counts slots ever filled, tail slots ever given back; both only grow, slot = index & (slots - 1). The producer alone
 * stores head, the consumer alone stores tail: whoever advances its index gives the slots before it away.
 * Waiting: a side that finds nothing sets its flag and looks once more; the other side takes the flag down after it has
 * advanced and, if it was up, must wake the sleeper (an eventfd, owned by whoever owns the threads).
 */
#ifndef FZ_RING_H
#define FZ_RING_H

#include <stdatomic.h>
#include <stdbool.h>

#include "fz_batch.h"

typedef struct fz_ring {
  uint8_t *slab;
  uint32_t slots; /* a power of two */
  uint32_t slot_size;
  uint32_t *offset; /* first byte within the slot */
  uint32_t *length; /* bytes */
  uint16_t *stride; /* segment size of a GRO train; equal to length for a single datagram; 0 for TUN reads */
  uint16_t *socket;
  fz_addr *local;
  fz_addr *remote;
  uint8_t *ecn;
  _Alignas(64) _Atomic uint64_t head;
  _Alignas(64) _Atomic uint64_t tail;
  fz_histogram taken; /* the consumer's: slots given back at once */
  uint32_t most_used; /* the consumer's: slots in use when some were given back */
  _Alignas(64) _Atomic uint32_t consumer_waits;
  _Atomic uint32_t producer_waits;
} fz_ring;

/* Producer: slots that may be filled now, the first of them at fz_ring_head(). */
static inline uint32_t fz_ring_free(fz_ring *r) {
  uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
  uint64_t tail = atomic_load_explicit(&r->tail, memory_order_acquire);
  return r->slots - (uint32_t)(head - tail);
}

static inline uint32_t fz_ring_head(fz_ring *r) {
  return (uint32_t)atomic_load_explicit(&r->head, memory_order_relaxed) & (r->slots - 1u);
}

/* Producer: hands n filled slots to the consumer. True: the consumer sleeps and must be woken. */
static inline bool fz_ring_commit(fz_ring *r, uint32_t n) {
  uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
  atomic_store_explicit(&r->head, head + n, memory_order_seq_cst);
  return atomic_load_explicit(&r->consumer_waits, memory_order_seq_cst) != 0 &&
         atomic_exchange_explicit(&r->consumer_waits, 0, memory_order_seq_cst) != 0;
}

/* Consumer: slots ready now, the first of them at fz_ring_tail(). */
static inline uint32_t fz_ring_ready(fz_ring *r) {
  uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
  uint64_t head = atomic_load_explicit(&r->head, memory_order_acquire);
  return (uint32_t)(head - tail);
}

static inline uint32_t fz_ring_tail(fz_ring *r) {
  return (uint32_t)atomic_load_explicit(&r->tail, memory_order_relaxed) & (r->slots - 1u);
}

/* Consumer: gives n slots back. True: the producer sleeps and must be woken. */
static inline bool fz_ring_release(fz_ring *r, uint32_t n) {
  uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
  uint32_t used = (uint32_t)(atomic_load_explicit(&r->head, memory_order_relaxed) - tail);
  if (used > r->most_used) r->most_used = used;
  fz_histogram_add(&r->taken, n);
  atomic_store_explicit(&r->tail, tail + n, memory_order_seq_cst);
  return atomic_load_explicit(&r->producer_waits, memory_order_seq_cst) != 0 &&
         atomic_exchange_explicit(&r->producer_waits, 0, memory_order_seq_cst) != 0;
}

/* Consumer, before sleeping: true when the ring is still empty and the producer will wake us. */
static inline bool fz_ring_consumer_sleeps(fz_ring *r) {
  atomic_store_explicit(&r->consumer_waits, 1, memory_order_seq_cst);
  if (atomic_load_explicit(&r->head, memory_order_seq_cst) == atomic_load_explicit(&r->tail, memory_order_relaxed)) return true;
  atomic_store_explicit(&r->consumer_waits, 0, memory_order_seq_cst);
  return false;
}

/* Producer, before sleeping: true when the ring is still full and the consumer will wake us. */
static inline bool fz_ring_producer_sleeps(fz_ring *r) {
  atomic_store_explicit(&r->producer_waits, 1, memory_order_seq_cst);
  uint64_t used = atomic_load_explicit(&r->head, memory_order_relaxed) - atomic_load_explicit(&r->tail, memory_order_seq_cst);
  if (used == r->slots) return true;
  atomic_store_explicit(&r->producer_waits, 0, memory_order_seq_cst);
  return false;
}

#endif
