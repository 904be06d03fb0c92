#include "fz_session.h"

/* Numbers of firezone.kernels.types.Reason; tests/kernels/test_session.py sees each of them. */
enum {
  MALFORMED = 5,
  BATCH_FULL = 8,
  UNKNOWN_SESSION = 16,
  BAD_TAG = 17,
  REPLAYED = 18,
  EXPIRED_SESSION = 19,
  COUNTER_EXHAUSTED = 20,
  NO_PATH = 73,
};

/* ---- peers and sessions ---- */

int32_t fz_peer_add(fz_session_table *t) {
  int32_t row = t->free_peer;
  if (row >= 0) {
    t->free_peer = t->peers[row].sessions;
  } else {
    row = (int32_t)t->peers_used++;
  }
  t->peers[row] = (fz_peer){.sending = FZ_NO_SESSION, .sessions = FZ_NO_SESSION, .used = 1};
  return row;
}

void fz_peer_remove(fz_session_table *t, int32_t row) {
  fz_peer *p = &t->peers[row];
  while (p->sessions >= 0) fz_session_remove(t, p->sessions);
  *p = (fz_peer){.sending = FZ_NO_SESSION, .sessions = t->free_peer};
  t->free_peer = row;
}

int32_t fz_session_install(fz_session_table *t, int32_t peer, uint32_t local_index, uint32_t remote_index,
                           const uint8_t *send_key, const uint8_t *receive_key, uint64_t reject_after) {
  fz_peer *p = &t->peers[peer];
  int32_t slot = t->free_session;
  if (slot >= 0) {
    t->free_session = fz_session_at(t, slot)->next;
  } else {
    slot = (int32_t)t->sessions_used++;
  }
  fz_session *s = fz_session_at(t, slot);
  memset(s, 0, sizeof *s);
  memcpy(s->send_key, send_key, FZ_KEY_SIZE);
  memcpy(s->receive_key, receive_key, FZ_KEY_SIZE);
  s->reject_after = reject_after;
  s->local_index = local_index;
  s->remote_index = remote_index;
  s->peer = peer;
  s->touched = -1;
  s->previous = FZ_NO_SESSION;
  s->next = p->sessions;
  if (s->next >= 0) fz_session_at(t, s->next)->previous = slot;
  p->sessions = slot;
  p->count++;
  fz_hash_insert(&t->by_index, local_index, slot);
  return slot;
}

/* Takes a session out of the list of touched ones; the last of the list takes its place. */
static void untouch(fz_session_table *t, fz_session *s) {
  if (s->touched < 0) return;
  int32_t last = t->touched[--t->touched_count];
  t->touched[s->touched] = last;
  fz_session_at(t, last)->touched = s->touched;
  s->touched = -1;
}

void fz_session_remove(fz_session_table *t, int32_t slot) {
  fz_session *s = fz_session_at(t, slot);
  fz_peer *p = &t->peers[s->peer];
  fz_hash_remove(&t->by_index, s->local_index);
  untouch(t, s);
  if (p->sending == slot) p->sending = FZ_NO_SESSION;
  if (s->next >= 0) fz_session_at(t, s->next)->previous = s->previous;
  if (s->previous >= 0) {
    fz_session_at(t, s->previous)->next = s->next;
  } else {
    p->sessions = s->next;
  }
  p->count--;
  fz_wipe(s, sizeof *s);
  s->peer = -1;
  s->next = t->free_session;
  t->free_session = slot;
}

/* ---- what happened ---- */

/* The session's activity, after noting that there is some. */
static inline fz_activity *touch(fz_session_table *t, fz_session *s, int32_t slot) {
  if (s->touched < 0) {
    s->touched = (int32_t)t->touched_count;
    t->touched[t->touched_count++] = slot;
  }
  return &s->activity;
}

void fz_session_take_activity(fz_session_table *t, fz_activity *out) {
  for (uint32_t i = 0; i < t->touched_count; i++) {
    fz_session *s = fz_session_at(t, t->touched[i]);
    out[i] = s->activity;
    out[i].session = t->touched[i];
    out[i].peer = s->peer;
    memset(&s->activity, 0, sizeof s->activity);
    s->touched = -1;
  }
  t->touched_count = 0;
  t->is_urgent = false;
}

/* ---- sealing ---- */

bool fz_session_next(fz_session *s, uint8_t header[FZ_DATA_HEADER], uint64_t *counter) {
  if (FZ_UNLIKELY(s->next_counter >= FZ_REJECT_AFTER_MESSAGES)) return false;
  *counter = s->next_counter++;
  fz_store_le32(header, FZ_DATA_MESSAGE);
  fz_store_le32(header + 4, s->remote_index);
  fz_store_le64(header + 8, *counter);
  return true;
}

/* RFC 8656 section 12.4: channel number and length of the data. Over UDP the data is not padded. */
static void put_channel_header(fz_batch *b, uint32_t row) {
  uint8_t *prefix = b->prefix + (size_t)row * FZ_PREFIX_SIZE;
  fz_store_be16(prefix, b->channel[row]);
  fz_store_be16(prefix + 2, (uint16_t)b->length[row]);
  b->prefix_len[row] = FZ_CHANNEL_HEADER;
}

