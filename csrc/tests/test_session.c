// sources: fz_session.c fz_hash.c fz_aead.c fz_aead_portable.c fz_aead_avx2.c fz_aead_avx512.c fz_cpu.c
// sanitize: address,undefined
/* Two tables that talk to each other through a slab in which every byte counts, rows of hostile sizes between the good ones; and
 * what only C can set up: counters at their end, memory after removal. */
#include "fz_session.h"
#include "fz_test.h"

enum { PEERS = 20, SESSIONS = 2 * FZ_SESSION_CHUNK, ROWS = 64, ROUNDS = 300, NO_PATH = 73, BATCH_FULL = 8, EXHAUSTED = 20 };

static fz_session_table new_table(void) {
  fz_session_table t = {.free_session = -1, .free_peer = -1, .session_slots = SESSIONS, .peer_rows = PEERS};
  t.chunks = test_alloc(SESSIONS / FZ_SESSION_CHUNK, sizeof *t.chunks);
  for (uint32_t i = 0; i < SESSIONS / FZ_SESSION_CHUNK; i++) t.chunks[i] = test_alloc(FZ_SESSION_CHUNK, sizeof(fz_session));
  t.peers = test_alloc(PEERS, sizeof *t.peers);
  t.touched = test_alloc(SESSIONS, sizeof *t.touched);
  fz_hash_move(&t.by_index, test_alloc(2 * SESSIONS, sizeof(fz_hash_entry)), 8);
  return t;
}

static void free_table(fz_session_table *t) {
  for (uint32_t i = 0; i < SESSIONS / FZ_SESSION_CHUNK; i++) free(t->chunks[i]);
  free(t->chunks);
  free(t->peers);
  free(t->touched);
  free(t->by_index.entries);
}

/* A session between peer `a` of one table and peer `b` of the other. */
static void connect_peers(fz_session_table *one, fz_session_table *two, int32_t a, int32_t b, uint64_t *state) {
  uint8_t keys[2][FZ_KEY_SIZE];
  test_fill(state, keys[0], sizeof keys);
  uint32_t index[2] = {test_random(state), test_random(state)};
  int32_t first = fz_session_install(one, a, index[0], index[1], keys[0], keys[1], UINT64_MAX);
  int32_t second = fz_session_install(two, b, index[1], index[0], keys[1], keys[0], UINT64_MAX);
  one->peers[a].sending = first;
  one->peers[a].send_until = UINT64_MAX;
  one->peers[a].remote.family = 4;
  two->peers[b].sending = second;
}

static void through_a_slab(fz_session_table *one, fz_session_table *two, const int32_t *a, const int32_t *b, uint64_t *state) {
  uint32_t n = test_random(state) % (ROWS + 1), sizes[ROWS], from[ROWS], good = 0;
  size_t size = 1;
  for (uint32_t i = 0; i < n; i++) size += (sizes[i] = test_random(state) % 300) + FZ_DATA_OVERHEAD;
  fz_batch batch = test_batch(ROWS, size);
  fz_aead_job *jobs = test_alloc(n, sizeof *jobs);
  uint32_t *rows = test_alloc(n, sizeof *rows), at = test_random(state) % 2;
  test_fill(state, batch.slab, size);
  uint8_t *before = test_alloc(size, 1);
  for (uint32_t i = 0; i < n; i++) {
    fz_row_init(&batch, batch.n++, 0, at + FZ_DATA_HEADER, sizes[i]);
    from[i] = test_random(state) % (PEERS / 2);
    batch.peer[i] = a[from[i]];
    if (test_random(state) % 16 == 0) batch.peer[i] = (int32_t)test_random(state) | PEERS;
    if (test_random(state) % 16 == 0) batch.offset[i] = test_random(state) % FZ_DATA_HEADER;
    if (test_random(state) % 16 == 0) batch.length[i] = (uint32_t)(size - batch.offset[i]) - test_random(state) % FZ_TAG_SIZE;
    at += sizes[i] + FZ_DATA_OVERHEAD;
  }
  memcpy(before, batch.slab, size);
  fz_aead_seal(jobs, fz_seal_prepare(one, &batch, 0, jobs));
  for (uint32_t i = 0; i < n; i++) {
    if (batch.verdict[i] == FZ_FORWARD) good++;
    else CHECK(batch.reason[i] == (batch.verdict[i] == FZ_PUNT ? NO_PATH : BATCH_FULL));
  }
  if (n && test_random(state) % 4 == 0) { /* a length that leaves the slab */
    uint32_t row = test_random(state) % n;
    good -= batch.verdict[row] == FZ_FORWARD;
    batch.length[row] = (uint32_t)size + test_random(state) % 2 * (UINT32_MAX - (uint32_t)size);
  }
  uint32_t m = fz_open_prepare(two, &batch, 0, jobs, rows);
  fz_aead_open(jobs, m);
  fz_open_finish(two, &batch, jobs, rows, m);
  for (uint32_t i = 0; i < n; i++) {
    if (batch.verdict[i] != FZ_FORWARD && batch.verdict[i] != FZ_FREE) continue;
    good--;
    CHECK(batch.peer[i] == b[from[i]] && batch.length[i] == sizes[i]);
    CHECK(memcmp(batch.slab + batch.offset[i], before + batch.offset[i], sizes[i]) == 0);
  }
  CHECK(good == 0);
  free(before);
  free(jobs);
  free(rows);
  test_batch_free(&batch);
}

