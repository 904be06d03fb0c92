/* The window of counters already seen (RFC 6479): a ring of words in which sliding forward clears whole words, never shifts.
 *
 * A counter is fresh when it is newer than all others, or no older than FZ_REPLAY_WINDOW - 1 before the newest and not yet
 * seen. There is one word more than the window needs, so that the word of the newest counter may be partly in the future.
 * Check before decryption to spare the work and again after it, when other packets of the batch may have been marked; mark
 * only what was authentic.
 */
#ifndef FZ_REPLAY_H
#define FZ_REPLAY_H

#include <stdbool.h>

#include "fz_common.h"

#define FZ_REPLAY_WINDOW 8192u /* the original's newest; reordering beyond it loses packets, twice as many cost 1 KiB per session */
#define FZ_REPLAY_WORDS (FZ_REPLAY_WINDOW / 64u + 1u)

/* All zero: nothing seen yet. */
typedef struct fz_replay {
  uint64_t next; /* one more than the newest counter seen, 0 when there is none */
  uint64_t words[FZ_REPLAY_WORDS];
} fz_replay;

static inline bool fz_replay_check(const fz_replay *r, uint64_t counter) {
  if (counter >= r->next) return true;
  if (r->next - counter > FZ_REPLAY_WINDOW) return false;
  return !(r->words[(counter >> 6) % FZ_REPLAY_WORDS] >> (counter & 63) & 1);
}

/* Notes a counter that fz_replay_check calls fresh and that is not UINT64_MAX. */
static inline void fz_replay_mark(fz_replay *r, uint64_t counter) {
  if (counter >= r->next) {
    /* With nothing seen there is nothing to clear: all words are zero. */
    uint64_t word = counter >> 6, newest = r->next ? (r->next - 1) >> 6 : word;
    uint64_t steps = word - newest < FZ_REPLAY_WORDS ? word - newest : FZ_REPLAY_WORDS;
    for (uint64_t i = 0; i < steps; i++) r->words[(word - i) % FZ_REPLAY_WORDS] = 0;
    r->next = counter + 1;
  }
  r->words[(counter >> 6) % FZ_REPLAY_WORDS] |= 1ull << (counter & 63);
}

#endif
