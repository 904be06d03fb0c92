#include "fz_split.h"

#include "fz_csum.h"
#include "fz_ip.h"

_Static_assert(sizeof(fz_vnet) == FZ_VNET_SIZE, "the virtio-net header has no padding");

/* What the segments of one super-packet share, worked out once. */
typedef struct super_packet {
  const uint8_t *p;    /* IP header */
  uint32_t n;          /* bytes of the whole packet */
  uint32_t transport;  /* offset of the transport header */
  uint32_t header;     /* bytes of all headers */
  uint32_t gso_size;
  uint32_t segments;
  bool v4, tcp;
  uint64_t ip_sum;     /* IPv4 header without total length, identification and checksum */
  uint64_t base_sum;   /* pseudo-header without the length, and the transport header without what changes */
} super_packet;

static uint64_t shared_transport_sum(const super_packet *s) {
  const uint8_t *t = s->p + s->transport;
  size_t size = s->v4 ? 4 : 16;
  uint64_t sum = fz_pseudo_sum(s->p + (s->v4 ? 12 : 8), size, s->tcp ? FZ_TCP : FZ_UDP, 0);
  sum += fz_load_be32(t); /* ports: the two halves add up when folded */
  if (!s->tcp) return sum;
  /* acknowledgement; window; urgent pointer and options: all but sequence number, flags word and checksum */
  return sum + fz_load_be32(t + 8) + fz_load_be16(t + 14) + fz_sum_header(t + 18, s->header - s->transport - 18);
}

/* Reads the headers of a super-packet. False: they contradict the virtio-net header or the length. */
static bool read_super(const uint8_t *p, uint32_t n, const fz_vnet *v, super_packet *s) {
  fz_ip_headers h;
  if (v->gso_size == 0 || !fz_ip_walk(p, n, &h) || h.fragment) return false;
  bool tcp = v->gso_type != FZ_GSO_UDP;
  if (tcp && h.version != (v->gso_type == FZ_GSO_TCPV4 ? 4 : 6)) return false;
  if (h.protocol != (tcp ? FZ_TCP : FZ_UDP)) return false;
  uint32_t left = n - h.transport, size = 8;
  if (left < (tcp ? 20u : 8u)) return false;
  if (tcp) size = (uint32_t)(p[h.transport + 12] >> 4) * 4u;
  if (size < (tcp ? 20u : 8u) || size >= left) return false;
  uint32_t payload = left - size;
  *s = (super_packet){.p = p, .n = n, .transport = h.transport, .header = h.transport + size, .gso_size = v->gso_size,
                      .segments = (payload + v->gso_size - 1) / v->gso_size, .v4 = h.version == 4, .tcp = tcp};
  if (s->segments > FZ_MAX_SPLIT) return false;
  s->base_sum = shared_transport_sum(s);
  if (s->v4) {
    s->ip_sum = fz_load_be16(p) + (uint64_t)fz_load_be16(p + 6) + fz_load_be16(p + 8) +
                fz_sum_header(p + 12, (size_t)(p[0] & 15) * 4 - 12);
  }
  return true;
}

static void finish_ip(const super_packet *s, uint8_t *out, uint32_t index, uint32_t n) {
  if (!s->v4) {
    fz_store_be16(out + 4, (uint16_t)(n - 40));
    return;
  }
  uint16_t id = (uint16_t)(fz_load_be16(s->p + 4) + index);
  fz_store_be16(out + 2, (uint16_t)n);
  fz_store_be16(out + 4, id);
  fz_store_be16(out + 10, (uint16_t)~fz_fold(s->ip_sum + n + id));
}

static void finish_tcp(const super_packet *s, uint8_t *t, uint32_t index, uint64_t sum) {
  uint32_t sequence = fz_load_be32(t + 4) + index * s->gso_size;
  if (index + 1 < s->segments) t[13] &= (uint8_t)~0x09u; /* FIN and PSH belong to the last */
  fz_store_be32(t + 4, sequence);
  fz_store_be16(t + 16, (uint16_t)~fz_fold(sum + sequence + fz_load_be16(t + 12)));
}

