#include "fz_csum.h"
#include "fz_ip.h"
#include "fz_nat.h"

#define NOTHING UINT32_MAX
enum { TCP_SYN = 2, TCP_ACK = 16, ICMP_TTL = 20, CHUNK = 32 };

static uint32_t client_of(const fz_nat *n, const fz_batch *b, uint32_t row) {
  uint32_t peer = (uint32_t)b->peer[row];
  if (b->verdict[row] != FZ_FORWARD || b->ip_version[row] == 0 || peer >= n->peers || n->client_of_peer[peer] < 0) return NOTHING;
  return (uint32_t)n->client_of_peer[peer];
}

static uint8_t tcp_flags_of(const fz_batch *b, uint32_t row) {
  return b->protocol[row] == FZ_TCP ? b->slab[b->offset[row] + b->transport[row] + 13] : 0;
}

/* Echo messages have no codes but 0. */
static bool has_key(const fz_batch *b, uint32_t row) {
  if (!(b->flags[row] & FZ_ROW_HAS_KEY)) return false;
  return !(b->flags[row] & FZ_ROW_ICMP) || b->slab[b->offset[row] + b->transport[row] + 1] == 0;
}

/* Rewriting */

/* Adds a difference of sums (fz_csum.h) to what a checksum covers. */
static void patch_checksum(uint8_t *field, uint64_t difference) {
  uint16_t checksum = (uint16_t)~fz_fold((uint64_t)(uint16_t)~fz_load_be16(field) + difference);
  fz_store_be16(field, checksum ? checksum : 0xFFFFu);
}

static uint64_t difference16(uint16_t before, uint16_t after) { return (uint64_t)(uint16_t)~before + after; }

static uint64_t replace_bytes(uint8_t *at, const uint8_t *bytes, size_t size) {
  uint64_t difference = 0;
  for (size_t i = 0; i < size; i += 2) difference += difference16(fz_load_be16(at + i), fz_load_be16(bytes + i));
  memcpy(at, bytes, size);
  return difference;
}

static uint64_t replace_key(uint8_t *at, uint16_t key) {
  uint64_t difference = difference16(fz_load_be16(at), key);
  fz_store_be16(at, key);
  return difference;
}

/* Gives a packet another source or destination and another source key or destination key. */
static void rewrite(fz_batch *b, uint32_t row, bool source, const uint8_t *address, uint16_t key) {
  uint8_t *p = b->slab + b->offset[row], *t = p + b->transport[row];
  bool v4 = b->ip_version[row] == 4;
  size_t size = v4 ? 4 : 16;
  uint64_t of_address = replace_bytes(p + (v4 ? 12 : 8) + (source ? 0 : size), address, size), of_key;
  if (v4) patch_checksum(p + 10, of_address);
  if (b->flags[row] & FZ_ROW_ICMP) {
    of_key = replace_key(t + 4, key);
    patch_checksum(t + 2, v4 ? of_key : of_key + of_address); /* ICMP has no pseudo-header, ICMPv6 has */
    b->source_port[row] = b->destination_port[row] = key;
    return;
  }
  of_key = replace_key(t + (source ? 2 : 0), key);
  if (source) b->destination_port[row] = key;
  else b->source_port[row] = key;
  if (b->protocol[row] == FZ_TCP) patch_checksum(t + 16, of_address + of_key);
  else if (fz_load_be16(t + 6) != 0) patch_checksum(t + 6, of_address + of_key); /* RFC 768: 0 is "none" and stays */
}

/* From the tunnel */

