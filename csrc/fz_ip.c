#include "fz_ip.h"

#include "fz_csum.h"

enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT_HEADER = 44, DESTINATION_OPTIONS = 60 };

/* The authentication header counts its length in 32-bit words less two (RFC 4302 section 2.2). */
static bool skip_authentication(const uint8_t *p, uint32_t n, uint32_t *at, uint8_t *protocol) {
  if (n - *at < 12) return false;
  uint32_t size = ((uint32_t)p[*at + 1] + 2u) * 4u;
  if (size < 12 || size > n - *at) return false;
  *protocol = p[*at];
  *at += size;
  return true;
}

static bool walk_v4(const uint8_t *p, uint32_t n, fz_ip_headers *out) {
  if (n < 20) return false;
  uint32_t at = (uint32_t)(p[0] & 15u) * 4u;
  if (at < 20 || at > n) return false;
  out->version = 4;
  out->protocol = p[9];
  out->fragment = (fz_load_be16(p + 6) & 0x3FFFu) != 0; /* more fragments, or an offset */
  if (out->protocol == FZ_AH && !out->fragment && !skip_authentication(p, n, &at, &out->protocol)) return false;
  out->transport = (uint16_t)at;
  return true;
}

static bool walk_v6(const uint8_t *p, uint32_t n, fz_ip_headers *out) {
  if (n < 40) return false;
  uint32_t at = 40;
  uint8_t protocol = p[6];
  out->version = 6;
  out->fragment = false;
  for (bool first = true;; first = false) {
    if (protocol == FZ_AH) {
      if (!skip_authentication(p, n, &at, &protocol)) return false;
      continue;
    }
    bool is_fragment = protocol == FRAGMENT_HEADER;
    if (!is_fragment && protocol != HOP_BY_HOP && protocol != ROUTING && protocol != DESTINATION_OPTIONS) break;
    if (protocol == HOP_BY_HOP && !first) return false; /* RFC 8200 section 4.1: only directly behind the IPv6 header */
    if (n - at < 8) return false;
    uint32_t size = is_fragment ? 8u : ((uint32_t)p[at + 1] + 1u) * 8u;
    if (size > n - at) return false;
    if (is_fragment && (fz_load_be16(p + at + 2) & 0xFFF9u) != 0) {
      out->fragment = true;
      break;
    }
    protocol = p[at];
    at += size;
  }
  out->protocol = protocol;
  out->transport = (uint16_t)at;
  return true;
}

bool fz_ip_walk(const uint8_t *p, uint32_t n, fz_ip_headers *out) {
  if (n == 0) return false;
  if (n > 65535) n = 65535; /* offsets are 16 bits wide */
  if (p[0] >> 4 == 4) return walk_v4(p, n, out);
  if (p[0] >> 4 == 6) return walk_v6(p, n, out);
  return false;
}

/* Bytes the IP header claims for the packet, 0 when there is no complete IP header. */
static uint32_t claimed_length(const uint8_t *p, uint32_t n) {
  if (n >= 20 && p[0] >> 4 == 4) return fz_load_be16(p + 2);
  if (n >= 40 && p[0] >> 4 == 6) return 40u + fz_load_be16(p + 4);
  return 0;
}

static bool parse_icmp(fz_batch *b, uint32_t row, const uint8_t *t, uint32_t n, bool v6) {
  if (n < 8) return false;
  bool echo = v6 ? t[0] == 128 || t[0] == 129 : t[0] == 8 || t[0] == 0;
  bool error = v6 ? t[0] >= 1 && t[0] <= 3 : t[0] == 3 || t[0] == 11;
  b->flags[row] = (uint8_t)(FZ_ROW_ICMP | (echo ? FZ_ROW_HAS_KEY : 0u) | (error ? FZ_ROW_ICMP_ERROR : 0u));
  if (echo) b->source_port[row] = b->destination_port[row] = fz_load_be16(t + 4);
  return true;
}

static bool parse_transport(fz_batch *b, uint32_t row, const uint8_t *p, uint32_t length, const fz_ip_headers *h) {
  const uint8_t *t = p + h->transport;
  uint32_t n = length - h->transport;
  b->flags[row] = 0;
  b->source_port[row] = b->destination_port[row] = 0;
  switch (h->protocol) {
  case FZ_TCP:
    if (n < 20 || t[12] >> 4 < 5 || (uint32_t)(t[12] >> 4) * 4u > n) return false;
    break;
  case FZ_UDP:
    if (n < 8 || fz_load_be16(t + 4) != n) return false;
    break;
  case FZ_ICMP:
    return h->version == 4 && parse_icmp(b, row, t, n, false);
  case FZ_ICMPV6:
    return h->version == 6 && parse_icmp(b, row, t, n, true);
  default:
    return true;
  }
  b->flags[row] = FZ_ROW_HAS_KEY;
  b->source_port[row] = fz_load_be16(t);
  b->destination_port[row] = fz_load_be16(t + 2);
  return true;
}

static bool is_control(const uint8_t *p, uint32_t length) {
  static const uint8_t unspecified[32];
  return p[0] >> 4 == 6 && p[6] == FZ_CONTROL && length >= 48 && memcmp(p + 8, unspecified, 32) == 0;
}

static uint8_t ecn_of(const uint8_t *p) { return p[0] >> 4 == 4 ? p[1] & 3u : (uint8_t)((p[1] >> 4) & 3u); }

/* An outer CE mark is carried into an ECN-capable packet; every other pair leaves the packet as it is. */
static void merge_ecn(uint8_t *p, uint8_t outer) {
  uint8_t inner = ecn_of(p);
  if (outer != 3 || inner == 0 || inner == 3) return;
  if (p[0] >> 4 == 4) {
    uint16_t before = fz_load_be16(p);
    p[1] |= 3u;
    fz_store_be16(p + 10, fz_csum_update16(fz_load_be16(p + 10), before, fz_load_be16(p)));
  } else {
    p[1] |= 0x30u;
  }
}

static bool parse_row(fz_batch *b, uint32_t row, bool from_tunnel) {
  uint8_t *p = b->slab + b->offset[row];
  uint32_t n = b->length[row], length = claimed_length(p, n);
  fz_ip_headers h;
  if (from_tunnel && length != 0 && length < n) b->length[row] = n = length;
  if (n > FZ_MAX_PACKET) return fz_row_drop(b, row, FZ_OVERSIZED), false;
  if (length != n || !fz_ip_walk(p, n, &h)) return fz_row_drop(b, row, FZ_MALFORMED_PACKET), false;
  if (h.fragment) return fz_row_drop(b, row, FZ_FRAGMENT), false;
  if (!parse_transport(b, row, p, n, &h)) return fz_row_drop(b, row, FZ_MALFORMED_PACKET), false;
  b->ip_version[row] = h.version;
  b->protocol[row] = h.protocol;
  b->transport[row] = h.transport;
  if (!from_tunnel) {
    b->ecn[row] = ecn_of(p);
    return true;
  }
  if (is_control(p, n)) return fz_row_punt(b, row, FZ_CONTROL_PACKET), false;
  merge_ecn(p, b->ecn[row]);
  return true;
}

uint32_t fz_ip_parse_batch(fz_batch *b, bool from_tunnel) {
  uint32_t left = 0;
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] == FZ_FORWARD && parse_row(b, row, from_tunnel)) left++;
  }
  return left;
}