static bool has_room_to_seal(const fz_batch *b, uint32_t row) {
  uint64_t end = (uint64_t)b->offset[row] + b->length[row] + FZ_TAG_SIZE;
  return b->offset[row] >= FZ_DATA_HEADER && end <= b->slab_size && b->length[row] <= UINT16_MAX - FZ_DATA_OVERHEAD;
}

uint32_t fz_seal_prepare(fz_session_table *t, fz_batch *b, uint64_t now, fz_aead_job *jobs) {
  uint32_t n = 0;
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] != FZ_FORWARD) continue;
    const fz_peer *p = fz_peer_get(t, b->peer[row]);
    if (!p || p->sending < 0 || !p->remote.family || now > p->send_until) {
      fz_row_punt(b, row, NO_PATH);
      continue;
    }
    if (FZ_UNLIKELY(!has_room_to_seal(b, row))) {
      fz_row_drop(b, row, BATCH_FULL);
      continue;
    }
    fz_session *s = fz_session_at(t, p->sending);
    fz_aead_job *job = &jobs[n];
    uint8_t *packet = b->slab + b->offset[row];
    if (!fz_session_next(s, packet - FZ_DATA_HEADER, &job->counter)) {
      fz_row_drop(b, row, COUNTER_EXHAUSTED);
      continue;
    }
    job->key = s->send_key;
    job->in = job->out = packet;
    job->length = b->length[row];
    job->tag = packet + job->length;
    n++;
    fz_activity *activity = touch(t, s, p->sending);
    activity->sent++;
    activity->sent_bytes += job->length;
    b->session[row] = p->sending;
    b->local[row] = p->local;
    b->remote[row] = p->remote;
    b->socket[row] = p->remote.family;
    b->channel[row] = p->channel;
    b->offset[row] -= FZ_DATA_HEADER;
    b->length[row] += FZ_DATA_OVERHEAD;
    if (p->channel) put_channel_header(b, row);
  }
  return n;
}

/* ---- opening ---- */

/* Whether a row may be opened: 0, or the reason to drop it. */
static uint8_t refusal(const fz_session *s, uint64_t counter, uint64_t now) {
  if (!s) return UNKNOWN_SESSION;
  if (now >= s->reject_after) return EXPIRED_SESSION;
  if (counter >= FZ_REJECT_AFTER_MESSAGES) return COUNTER_EXHAUSTED;
  if (!fz_replay_check(&s->replay, counter)) return REPLAYED;
  return 0;
}

uint32_t fz_open_prepare(fz_session_table *t, fz_batch *b, uint64_t now, fz_aead_job *jobs, uint32_t *rows) {
  uint32_t n = 0;
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] != FZ_FORWARD) continue;
    if (b->length[row] < FZ_DATA_OVERHEAD || (uint64_t)b->offset[row] + b->length[row] > b->slab_size) {
      fz_row_drop(b, row, MALFORMED);
      continue;
    }
    uint8_t *message = b->slab + b->offset[row];
    uint64_t counter = fz_load_le64(message + 8);
    int32_t slot = fz_hash_find(&t->by_index, fz_load_le32(message + 4));
    const fz_session *s = slot < 0 ? NULL : fz_session_at(t, slot);
    uint8_t reason = refusal(s, counter, now);
    if (reason) {
      fz_row_drop(b, row, reason);
      continue;
    }
    fz_aead_job *job = &jobs[n];
    job->key = s->receive_key;
    job->counter = counter;
    job->in = job->out = message + FZ_DATA_HEADER;
    job->length = b->length[row] - FZ_DATA_OVERHEAD;
    job->tag = job->out + job->length;
    rows[n++] = row;
    b->session[row] = slot;
    b->peer[row] = s->peer;
  }
  return n;
}

uint32_t fz_open_finish(fz_session_table *t, fz_batch *b, const fz_aead_job *jobs, const uint32_t *rows, uint32_t n) {
  uint32_t left = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t row = rows[i];
    fz_session *s = fz_session_at(t, b->session[row]);
    if (!jobs[i].ok) {
      fz_row_drop(b, row, BAD_TAG);
      continue;
    }
    if (!fz_replay_check(&s->replay, jobs[i].counter)) { /* the same message twice in one batch */
      fz_row_drop(b, row, REPLAYED);
      continue;
    }
    fz_replay_mark(&s->replay, jobs[i].counter);
    fz_activity *activity = touch(t, s, b->session[row]);
    if (t->peers[s->peer].sending != b->session[row]) t->is_urgent = true;
    b->offset[row] += FZ_DATA_HEADER;
    b->length[row] -= FZ_DATA_OVERHEAD;
    if (!b->length[row]) {
      activity->keepalives++;
      b->verdict[row] = FZ_FREE;
      continue;
    }
    activity->received++;
    activity->received_bytes += b->length[row];
    left++;
  }
  return left;
}
