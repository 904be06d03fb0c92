#include "fz_aead.h"
#define ROTL(x, n) (((x) << (n)) | ((x) >> (32 - (n))))
#define QR(a, b, c, d) do { a += b; d ^= a; d = ROTL(d, 16); c += d; b ^= c; b = ROTL(b, 12); a += b; d ^= a; d = ROTL(d, 8); c += d; b ^= c; b = ROTL(b, 7); } while (0)
static void block(const uint8_t *key, uint64_t nonce, uint32_t counter, uint8_t out[64]) {
  uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, x[16];
  for (int i = 0; i < 8; i++) s[4 + i] = fz_load_le32(key + 4 * i);
  s[12] = counter; s[13] = 0; s[14] = (uint32_t)nonce; s[15] = (uint32_t)(nonce >> 32);
  memcpy(x, s, sizeof x);
  for (int i = 0; i < 10; i++) {
    QR(x[0], x[4], x[8], x[12]); QR(x[1], x[5], x[9], x[13]); QR(x[2], x[6], x[10], x[14]); QR(x[3], x[7], x[11], x[15]);
    QR(x[0], x[5], x[10], x[15]); QR(x[1], x[6], x[11], x[12]); QR(x[2], x[7], x[8], x[13]); QR(x[3], x[4], x[9], x[14]);
  }
  for (int i = 0; i < 16; i++) fz_store_le32(out + 4 * i, x[i] + s[i]);
}
typedef unsigned __int128 u128;
typedef struct { uint64_t r0, r1, r2, h0, h1, h2, s1, s2, p0, p1; } poly;
static void poly_init(poly *p, const uint8_t k[32]) {
  uint64_t t0 = fz_load_le64(k), t1 = fz_load_le64(k + 8);
  p->r0 = t0 & 0xffc0fffffff; p->r1 = ((t0 >> 44) | (t1 << 20)) & 0xfffffc0ffff; p->r2 = (t1 >> 24) & 0x00ffffffc0f;
  p->s1 = p->r1 * 20; p->s2 = p->r2 * 20; p->h0 = p->h1 = p->h2 = 0; p->p0 = fz_load_le64(k + 16); p->p1 = fz_load_le64(k + 24);
}
static void poly_block(poly *p, const uint8_t m[16]) {
  uint64_t t0 = fz_load_le64(m), t1 = fz_load_le64(m + 8), c;
  uint64_t h0 = p->h0 + (t0 & 0xfffffffffff), h1 = p->h1 + (((t0 >> 44) | (t1 << 20)) & 0xfffffffffff), h2 = p->h2 + ((t1 >> 24) & 0x3ffffffffff) + (1ull << 40);
  u128 d0 = (u128)h0 * p->r0 + (u128)h1 * p->s2 + (u128)h2 * p->s1;
  u128 d1 = (u128)h0 * p->r1 + (u128)h1 * p->r0 + (u128)h2 * p->s2;
  u128 d2 = (u128)h0 * p->r2 + (u128)h1 * p->r1 + (u128)h2 * p->r0;
  c = (uint64_t)(d0 >> 44); p->h0 = (uint64_t)d0 & 0xfffffffffff; d1 += c;
  c = (uint64_t)(d1 >> 44); p->h1 = (uint64_t)d1 & 0xfffffffffff; d2 += c;
  c = (uint64_t)(d2 >> 42); p->h2 = (uint64_t)d2 & 0x3ffffffffff; p->h0 += c * 5;
  c = p->h0 >> 44; p->h0 &= 0xfffffffffff; p->h1 += c;
}
static void poly_finish(poly *p, uint8_t tag[16]) {
  uint64_t h0 = p->h0, h1 = p->h1, h2 = p->h2, c, g0, g1, g2;
  c = h1 >> 44; h1 &= 0xfffffffffff; h2 += c; c = h2 >> 42; h2 &= 0x3ffffffffff; h0 += c * 5; c = h0 >> 44; h0 &= 0xfffffffffff; h1 += c;
  c = h1 >> 44; h1 &= 0xfffffffffff; h2 += c; c = h2 >> 42; h2 &= 0x3ffffffffff; h0 += c * 5; c = h0 >> 44; h0 &= 0xfffffffffff; h1 += c;
  g0 = h0 + 5; c = g0 >> 44; g0 &= 0xfffffffffff; g1 = h1 + c; c = g1 >> 44; g1 &= 0xfffffffffff; g2 = h2 + c - (1ull << 42);
  c = (g2 >> 63) - 1; g0 &= c; g1 &= c; g2 &= c; c = ~c; h0 = (h0 & c) | g0; h1 = (h1 & c) | g1; h2 = (h2 & c) | g2;
  uint64_t t0 = p->p0, t1 = p->p1;
  h0 += t0 & 0xfffffffffff; c = h0 >> 44; h0 &= 0xfffffffffff;
  h1 += (((t0 >> 44) | (t1 << 20)) & 0xfffffffffff) + c; c = h1 >> 44; h1 &= 0xfffffffffff; h2 += ((t1 >> 24) & 0x3ffffffffff) + c; h2 &= 0x3ffffffffff;
  fz_store_le64(tag, h0 | (h1 << 44)); fz_store_le64(tag + 8, (h1 >> 20) | (h2 << 24));
}
static void mac(const fz_aead_job *j, uint8_t tag[16]) {
  uint8_t k[64], last[16]; poly p; uint32_t i;
  block(j->key, j->counter, 0, k); poly_init(&p, k);
  for (i = 0; i + 16 <= j->length; i += 16) poly_block(&p, j->data + i);
  if (i < j->length) { memset(last, 0, 16); memcpy(last, j->data + i, j->length - i); poly_block(&p, last); }
  fz_store_le64(last, 0); fz_store_le64(last + 8, j->length); poly_block(&p, last); poly_finish(&p, tag);
  fz_wipe(k, 64); fz_wipe(&p, sizeof p);
}
static void stream(const fz_aead_job *j) {
  uint8_t k[64];
  for (uint32_t i = 0, c = 1; i < j->length; i += 64, c++) { block(j->key, j->counter, c, k); uint32_t n = j->length - i < 64 ? j->length - i : 64; for (uint32_t b = 0; b < n; b++) j->data[i + b] ^= k[b]; }
  fz_wipe(k, 64);
}
void fz_aead_seal(fz_aead_job *jobs, size_t n) { for (size_t i = 0; i < n; i++) { stream(&jobs[i]); mac(&jobs[i], jobs[i].data + jobs[i].length); } }
void fz_aead_open(fz_aead_job *jobs, size_t n) {
  for (size_t i = 0; i < n; i++) { uint8_t t[16]; mac(&jobs[i], t); jobs[i].ok = (uint32_t)fz_ct_equal(t, jobs[i].data + jobs[i].length, 16); if (jobs[i].ok) stream(&jobs[i]); else memset(jobs[i].data, 0, jobs[i].length); }
}