static int32_t live_session(fz_nat *n, int32_t slot, uint8_t tcp_flags, int64_t now) {
  if (slot == FZ_ADDRMAP_NONE) return slot;
  fz_nat_session *s = &n->sessions[slot];
  bool is_over = s->flags & FZ_NAT_RST || (s->flags & FZ_NAT_FIN_OUT && s->flags & FZ_NAT_FIN_IN);
  /* A connection attempt on the ports of one that is over is a new flow: it goes where new flows go. */
  if (fz_nat_is_alive(s, now) && !(is_over && (tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)) return slot;
  fz_nat_end(n, slot);
  return FZ_ADDRMAP_NONE;
}

static bool translate_out(fz_nat *n, fz_batch *b, uint32_t row, uint32_t client, const fz_addrmap_key *key, uint32_t hash, int64_t now) {
  uint8_t tcp_flags = tcp_flags_of(b, row), family = b->ip_version[row];
  fz_nat_flow flow = {fz_row_destination(b, row), b->source_port[row], b->protocol[row], family};
  int32_t slot = has_key(b, row) ? live_session(n, fz_addrmap_find_hashed(&n->inside, key, hash), tcp_flags, now) : FZ_ADDRMAP_NONE;
  if (slot == FZ_ADDRMAP_NONE) {
    fz_addrmap_key proxy = fz_nat_key(client, &(fz_nat_flow){flow.address, 0, 0, family});
    int32_t found = fz_addrmap_find(&n->proxies, &proxy);
    if (found == FZ_ADDRMAP_NONE || !n->translations[found].has_real) return fz_row_punt(b, row, FZ_NO_TRANSLATION), false;
    if (!has_key(b, row)) return fz_row_drop(b, row, FZ_UNSUPPORTED_PROTOCOL), false;
    slot = fz_nat_open(n, client, &flow, n->translations[found].real, now);
    if (slot < 0) return fz_row_drop(b, row, FZ_NAT_EXHAUSTED), false;
  }
  fz_nat_session *s = &n->sessions[slot];
  fz_nat_touch(s, true, tcp_flags, now);
  rewrite(b, row, false, s->real, s->outside);
  n->stats.translated_out++;
  return true;
}

/* The keys of up to CHUNK rows, hashed, and the cache lines they lead to on their way: with many flows the misses of a batch
 * overlap instead of following each other. */
typedef struct chunk {
  fz_addrmap_key key[CHUNK];
  uint32_t hash[CHUNK];
  uint32_t client[CHUNK]; /* NOTHING: not looked up */
} chunk;

static void prefetch(const fz_nat *n, const fz_addrmap *map, chunk *c, uint32_t count) {
  uint32_t last = NOTHING;
  for (uint32_t i = 0; i < count; i++) {
    if (c->client[i] == NOTHING) continue;
    if (last != NOTHING && memcmp(&c->key[last], &c->key[i], sizeof c->key[i]) == 0) {
      c->hash[i] = c->hash[last];
    } else {
      c->hash[i] = fz_addrmap_hash(map, &c->key[i]);
      fz_addrmap_prefetch(map, c->hash[i]);
    }
    last = i;
  }
  for (uint32_t i = 0; i < count; i++) {
    int32_t slot = c->client[i] == NOTHING ? -1 : fz_addrmap_find_hashed(map, &c->key[i], c->hash[i]);
    if (slot >= 0) __builtin_prefetch(&n->sessions[slot], 1);
  }
}

uint32_t fz_nat_from_tunnel(fz_nat *n, fz_batch *b, int64_t now) {
  uint32_t left = 0;
  chunk c;
  fz_nat_sweep(n, now);
  for (uint32_t start = 0; start < b->n; start += CHUNK) {
    uint32_t count = b->n - start < CHUNK ? b->n - start : CHUNK;
    for (uint32_t i = 0; i < count; i++) {
      uint32_t row = start + i;
      c.client[i] = client_of(n, b, row);
      if (c.client[i] == NOTHING) continue;
      if (!fz_nat_is_proxy(fz_row_destination(b, row), b->ip_version[row] == 6)) c.client[i] = NOTHING;
      else c.key[i] = fz_nat_key(c.client[i], &(fz_nat_flow){fz_row_destination(b, row), b->source_port[row], b->protocol[row],
                                                             b->ip_version[row]});
    }
    prefetch(n, &n->inside, &c, count);
    for (uint32_t i = 0; i < count; i++) {
      if (c.client[i] == NOTHING) left += b->verdict[start + i] == FZ_FORWARD;
      else left += translate_out(n, b, start + i, c.client[i], &c.key[i], c.hash[i], now);
    }
  }
  return left;
}

/* To the tunnel */

/* What an ICMP error is about: the flow of its embedded packet, of which 8 bytes of the transport header may be relied on. */
static bool embedded_flow(const fz_batch *b, uint32_t row, uint8_t **packet, fz_ip_headers *h, fz_nat_flow *flow) {
  uint32_t at = b->transport[row] + 8u;
  if (at >= b->length[row]) return false;
  uint8_t *p = b->slab + b->offset[row] + at;
  uint32_t n = b->length[row] - at;
  if (!fz_ip_walk(p, n, h) || h->fragment || h->version != b->ip_version[row] || n - h->transport < 8) return false;
  const uint8_t *t = p + h->transport;
  bool v4 = h->version == 4, echo = h->protocol == (v4 ? FZ_ICMP : FZ_ICMPV6);
  if (echo ? t[0] != (v4 ? 8 : 128) : h->protocol != FZ_TCP && h->protocol != FZ_UDP) return false;
  *packet = p;
  *flow = (fz_nat_flow){p + (v4 ? 16 : 24), fz_load_be16(t + (echo ? 4 : 0)), h->protocol, h->version};
  return true;
}

/* Bytes 4 to 7 of an ICMP error: the MTU of "too big", else nothing that a client could use. */
static uint32_t rest_of_header(const uint8_t *t, bool v4) {
  if (v4) return t[0] == 3 && t[1] == 4 ? fz_load_be16(t + 6) : 0;
  return t[0] == 2 ? fz_load_be32(t + 4) : 0;
}

/* Rebuilds an error right in front of its embedded packet, as if the proxy IP had sent it. */
static void rebuild_error(fz_batch *b, uint32_t row, uint8_t *embedded, const fz_ip_headers *h, const fz_nat_session *s) {
  bool v4 = h->version == 4;
  uint32_t size = v4 ? 4 : 16, head = v4 ? 20 : 40;
  uint8_t *before = b->slab + b->offset[row], *old = before + b->transport[row], destination[16];
  uint32_t rest = rest_of_header(old, v4), left = b->length[row] - (b->transport[row] + 8u), n = head + 8 + left;
  uint8_t type = old[0], code = old[1];
  memcpy(destination, fz_row_destination(b, row), size);
  memcpy(embedded + (v4 ? 16 : 24), s->proxy, size);
  fz_store_be16(embedded + h->transport + (h->protocol == FZ_TCP || h->protocol == FZ_UDP ? 0 : 4), s->inside);
  uint8_t *p = embedded - 8 - head, *t = embedded - 8;
  memset(p, 0, head + 8u);
  p[0] = v4 ? 0x45 : 0x60;
  p[v4 ? 8 : 7] = ICMP_TTL;
  p[v4 ? 9 : 6] = v4 ? FZ_ICMP : FZ_ICMPV6;
  fz_store_be16(p + (v4 ? 2 : 4), (uint16_t)(v4 ? n : n - 40));
  memcpy(p + (v4 ? 12 : 8), s->proxy, size);
  memcpy(p + (v4 ? 16 : 24), destination, size);
  if (v4) {
    p[6] = 0x40; /* don't fragment */
    fz_store_be16(p + 10, fz_inet_csum(p, 20, 0));
  }
  t[0] = type;
  t[1] = code;
  fz_store_be32(t + 4, rest);
  uint64_t pseudo = v4 ? 0 : fz_pseudo_sum(p + 8, 16, FZ_ICMPV6, n - 40);
  fz_store_be16(t + 2, fz_inet_csum(t, n - head, fz_fold(pseudo)));
  b->offset[row] += (uint32_t)(p - before);
  b->length[row] = n;
  b->transport[row] = (uint16_t)head;
  b->protocol[row] = v4 ? FZ_ICMP : FZ_ICMPV6;
  b->ecn[row] = 0;
}

static bool translate_in(fz_nat *n, fz_batch *b, uint32_t row, const fz_addrmap_key *key, uint32_t hash, int64_t now) {
  int32_t slot = fz_addrmap_find_hashed(&n->outside, key, hash);
  if (slot == FZ_ADDRMAP_NONE) return true;
  fz_nat_session *s = &n->sessions[slot];
  if (!fz_nat_is_alive(s, now)) return fz_row_drop(b, row, FZ_EXPIRED_NAT_SESSION), false;
  if (b->flags[row] & FZ_ROW_ICMP_ERROR) {
    uint8_t *embedded;
    fz_ip_headers h;
    fz_nat_flow flow;
    if (!embedded_flow(b, row, &embedded, &h, &flow)) return true; /* cannot be: it gave the key */
    fz_nat_touch(s, false, 0, now);
    rebuild_error(b, row, embedded, &h, s);
    n->stats.errors_in++;
    return true;
  }
  fz_nat_touch(s, false, tcp_flags_of(b, row), now);
  rewrite(b, row, true, s->proxy, s->inside);
  n->stats.translated_in++;
  return true;
}

/* The outside that a packet from TUN belongs to, if it can belong to one. */
static bool outside_of(const fz_nat *n, const fz_batch *b, uint32_t row, uint32_t client, fz_addrmap_key *key) {
  const uint8_t *source = fz_row_source(b, row);
  const fz_addr *own = b->ip_version[row] == 4 ? &n->own_v4 : &n->own_v6;
  bool is_error = (b->flags[row] & FZ_ROW_ICMP_ERROR) != 0;
  if (n->clients[client].live.count + n->clients[client].ended.count == 0) return false;
  /* The kernel's own errors (time exceeded, too big for the next link) may be about a translated flow. */
  if (!is_error && own->family && memcmp(own->ip, source, own->family == 4 ? 4 : 16) == 0) return false;
  fz_nat_flow flow = {source, b->destination_port[row], b->protocol[row], b->ip_version[row]};
  if (is_error) {
    uint8_t *embedded;
    fz_ip_headers h;
    if (!embedded_flow(b, row, &embedded, &h, &flow)) return false;
  } else if (!has_key(b, row)) {
    return false;
  }
  *key = fz_nat_key(client, &flow);
  return true;
}

uint32_t fz_nat_to_tunnel(fz_nat *n, fz_batch *b, int64_t now) {
  uint32_t left = 0;
  chunk c;
  fz_nat_sweep(n, now);
  for (uint32_t start = 0; start < b->n; start += CHUNK) {
    uint32_t count = b->n - start < CHUNK ? b->n - start : CHUNK;
    for (uint32_t i = 0; i < count; i++) {
      c.client[i] = client_of(n, b, start + i);
      if (c.client[i] != NOTHING && !outside_of(n, b, start + i, c.client[i], &c.key[i])) c.client[i] = NOTHING;
    }
    prefetch(n, &n->outside, &c, count);
    for (uint32_t i = 0; i < count; i++) {
      if (c.client[i] == NOTHING) left += b->verdict[start + i] == FZ_FORWARD;
      else left += translate_in(n, b, start + i, &c.key[i], c.hash[i], now);
    }
  }
  return left;
}
