/* Established WireGuard sessions and the paths of peers: counters, replay windows, and the two batch stages around the AEAD.
 *
 *   fz_seal_prepare ▸ seal the jobs            WireGuard paper 5.4.6; RFC 6479
 *   fz_open_prepare ▸ open the jobs ▸ fz_open_finish
 *
 * Preparing walks the rows in order, reserves counters, writes headers and leaves one AEAD job per row; the jobs are independent
 * of each other then, in any number of pieces. Jobs are not grouped by key: lanes of the AEAD kernel may have a key each.
 *
 * Sessions live in chunks that never move, so that keys are never copied about and a job may point at one. Slots and rows that
 * are given back are used again, last in first out; a session's memory is wiped when it is removed. All memory is the
 * caller's (firezone.kernels.session), who makes room before fz_peer_add and fz_session_install. Not for concurrent use: one
 * batch or one change at a time.
 */
#ifndef FZ_SESSION_H
#define FZ_SESSION_H

#include "fz_aead.h"
#include "fz_batch.h"
#include "fz_hash.h"
#include "fz_replay.h"

#define FZ_DATA_MESSAGE 4u
#define FZ_DATA_HEADER 16u /* type, receiver index, counter; all little endian */
#define FZ_DATA_OVERHEAD (FZ_DATA_HEADER + FZ_TAG_SIZE)
#define FZ_CHANNEL_HEADER 4u

/* WireGuard paper 6.1: neither side uses counters from here on. */
#define FZ_REJECT_AFTER_MESSAGES (UINT64_MAX - (1ull << 13))

#define FZ_SESSION_CHUNK 64u /* sessions allocated together: 75 KiB */
#define FZ_NO_SESSION (-1)

/* What one session sent and received on the batch path since somebody asked. The layout of take_activity's records. */
typedef struct __attribute__((packed)) fz_activity {
  int32_t session;
  int32_t peer;
  uint32_t sent;       /* packets */
  uint32_t received;   /* packets, keepalives not */
  uint32_t keepalives; /* empty packets received */
  uint64_t sent_bytes; /* of packets, without overhead */
  uint64_t received_bytes;
} fz_activity;

typedef struct fz_session {
  uint8_t send_key[FZ_KEY_SIZE];
  uint8_t receive_key[FZ_KEY_SIZE];
  uint64_t next_counter; /* of the next message sealed */
  uint64_t reject_after; /* from this instant on nothing is opened */
  uint32_t local_index;  /* by which messages find us */
  uint32_t remote_index;
  int32_t peer;          /* row, -1: the slot is free */
  int32_t next, previous; /* sessions of the same peer; of a free slot, `next` links the free ones */
  int32_t touched;       /* place in the list of touched sessions, -1: not in it */
  fz_activity activity;
  fz_replay replay;
} fz_session;

typedef struct fz_peer {
  uint64_t send_until; /* past this instant rows are punted */
  fz_addr local, remote; /* remote.family 0: no path */
  int32_t sending;     /* session to seal with, or FZ_NO_SESSION */
  int32_t sessions;    /* first session; of a free row, the next free row */
  uint32_t count;      /* sessions */
  uint16_t channel;    /* 0 = direct */
  uint16_t used;
} fz_peer;

typedef struct fz_session_table {
  fz_session **chunks;
  fz_peer *peers;
  int32_t *touched; /* room for every session slot */
  fz_hash by_index;
  uint32_t session_slots; /* that have memory: chunks * FZ_SESSION_CHUNK */
  uint32_t sessions_used; /* slots handed out at least once */
  uint32_t peer_rows;     /* that have memory */
  uint32_t peers_used;
  uint32_t touched_count;
  int32_t free_session, free_peer; /* heads of the free lists, -1 = none */
  bool is_urgent; /* something came on a session that is not its peer's sending one: it may be confirmed by that */
} fz_session_table;

static inline fz_session *fz_session_at(const fz_session_table *t, int32_t slot) {
  return &t->chunks[(uint32_t)slot / FZ_SESSION_CHUNK][(uint32_t)slot % FZ_SESSION_CHUNK];
}

/* The session in a slot, NULL when the number is none of ours or the slot is free. */
static inline fz_session *fz_session_get(const fz_session_table *t, int64_t slot) {
  if (slot < 0 || slot >= (int64_t)t->sessions_used) return NULL;
  fz_session *s = fz_session_at(t, (int32_t)slot);
  return s->peer < 0 ? NULL : s;
}

static inline fz_peer *fz_peer_get(const fz_session_table *t, int64_t row) {
  if (row < 0 || row >= (int64_t)t->peers_used || !t->peers[row].used) return NULL;
  return &t->peers[row];
}

/* True when fz_peer_add, or fz_session_install, needs no more memory. */
static inline bool fz_peer_has_room(const fz_session_table *t) { return t->free_peer >= 0 || t->peers_used < t->peer_rows; }
static inline bool fz_session_has_room(const fz_session_table *t) {
  return (t->free_session >= 0 || t->sessions_used < t->session_slots) && fz_hash_has_room(&t->by_index);
}

int32_t fz_peer_add(fz_session_table *t);
void fz_peer_remove(fz_session_table *t, int32_t row);

/* Makes a session of an existing peer under an index that no other session has. */
int32_t fz_session_install(fz_session_table *t, int32_t peer, uint32_t local_index, uint32_t remote_index,
                           const uint8_t *send_key, const uint8_t *receive_key, uint64_t reject_after);
void fz_session_remove(fz_session_table *t, int32_t slot);

/* Writes the header of the session's next message and takes its counter. False: all counters are used up. */
bool fz_session_next(fz_session *s, uint8_t header[FZ_DATA_HEADER], uint64_t *counter);

/* Uplink. Gives FORWARD rows header, path and session, and one job each; `jobs` has room for b->n. Rows without path or session
 * to send on are punted, rows without room for header and tag in the slab dropped. Returns the number of jobs. */
uint32_t fz_seal_prepare(fz_session_table *t, fz_batch *b, uint64_t now, fz_aead_job *jobs);

/* Downlink. Finds the session of every FORWARD row and makes one job each; `jobs` and `rows` have room for b->n. Returns the
 * number of jobs; rows[i] is the row of jobs[i]. */
uint32_t fz_open_prepare(fz_session_table *t, fz_batch *b, uint64_t now, fz_aead_job *jobs, uint32_t *rows);

/* Drops what was forged or meanwhile replayed and cuts the others to their plaintext. Returns how many are left FORWARD. */
uint32_t fz_open_finish(fz_session_table *t, fz_batch *b, const fz_aead_job *jobs, const uint32_t *rows, uint32_t n);

/* Moves the activity of all touched sessions, t->touched_count of them, to `out`. */
void fz_session_take_activity(fz_session_table *t, fz_activity *out);

#endif
