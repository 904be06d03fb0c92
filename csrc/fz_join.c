#include "fz_join.h"

#include "fz_csum.h"
#include "fz_ip.h"

enum { TCP_PSH = 0x08, TCP_ACK = 0x10 };

static inline const uint8_t *packet(const fz_batch *b, int32_t row) { return b->slab + b->offset[row]; }

/* A packet that belongs to a flow: merging may not step over it. */
static bool has_flow(const fz_batch *b, uint32_t row) {
  return (b->protocol[row] == FZ_TCP || b->protocol[row] == FZ_UDP) && (b->flags[row] & FZ_ROW_HAS_KEY) &&
         b->length[row] >= (b->ip_version[row] == 4 ? 28u : 48u);
}

/* Bytes of all headers of a candidate, 0 when the packet must stay as it is. */
static uint32_t candidate_header(const fz_batch *b, uint32_t row) {
  if (b->transport[row] != (b->ip_version[row] == 4 ? 20u : 40u)) return 0;
  const uint8_t *t = packet(b, (int32_t)row) + b->transport[row];
  uint32_t header = b->transport[row] + 8u;
  if (b->protocol[row] == FZ_TCP) {
    if (b->length[row] < b->transport[row] + 20u) return 0;
    if ((t[13] & ~TCP_PSH) != TCP_ACK || (t[12] & 15u) || t[12] < 0x50) return 0; /* low bits: reserved and AE, flags too */
    header = b->transport[row] + (uint32_t)(t[12] >> 4) * 4u;
  } else if (fz_load_be16(t + 6) == 0) {
    return 0; /* no checksum: splitting would have to invent one */
  }
  return header < b->length[row] ? header : 0;
}

static bool same_flow(const fz_batch *b, int32_t a, int32_t c) {
  return b->ip_version[a] == b->ip_version[c] && b->protocol[a] == b->protocol[c] && b->source_port[a] == b->source_port[c] &&
         b->destination_port[a] == b->destination_port[c] &&
         memcmp(fz_row_source(b, (uint32_t)a), fz_row_source(b, (uint32_t)c), b->ip_version[a] == 4 ? 8 : 32) == 0;
}

static uint32_t hash_flow(const fz_batch *b, uint32_t row) {
  uint64_t words[4] = {0, 0, 0, 0}, hash = ((uint64_t)b->protocol[row] << 32) ^ ((uint64_t)b->source_port[row] << 16) ^
                                           b->destination_port[row];
  memcpy(words, fz_row_source(b, row), b->ip_version[row] == 4 ? 8 : 32);
  for (int i = 0; i < 4; i++) hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u, hash ^= hash >> 29;
  return (uint32_t)(hash >> 32);
}

/* The place of the row's flow in the table: its most recent run, or -1. */
static int32_t *find_run(const fz_batch *b, const fz_run *runs, uint32_t row, int32_t *table, uint32_t mask) {
  for (uint32_t at = hash_flow(b, row) & mask;; at = (at + 1) & mask) {
    if (table[at] < 0 || same_flow(b, runs[table[at]].first, (int32_t)row)) return &table[at];
  }
}

/* The fields that all packets of a super-packet share; identification and flow label are not among them. The window is, as in the
 * kernel's own GRO: a window update lost in a merge could stall the sender. */
static bool same_headers(const uint8_t *a, const uint8_t *c, bool v4, bool tcp, uint32_t header) {
  if (v4) {
    if (a[1] != c[1] || (a[6] ^ c[6]) & 0xE0 || a[8] != c[8]) return false;
  } else if ((a[0] ^ c[0]) & 0x0F || (a[1] ^ c[1]) & 0xF0 || a[7] != c[7]) {
    return false;
  }
  if (!tcp) return true;
  uint32_t t = v4 ? 20 : 40;
  return memcmp(a + t + 8, c + t + 8, 4) == 0 && memcmp(a + t + 14, c + t + 14, 2) == 0 &&
         memcmp(a + t + 20, c + t + 20, header - t - 20) == 0;
}