static void counters_end(fz_session_table *t, int32_t peer) {
  fz_session *s = fz_session_at(t, t->peers[peer].sending);
  fz_batch batch = test_batch(3, 300);
  fz_aead_job jobs[3];
  uint32_t sent = s->activity.sent;
  s->next_counter = FZ_REJECT_AFTER_MESSAGES - 2;
  for (uint32_t i = 0; i < 3; i++) {
    fz_row_init(&batch, batch.n++, 0, 16 + 100 * i, 60);
    batch.peer[i] = peer;
  }
  CHECK(fz_seal_prepare(t, &batch, 0, jobs) == 2);
  CHECK(jobs[1].counter == FZ_REJECT_AFTER_MESSAGES - 1);
  CHECK(batch.verdict[2] == FZ_DROP && batch.reason[2] == EXHAUSTED && batch.length[2] == 60);
  CHECK(s->activity.sent == sent + 2);
  test_batch_free(&batch);
}

static void removal_wipes(fz_session_table *t, int32_t peer) {
  int32_t slot = t->peers[peer].sending;
  fz_peer_remove(t, peer);
  const uint8_t *bytes = (const uint8_t *)fz_session_at(t, slot);
  for (size_t i = 0; i < 2 * FZ_KEY_SIZE; i++) CHECK(bytes[i] == 0);
  CHECK(!fz_session_get(t, slot) && !fz_peer_get(t, peer));
  for (uint32_t i = 0; i < t->touched_count; i++) CHECK(t->touched[i] != slot);
}

int main(void) {
  uint64_t state = 13;
  fz_session_table one = new_table(), two = new_table();
  int32_t a[PEERS / 2], b[PEERS / 2];
  for (int i = 0; i < PEERS / 2; i++) {
    a[i] = fz_peer_add(&one);
    b[i] = fz_peer_add(&two);
    connect_peers(&one, &two, a[i], b[i], &state);
  }
  for (int round = 0; round < ROUNDS; round++) {
    through_a_slab(&one, &two, a, b, &state);
    uint32_t i = test_random(&state) % (PEERS / 2);
    if (round % 7 == 0) {
      removal_wipes(&one, a[i]);
      fz_peer_remove(&two, b[i]);
      a[i] = fz_peer_add(&one);
      b[i] = fz_peer_add(&two);
    }
    if (one.peers[a[i]].count < 8) connect_peers(&one, &two, a[i], b[i], &state);
    if (round % 5) continue;
    fz_activity *activity = test_alloc(one.touched_count, sizeof *activity);
    uint32_t touched = one.touched_count;
    fz_session_take_activity(&one, activity);
    CHECK(one.touched_count == 0);
    for (uint32_t k = 0; k < touched; k++) CHECK(activity[k].sent && fz_session_get(&one, activity[k].session));
    free(activity);
  }
  CHECK(one.peers_used == PEERS / 2 && one.sessions_used <= 8 * PEERS / 2);
  counters_end(&one, a[0]);
  for (int i = 0; i < PEERS / 2; i++) removal_wipes(&one, a[i]);
  CHECK(one.by_index.count == 0 && one.touched_count == 0);
  free_table(&one);
  free_table(&two);
  return 0;
}
