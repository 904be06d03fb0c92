/* Where the time of a batch goes: while it is on, the clock is read once between two stages, some 25 ns each. */
#ifndef FZ_STOPWATCH_H
#define FZ_STOPWATCH_H

#include <stdint.h>
#include <time.h>

#define FZ_STOPWATCH_STAGES 8u

typedef struct fz_stopwatch {
  uint64_t ns[FZ_STOPWATCH_STAGES]; /* spent in each stage while it was on */
  uint64_t last;
  uint32_t is_on;
} fz_stopwatch;

static inline uint64_t fz_stopwatch_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void fz_stopwatch_start(fz_stopwatch *w) {
  if (w->is_on) w->last = fz_stopwatch_now();
}

/* A stage is over: what passed since the one before is its share. */
static inline void fz_stopwatch_lap(fz_stopwatch *w, uint32_t stage) {
  if (!w->is_on) return;
  uint64_t now = fz_stopwatch_now();
  w->ns[stage] += now - w->last;
  w->last = now;
}

#endif