/* Whether the run, still open, takes the row behind its last one. `header` is the row's; all of it was checked to be there. */
static bool run_takes(const fz_batch *b, const fz_run *run, uint32_t row, uint32_t header) {
  const uint8_t *first = packet(b, run->first), *last = packet(b, run->last), *p = packet(b, (int32_t)row);
  uint32_t payload = b->length[row] - header, t = b->transport[row];
  bool tcp = b->protocol[row] == FZ_TCP, v4 = b->ip_version[row] == 4;
  if (run->stride == 0 || payload > run->stride || b->transport[run->first] != t) return false;
  if (run->total + payload > 65535u || b->length[run->last] - header != run->stride) return false;
  if (tcp) {
    uint32_t carried = run->total - header;
    if (first[t + 12] >> 4 != p[t + 12] >> 4 || last[t + 13] & TCP_PSH) return false;
    if (fz_load_be32(p + t + 4) != fz_load_be32(first + t + 4) + carried) return false;
  } else if (run->count >= FZ_MAX_UDP_SEGMENTS) {
    return false;
  }
  return same_headers(first, p, v4, tcp, header);
}

/* Gives the first row of a run its joined headers and the run its virtio-net header. */
static void finish_run(fz_batch *b, fz_run *run) {
  if (run->count == 1) {
    run->stride = 0;
    return;
  }
  uint32_t row = (uint32_t)run->first, t = b->transport[row];
  bool tcp = b->protocol[row] == FZ_TCP, v4 = b->ip_version[row] == 4;
  uint32_t header = b->length[row] - run->stride;
  uint8_t *out = b->prefix + (size_t)row * FZ_PREFIX_SIZE;
  memcpy(out, packet(b, run->first), header);
  b->prefix_len[row] = (uint8_t)header;
  b->skip[row] = (uint16_t)header;
  if (v4) {
    fz_store_be16(out + 2, (uint16_t)run->total);
    fz_store_be16(out + 10, 0);
    fz_store_be16(out + 10, (uint16_t)~fz_fold(fz_sum_header(out, 20)));
  } else {
    fz_store_be16(out + 4, (uint16_t)(run->total - 40));
  }
  if (tcp) out[t + 13] |= packet(b, run->last)[t + 13] & TCP_PSH;
  else fz_store_be16(out + t + 4, (uint16_t)(run->total - t));
  fz_vnet v = {.flags = FZ_VNET_NEEDS_CSUM, .gso_type = tcp ? (v4 ? FZ_GSO_TCPV4 : FZ_GSO_TCPV6) : FZ_GSO_UDP,
               .header_len = (uint16_t)header, .gso_size = (uint16_t)run->stride, .csum_start = (uint16_t)t,
               .csum_offset = tcp ? 16 : 6};
  uint64_t pseudo = fz_pseudo_sum(out + (v4 ? 12 : 8), v4 ? 4 : 16, b->protocol[row], run->total - t);
  fz_store_be16(out + t + v.csum_offset, fz_fold(pseudo));
  fz_vnet_store(run->vnet, &v);
}

static void append_row(fz_batch *b, fz_run *run, uint32_t row, uint32_t header) {
  b->next[run->last] = (int32_t)row;
  b->skip[row] = (uint16_t)header;
  run->last = (int32_t)row;
  run->count++;
  run->total += b->length[row] - header;
}

uint32_t fz_join_batch(fz_batch *b, fz_run *runs, uint32_t capacity, bool coalesce, int32_t *table, uint32_t table_size) {
  uint32_t count = 0;
  int32_t *place = NULL, last = -1, unused;
  if (coalesce) memset(table, 0xFF, (size_t)table_size * sizeof *table);
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] != FZ_FORWARD) continue;
    bool flow = coalesce && has_flow(b, row);
    uint32_t header = flow ? candidate_header(b, row) : 0;
    b->next[row] = -1;
    b->prefix_len[row] = 0;
    b->skip[row] = 0;
    if (flow && (last < 0 || !same_flow(b, last, (int32_t)row))) place = find_run(b, runs, row, table, table_size - 1u);
    if (flow) last = (int32_t)row;
    if (header && *place >= 0 && run_takes(b, &runs[*place], row, header)) {
      append_row(b, &runs[*place], row, header);
      continue;
    }
    if (count == capacity) {
      fz_row_drop(b, row, FZ_BATCH_FULL);
      continue;
    }
    runs[count] = (fz_run){.first = (int32_t)row, .last = (int32_t)row, .count = 1, .stride = header ? b->length[row] - header : 0,
                           .total = b->length[row]};
    *(flow ? place : &unused) = (int32_t)count++;
  }
  for (uint32_t i = 0; i < count; i++) finish_run(b, &runs[i]);
  return count;
}
