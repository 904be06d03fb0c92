/* Poly1305 by arithmetic on bits, and one run of an implementation in lanes against it. Whoever includes this has included the
 * header of the implementation: its message, authenticate and authenticate_alone. */
#ifndef FZ_SLOW_POLY_H
#define FZ_SLOW_POLY_H

#include <stdbool.h>

#include "fz_poly1305.h"
#include "fz_test.h"

enum { ROUNDS = 2000, LONGEST = 700 };

/* A number below 2^192. */
typedef struct number {
  uint64_t w[3];
} number;

static number plus(number a, number b) {
  fz_u128 sum = 0;
  for (int i = 0; i < 3; i++) {
    sum += (fz_u128)a.w[i] + b.w[i];
    a.w[i] = (uint64_t)sum;
    sum >>= 64;
  }
  return a;
}

/* Modulo 2^130 - 5, for numbers below 2^192: what is above bit 130 counts five times. */
static number reduce(number a) {
  for (int i = 0; i < 2; i++) {
    uint64_t above = a.w[2] >> 2;
    a.w[2] &= 3;
    fz_u128 five = (fz_u128)above * 5;
    a = plus(a, (number){{(uint64_t)five, (uint64_t)(five >> 64), 0}});
  }
  number less = plus(a, (number){{5, 0, 0}});
  if (less.w[2] < 4) return a;
  less.w[2] &= 3;
  return less;
}

static number times(number a, number b) {
  number product = {{0}};
  for (int bit = 129; bit >= 0; bit--) {
    product = reduce(plus(product, product));
    if (b.w[bit / 64] >> bit % 64 & 1) product = reduce(plus(product, a));
  }
  return product;
}

static void slow_tag(const uint8_t key[32], const uint8_t *text, uint32_t length, uint8_t tag[16]) {
  number r = {{fz_load_le64(key) & 0x0ffffffc0fffffff, fz_load_le64(key + 8) & 0x0ffffffc0ffffffc, 0}}, h = {{0}};
  uint8_t block[16];
  for (uint32_t at = 0; at < length; at += 16) {
    memset(block, 0, 16);
    memcpy(block, text + at, length - at < 16 ? length - at : 16);
    h = times(reduce(plus(h, (number){{fz_load_le64(block), fz_load_le64(block + 8), 1}})), r);
  }
  h = times(reduce(plus(h, (number){{0, length, 1}})), r);
  h = plus(h, (number){{fz_load_le64(key + 16), fz_load_le64(key + 24), 0}});
  fz_store_le64(tag, h.w[0]);
  fz_store_le64(tag + 8, h.w[1]);
}

/* Mostly bytes at the ends of their range. */
static void fill_extreme(uint64_t *state, uint8_t *p, size_t n) {
  uint32_t kind = test_random(state) % 5;
  for (size_t i = 0; i < n; i++) {
    uint32_t dice = test_random(state);
    p[i] = (uint8_t)(kind == 0 ? 0xff : kind == 1 ? 0 : kind == 2 ? dice : dice % 8 ? 0xff : dice % 3);
  }
}

/* A number of messages of equal or unequal lengths: together, each alone, and by the scalar code. */
static void compare_round(uint64_t *state, uint32_t n) {
  message m[MAC_GROUP];
  uint8_t *texts[MAC_GROUP], keys[MAC_GROUP][32], tags[MAC_GROUP][16], expected[16];
  uint32_t length[MAC_GROUP], same = test_random(state) % LONGEST;
  bool differ = test_random(state) % 2;
  for (uint32_t i = 0; i < n; i++) {
    length[i] = differ ? test_random(state) % LONGEST : same;
    texts[i] = test_alloc(length[i], 1);
    fill_extreme(state, texts[i], length[i]);
    fill_extreme(state, keys[i], 32);
    if (test_random(state) % 4 == 0) { /* r = 1 or 2: h stays next to the text, so also just below the prime */
      memset(keys[i], 0, 16);
      keys[i][0] = (uint8_t)(1 + test_random(state) % 2);
    }
    m[i] = (message){texts[i], keys[i], tags[i], length[i]};
  }
  authenticate(m, n);
  for (uint32_t i = 0; i < n; i++) {
    slow_tag(keys[i], texts[i], length[i], expected);
    CHECK(memcmp(tags[i], expected, 16) == 0);
    fz_poly1305_aead(keys[i], texts[i], length[i], tags[i]);
    CHECK(memcmp(tags[i], expected, 16) == 0);
    message alone = {texts[i], keys[i], tags[i], length[i]};
    memset(tags[i], 0, 16);
    authenticate_alone(&alone);
    CHECK(memcmp(tags[i], expected, 16) == 0);
    free(texts[i]);
  }
}

static void compare(void) {
  uint64_t state = 5;
  for (int round = 0; round < ROUNDS; round++) {
    uint32_t n = 1 + test_random(&state) % MAC_GROUP;
    compare_round(&state, round % 16 ? 1 + n % (MAC_LANES + 1) : n);
  }
}

#endif
