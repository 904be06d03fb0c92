/* What the C test programs share: a check that says where it failed, a small random generator, batches on the heap.
 *
 * Every column is an allocation of its own and slabs have their exact size, so that the address sanitizer sees each step outside.
 */
#ifndef FZ_TEST_H
#define FZ_TEST_H

#include <stdio.h>
#include <stdlib.h>

#include "fz_ring.h"

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) {                                                           \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                    \
    }                                                                             \
  } while (0)

/* xorshift64*: the same numbers on every run. */
static inline uint32_t test_random(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return (uint32_t)((*state * 0x2545F4914F6CDD1Dull) >> 32);
}

static inline void test_fill(uint64_t *state, uint8_t *p, size_t n) {
  for (size_t i = 0; i < n; i++) p[i] = (uint8_t)test_random(state);
}

static inline void *test_alloc(size_t n, size_t size) {
  void *p = calloc(n ? n : 1, size);
  CHECK(p != NULL);
  return p;
}

#define FZ_BATCH_COLUMNS(X)                                                                                               \
  X(slot) X(offset) X(length) X(stride) X(socket) X(local) X(remote) X(ecn) X(peer) X(session) X(channel) X(verdict) X(reason) \
  X(prefix_len) X(skip) X(ip_version) X(protocol) X(transport) X(flags) X(source_port) X(destination_port) X(next)

static inline fz_batch test_batch(uint32_t capacity, size_t slab_size) {
  fz_batch b = {.capacity = capacity, .slab_size = slab_size, .slab = test_alloc(slab_size, 1)};
#define X(column) b.column = test_alloc(capacity, sizeof *b.column);
  FZ_BATCH_COLUMNS(X)
#undef X
  b.prefix = test_alloc(capacity, FZ_PREFIX_SIZE);
  return b;
}

static inline void test_batch_free(fz_batch *b) {
#define X(column) free(b->column);
  FZ_BATCH_COLUMNS(X)
#undef X
  free(b->prefix);
  free(b->slab);
}

static inline fz_ring *test_ring(uint32_t slots, uint32_t slot_size) {
  fz_ring *r = aligned_alloc(64, (sizeof(fz_ring) + 63) & ~(size_t)63);
  CHECK(r != NULL);
  memset(r, 0, sizeof *r);
  r->slots = slots;
  r->slot_size = slot_size;
  r->slab = test_alloc(slots, slot_size);
  r->offset = test_alloc(slots, sizeof *r->offset);
  r->length = test_alloc(slots, sizeof *r->length);
  r->stride = test_alloc(slots, sizeof *r->stride);
  r->socket = test_alloc(slots, sizeof *r->socket);
  r->local = test_alloc(slots, sizeof *r->local);
  r->remote = test_alloc(slots, sizeof *r->remote);
  r->ecn = test_alloc(slots, sizeof *r->ecn);
  return r;
}

static inline void test_ring_free(fz_ring *r) {
  free(r->slab);
  free(r->offset);
  free(r->length);
  free(r->stride);
  free(r->socket);
  free(r->local);
  free(r->remote);
  free(r->ecn);
  free(r);
}

#endif
