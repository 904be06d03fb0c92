/* What bench_aead.py compares with: libcrypto as a program of its own, so that OPENSSL_ia32cap can differ between two of them, and
 * a clock for both sides. One context per direction is kept, as whoever holds a session would; a packet is then four calls.
 *
 * As a program it reads lines `size packets repeats` and answers with nanoseconds per packet to seal and to open. Size 0 stands for
 * the sizes of MIXED in turn. */
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "fz_aead.h"

enum { HEADER = 16, WARM_UP_NS = 2000000 /* does not count: caches, and the clock, which wide vectors change */ };

static const int MIXED[] = {64, 1424, 576, 1280}, LONGEST = 1424;

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Nanoseconds of one core cycle: a chain of multiplications, of three cycles each. */
double cycle_ns(void) {
  uint64_t x = 3;
  double begin = now_ns();
  for (int i = 0; i < 2000; i++) __asm__ volatile("imul %0, %0\nimul %0, %0\nimul %0, %0\nimul %0, %0" : "+r"(x));
  return (now_ns() - begin) / (2000 * 4 * 3);
}

/* Ours: nanoseconds per packet to seal and to open, through the functions that the compiled module exports. */
void time_jobs(void (*seal)(fz_aead_job *, size_t), size_t (*open)(fz_aead_job *, size_t), fz_aead_job *jobs, int n,
               int repeats, double out[2]) {
  double warm = now_ns() + WARM_UP_NS;
  while (now_ns() < warm) {
    seal(jobs, (size_t)n);
    open(jobs, (size_t)n);
  }
  out[0] = out[1] = 0;
  for (int i = 0; i < repeats; i++) {
    double begin = now_ns();
    seal(jobs, (size_t)n);
    double middle = now_ns();
    if (open(jobs, (size_t)n) != (size_t)n) abort();
    out[1] += now_ns() - middle;
    out[0] += middle - begin;
  }
  out[0] /= (double)repeats * n;
  out[1] /= (double)repeats * n;
}

static int crypt(EVP_CIPHER_CTX *context, int is_seal, uint8_t *packet, int size, uint64_t counter) {
  uint8_t nonce[12] = {0}, *tag = packet + size;
  int written;
  memcpy(nonce + 4, &counter, 8);
  int ok = EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, -1);
  if (!is_seal) ok &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, FZ_TAG_SIZE, tag);
  ok &= EVP_CipherUpdate(context, packet, &written, packet, size) & EVP_CipherFinal_ex(context, tag, &written);
  if (is_seal) ok &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, FZ_TAG_SIZE, tag);
  return ok;
}

static double time_pass(EVP_CIPHER_CTX *context, int is_seal, uint8_t *slab, int size, int n) {
  size_t stride = (size_t)(size ? size : LONGEST) + HEADER + FZ_TAG_SIZE;
  double begin = now_ns();
  for (int i = 0; i < n; i++) {
    if (!crypt(context, is_seal, slab + i * stride + HEADER, size ? size : MIXED[i % 4], (uint64_t)i)) abort();
  }
  return now_ns() - begin;
}

int main(void) {
  uint8_t key[FZ_KEY_SIZE] = {1};
  EVP_CIPHER_CTX *seal = EVP_CIPHER_CTX_new(), *open = EVP_CIPHER_CTX_new();
  EVP_CipherInit_ex(seal, EVP_chacha20_poly1305(), NULL, key, NULL, 1);
  EVP_CipherInit_ex(open, EVP_chacha20_poly1305(), NULL, key, NULL, 0);
  for (int size, n, repeats; scanf("%d %d %d", &size, &n, &repeats) == 3;) {
    uint8_t *slab = calloc((size_t)n, (size_t)(size ? size : LONGEST) + HEADER + FZ_TAG_SIZE);
    double sealing = 0, opening = 0;
    for (double warm = now_ns() + WARM_UP_NS; now_ns() < warm;) {
      time_pass(seal, 1, slab, size, n);
      time_pass(open, 0, slab, size, n);
    }
    for (int i = 0; i < repeats; i++) {
      sealing += time_pass(seal, 1, slab, size, n);
      opening += time_pass(open, 0, slab, size, n);
    }
    printf("%f %f\n", sealing / repeats / n, opening / repeats / n);
    fflush(stdout);
    free(slab);
  }
  return 0;
}