static void finish_udp(uint8_t *t, uint32_t n, uint64_t sum) {
  uint16_t checksum = (uint16_t)~fz_fold(sum + n);
  fz_store_be16(t + 4, (uint16_t)n);
  fz_store_be16(t + 6, checksum ? checksum : 0xFFFFu);
}

/* Writes segment `index` to out and returns its length. */
static uint32_t write_segment(const super_packet *s, uint8_t *out, uint32_t index) {
  uint32_t at = s->header + index * s->gso_size;
  uint32_t payload = s->n - at < s->gso_size ? s->n - at : s->gso_size, n = s->header + payload;
  memcpy(out, s->p, s->header);
  uint64_t sum = s->base_sum + fz_copy_sum(out + s->header, s->p + at, payload) + (n - s->transport);
  finish_ip(s, out, index, n);
  if (s->tcp) finish_tcp(s, out + s->transport, index, sum);
  else finish_udp(out + s->transport, n - s->transport, sum);
  return n;
}

/* Copies a packet whose transport checksum was left to us: the field holds the pseudo-header's sum. */
static void copy_and_complete(uint8_t *out, const uint8_t *p, uint32_t n, const fz_vnet *v) {
  uint32_t field = (uint32_t)v->csum_start + v->csum_offset;
  memcpy(out, p, v->csum_start);
  uint16_t checksum = (uint16_t)~fz_copy_sum(out + v->csum_start, p + v->csum_start, n - v->csum_start);
  if (checksum == 0 && v->csum_offset == 6) checksum = 0xFFFFu; /* UDP */
  fz_store_be16(out + field, checksum);
}

static void refuse(fz_batch *b, uint32_t slot, uint8_t reason) {
  fz_row_init(b, b->n++, slot, 0, 0);
  fz_row_drop(b, b->n - 1, reason);
}

/* One read: its packet and virtio-net header, and 0 or the reason it is refused. */
static uint8_t check_read(const fz_ring *ring, uint32_t slot, fz_vnet *v, super_packet *s) {
  uint32_t offset = ring->offset[slot], n = ring->length[slot];
  if (offset < FZ_VNET_SIZE || offset > ring->slot_size || n == 0 || n > ring->slot_size - offset) return FZ_MALFORMED_OFFLOAD;
  const uint8_t *base = ring->slab + (size_t)slot * ring->slot_size;
  *v = fz_vnet_load(base);
  *s = (super_packet){.p = base + offset, .n = n, .segments = 1};
  if (v->flags & FZ_VNET_NEEDS_CSUM && (v->csum_offset & 1 || (uint32_t)v->csum_start + v->csum_offset + 2u > n)) {
    return FZ_MALFORMED_OFFLOAD;
  }
  if (v->gso_type == FZ_GSO_NONE) return n > FZ_MAX_PACKET ? FZ_OVERSIZED : 0;
  if (v->gso_type != FZ_GSO_TCPV4 && v->gso_type != FZ_GSO_TCPV6 && v->gso_type != FZ_GSO_UDP) return FZ_MALFORMED_OFFLOAD;
  if (n > 65535 || !read_super(base + offset, n, v, s)) return FZ_MALFORMED_OFFLOAD;
  return s->header + (s->segments > 1 ? s->gso_size : s->n - s->header) > FZ_MAX_PACKET ? FZ_OVERSIZED : 0;
}

static void split_read(fz_batch *b, uint32_t slot, const fz_vnet *v, const super_packet *s, uint64_t *used) {
  for (uint32_t index = 0; index < s->segments; index++) {
    uint64_t at = *used + FZ_SEAL_HEAD;
    uint8_t *out = b->slab + at;
    uint32_t n = s->n;
    if (v->gso_type != FZ_GSO_NONE) n = write_segment(s, out, index);
    else if (v->flags & FZ_VNET_NEEDS_CSUM) copy_and_complete(out, s->p, n, v);
    else memcpy(out, s->p, n);
    fz_row_init(b, b->n++, slot, (uint32_t)at, n);
    *used = at + n + FZ_SEAL_TAIL;
  }
}

