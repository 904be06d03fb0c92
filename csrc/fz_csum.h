/* Internet checksum (RFC 1071), incremental update (RFC 1624 equation 3), and both while copying.
 *
 * A "sum" here is the one's complement sum of big-endian 16-bit words as a number in host byte order, folded to 16 bits
 * (0..0xFFFF, not complemented). Sums of pieces add up by plain addition and one fz_fold, provided every piece but the last has
 * an even length. A "checksum" is the complement of a sum: what stands in a header.
 * Pointers need no alignment. n may be 0, then the pointers are not looked at.
 */
#ifndef FZ_CSUM_H
#define FZ_CSUM_H

#include "fz_common.h"

static inline uint16_t fz_fold(uint64_t sum) {
  sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
  sum = (sum & 0xFFFFFFFFu) + (sum >> 32);
  sum = (sum & 0xFFFFu) + (sum >> 16);
  sum = (sum & 0xFFFFu) + (sum >> 16);
  sum = (sum & 0xFFFFu) + (sum >> 16);
  return (uint16_t)sum;
}

/* Sum of n bytes; an odd last byte is padded with a zero behind it. */
uint16_t fz_sum(const uint8_t *p, size_t n);

/* Copies n bytes and returns their sum in one pass. The regions must not overlap. */
uint16_t fz_copy_sum(uint8_t *restrict out, const uint8_t *restrict in, size_t n);

/* Sum of a few even-sized bytes (headers): short enough that a call costs more than the loop. */
static inline uint64_t fz_sum_header(const uint8_t *p, size_t n) {
  uint64_t sum = 0;
  for (size_t i = 0; i + 1 < n; i += 2) sum += fz_load_be16(p + i);
  return sum;
}

static inline uint16_t fz_inet_csum(const uint8_t *p, size_t n, uint32_t initial) {
  return (uint16_t)~fz_fold((uint64_t)initial + fz_sum(p, n));
}

/* The checksum after one 16-bit word of what it covers changed from `before` to `after` (RFC 1624 equation 3). */
static inline uint16_t fz_csum_update16(uint16_t checksum, uint16_t before, uint16_t after) {
  return (uint16_t)~fz_fold((uint64_t)(uint16_t)~checksum + (uint16_t)~before + after);
}

/* The same for n bytes (even) at an even distance from the start of what the checksum covers. */
uint16_t fz_csum_update(uint16_t checksum, const uint8_t *before, const uint8_t *after, size_t n);

/* UDP: 0 means "no checksum" and stays (RFC 768), a computed 0 is written as 0xFFFF. */
static inline uint16_t fz_csum_update16_udp(uint16_t checksum, uint16_t before, uint16_t after) {
  if (checksum == 0) return 0;
  checksum = fz_csum_update16(checksum, before, after);
  return checksum == 0 ? 0xFFFFu : checksum;
}

/* Sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of the addresses at p, size bytes each, side by side. */
static inline uint64_t fz_pseudo_sum(const uint8_t *addresses, size_t size, uint8_t protocol, uint32_t length) {
  return fz_sum_header(addresses, 2 * size) + protocol + (length >> 16) + (length & 0xFFFFu);
}

#endif
