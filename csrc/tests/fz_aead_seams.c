/* What tests/kernels/aead_library.py needs of C beside the AEAD itself. */
#include "fz_aead.h"
#include "fz_poly1305.h"
#include "fz_wide.h"

enum { DEPTH = 64 * 1024 }; /* bytes of stack that are looked at: more than any implementation uses */

uint32_t fz_nonce_head;

/* Fills the dead stack with a pattern that no secret has. */
__attribute__((noinline)) static void paint(void) {
  volatile uint8_t area[DEPTH];
  for (int i = 0; i < DEPTH; i++) area[i] = 0xee;
}

/* Marks the 8-byte pieces of `secrets` that stand anywhere, aligned to four bytes, on the dead stack. */
__attribute__((noinline)) static void search(const uint64_t *secrets, size_t n, uint8_t *found) {
  volatile uint32_t area[DEPTH / 4];
  __asm__ volatile("" : : "r"(area) : "memory");
  for (int i = 0; i + 1 < DEPTH / 4; i++) {
    uint64_t piece = area[i] | (uint64_t)area[i + 1] << 32;
    if (piece == 0xeeeeeeeeeeeeeeeeu || !piece) continue;
    for (size_t j = 0; j < n; j++) found[j] |= piece == secrets[j];
  }
}

/* What must be found: a key on the stack that nobody wipes. */
__attribute__((noinline)) static void forget(fz_aead_job *job) {
  uint8_t copy[4096];
  memcpy(copy + 2048, job->key, FZ_KEY_SIZE);
  __asm__ volatile("" : : "r"(copy) : "memory");
}

void fz_leftovers(fz_aead_job *jobs, size_t n_jobs, int way, const uint64_t *secrets, size_t n, uint8_t *found) {
  paint();
  if (way == 2) forget(jobs);
  else if (way == 1) fz_aead_seal(jobs, n_jobs);
  else fz_aead_open(jobs, n_jobs);
  search(secrets, n, found);
}

void fz_mac_portable(const message *messages, uint32_t n) {
  for (const message *m = messages; m < messages + n; m++) fz_poly1305_aead(m->key, m->text, m->length, m->tag);
}