uint32_t fz_split_batch(fz_ring *ring, uint32_t entries, fz_batch *b, uint64_t *used) {
  uint32_t ready = fz_ring_ready(ring), slot = fz_ring_tail(ring), taken = 0;
  uint64_t room = b->slab_size <= UINT32_MAX ? b->slab_size : UINT32_MAX; /* offsets are 32 bits wide */
  if (entries > ready) entries = ready;
  for (; taken < entries; taken++, slot = (slot + 1) & (ring->slots - 1u)) {
    fz_vnet v = {0};
    super_packet s = {0};
    uint8_t reason = check_read(ring, slot, &v, &s);
    uint32_t rows = reason ? 1u : s.segments;
    uint64_t bytes = reason ? 0 : s.n + (uint64_t)(rows - 1) * s.header + (uint64_t)rows * (FZ_SEAL_HEAD + FZ_SEAL_TAIL);
    if (rows > b->capacity - b->n || bytes > room - *used) {
      if (b->n != 0) break;
      reason = FZ_BATCH_FULL;
    }
    if (reason) refuse(b, slot, reason);
    else split_read(b, slot, &v, &s, used);
  }
  return taken;
}

static bool same_key(const fz_batch *b, uint32_t a, uint32_t c) {
  return memcmp(&b->remote[a], &b->remote[c], sizeof *b->remote) == 0 &&
         memcmp(&b->local[a], &b->local[c], sizeof *b->local) == 0 && b->socket[a] == b->socket[c] && b->ecn[a] == b->ecn[c] &&
         b->channel[a] == b->channel[c];
}

static uint32_t hash_key(const fz_batch *b, uint32_t row) {
  uint64_t hash = ((uint64_t)b->channel[row] << 32) ^ ((uint64_t)b->socket[row] << 16) ^ b->ecn[row];
  for (int side = 0; side < 2; side++) {
    uint64_t words[3] = {0, 0, 0};
    memcpy(words, side ? &b->local[row] : &b->remote[row], sizeof(fz_addr));
    for (int i = 0; i < 3; i++) hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
  }
  return (uint32_t)(hash >> 32);
}

/* The place of the row's key in the table: its most recent run, or -1. */
static int32_t *find_run(const fz_batch *b, const fz_run *runs, uint32_t row, int32_t *table, uint32_t mask) {
  for (uint32_t at = hash_key(b, row) & mask;; at = (at + 1) & mask) {
    if (table[at] < 0 || same_key(b, (uint32_t)runs[table[at]].first, row)) return &table[at];
  }
}

/* UDP_SEGMENT's limits: datagrams per send, and bytes of one send with the largest IP header and the UDP header (#8754, #9088). */
static bool run_takes(const fz_batch *b, const fz_run *run, uint32_t n) {
  uint32_t limit = 65535u - (b->remote[run->first].family == 6 ? 48u : 68u);
  return n <= run->stride && run->total == run->count * run->stride && run->count < FZ_MAX_GSO_SEGMENTS &&
         (run->count + 1) * run->stride <= limit;
}

uint32_t fz_group_runs(fz_batch *b, fz_run *runs, uint32_t capacity, int32_t *table, uint32_t table_size) {
  uint32_t count = 0;
  int32_t *place = NULL;
  int32_t last = -1;
  memset(table, 0xFF, (size_t)table_size * sizeof *table);
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] != FZ_FORWARD) continue;
    uint32_t n = b->prefix_len[row] + b->length[row] - b->skip[row];
    if (last < 0 || !same_key(b, (uint32_t)last, row)) place = find_run(b, runs, row, table, table_size - 1u);
    last = (int32_t)row;
    b->next[row] = -1;
    if (*place >= 0 && run_takes(b, &runs[*place], n)) {
      fz_run *run = &runs[*place];
      b->next[run->last] = (int32_t)row;
      run->last = (int32_t)row;
      run->count++;
      run->total += n;
      continue;
    }
    if (count == capacity) {
      fz_row_drop(b, row, FZ_BATCH_FULL);
      last = -1;
      continue;
    }
    runs[count] = (fz_run){.first = (int32_t)row, .last = (int32_t)row, .count = 1, .stride = n, .total = n};
    *place = (int32_t)count++;
  }
  return count;
}
