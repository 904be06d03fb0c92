// sources:
// sanitize: thread
/* One producer and one consumer thread pass 300 000 slots through a small ring, sleeping as reader and tick do. Contents and order
 * are checked on the far side; the thread sanitizer sees every access. */
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fz_test.h"

enum { SLOTS = 8, SLOT_SIZE = 64, TOTAL = 300000 };

typedef struct shared {
  fz_ring *ring;
  int to_consumer, to_producer; /* eventfds */
} shared;

static void wake(int fd) {
  uint64_t one = 1;
  CHECK(write(fd, &one, sizeof one) == sizeof one);
}

/* Half a minute without a wake-up is a lost one. */
static void sleep_on(int fd) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  uint64_t count;
  CHECK(poll(&p, 1, 30000) == 1);
  CHECK(read(fd, &count, sizeof count) == sizeof count);
}

static void fill_slot(fz_ring *r, uint32_t slot, uint64_t number) {
  memcpy(r->slab + (size_t)slot * SLOT_SIZE, &number, sizeof number);
  r->offset[slot] = (uint32_t)number;
  r->length[slot] = (uint32_t)(number % SLOT_SIZE);
  r->ecn[slot] = (uint8_t)(number & 3);
  r->remote[slot].port = (uint16_t)number;
}

static void check_slot(const fz_ring *r, uint32_t slot, uint64_t number) {
  uint64_t found;
  memcpy(&found, r->slab + (size_t)slot * SLOT_SIZE, sizeof found);
  CHECK(found == number);
  CHECK(r->offset[slot] == (uint32_t)number && r->length[slot] == number % SLOT_SIZE);
  CHECK(r->ecn[slot] == (number & 3) && r->remote[slot].port == (uint16_t)number);
}

static void *produce(void *argument) {
  shared *s = argument;
  uint64_t state = 1, number = 0;
  while (number < TOTAL) {
    uint32_t free_slots = fz_ring_free(s->ring);
    if (free_slots == 0) {
      if (fz_ring_producer_sleeps(s->ring)) sleep_on(s->to_producer);
      continue;
    }
    uint32_t n = 1 + test_random(&state) % free_slots, first = fz_ring_head(s->ring);
    if (n > TOTAL - number) n = (uint32_t)(TOTAL - number);
    for (uint32_t i = 0; i < n; i++) fill_slot(s->ring, (first + i) & (SLOTS - 1), number++);
    if (fz_ring_commit(s->ring, n)) wake(s->to_consumer);
  }
  return NULL;
}

static void *consume(void *argument) {
  shared *s = argument;
  uint64_t state = 2, number = 0;
  while (number < TOTAL) {
    uint32_t ready = fz_ring_ready(s->ring);
    if (ready == 0) {
      if (fz_ring_consumer_sleeps(s->ring)) sleep_on(s->to_consumer);
      continue;
    }
    CHECK(ready <= SLOTS);
    uint32_t n = 1 + test_random(&state) % ready, first = fz_ring_tail(s->ring);
    for (uint32_t i = 0; i < n; i++) check_slot(s->ring, (first + i) & (SLOTS - 1), number++);
    if (fz_ring_release(s->ring, n)) wake(s->to_producer);
  }
  return NULL;
}

int main(void) {
  shared s = {test_ring(SLOTS, SLOT_SIZE), eventfd(0, 0), eventfd(0, 0)};
  pthread_t producer, consumer;
  CHECK(s.to_consumer >= 0 && s.to_producer >= 0);
  CHECK(pthread_create(&producer, NULL, produce, &s) == 0);
  CHECK(pthread_create(&consumer, NULL, consume, &s) == 0);
  CHECK(pthread_join(producer, NULL) == 0);
  CHECK(pthread_join(consumer, NULL) == 0);
  CHECK(fz_ring_ready(s.ring) == 0 && fz_ring_free(s.ring) == SLOTS);
  test_ring_free(s.ring);
  return 0;
}
