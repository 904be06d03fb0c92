#include "fz_memo.h"

void fz_memo_put(fz_memo *m, const fz_memo_key *key, uint32_t home, int32_t value) {
  fz_memo_entry *place = NULL;
  for (uint32_t way = 0; way < FZ_MEMO_WAYS; way++) {
    fz_memo_entry *entry = &m->entries[home + way];
    if (fz_memo_is_flow(&entry->key, key)) {
      place = entry;
      break;
    }
    if (place == NULL && entry->key.generation == 0) place = entry;
  }
  if (place == NULL) {
    place = &m->entries[home + m->turn++ % FZ_MEMO_WAYS];
    m->replaced++;
  }
  *place = (fz_memo_entry){.key = *key, .value = value};
}

void fz_memo_forget(fz_memo *m, const fz_memo_key *key) {
  if (m->bits == 0) return;
  uint32_t home = fz_memo_home(m, key);
  for (uint32_t way = 0; way < FZ_MEMO_WAYS; way++)
    if (fz_memo_is_flow(&m->entries[home + way].key, key)) memset(&m->entries[home + way], 0, sizeof(fz_memo_entry));
}
