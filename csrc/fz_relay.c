#include "fz_relay.h"

#include "fz_ip.h"

#define STUN_HEADER 20u
#define STUN_COOKIE 0x2112A442u
#define LOOKUPS 32u /* whose cache misses overlap */

/* ---- channels ---- */

void fz_relay_bind(fz_relay *r, const fz_addr *client, uint16_t number, const fz_addr *peer, uint16_t port) {
  int32_t slot = r->free_channel;
  if (slot >= 0) r->free_channel = r->channels[slot].next;
  else slot = (int32_t)r->used++;
  r->channels[slot] = (fz_relay_channel){.client = *client, .peer = *peer, .number = number, .port = port, .next = -1};
  fz_addrmap_key by_client = fz_addrmap_key_of(client, number), by_peer = fz_addrmap_key_of(peer, port);
  fz_addrmap_insert(&r->by_client, &by_client, slot);
  fz_addrmap_insert(&r->by_peer, &by_peer, slot);
}

static int32_t find_by_client(const fz_relay *r, const fz_addr *client, uint16_t number) {
  fz_addrmap_key key = fz_addrmap_key_of(client, number);
  return fz_addrmap_find(&r->by_client, &key);
}

bool fz_relay_unbind(fz_relay *r, const fz_addr *client, uint16_t number) {
  int32_t slot = find_by_client(r, client, number);
  if (slot < 0) return false;
  fz_relay_channel *c = &r->channels[slot];
  fz_addrmap_key by_client = fz_addrmap_key_of(client, number), by_peer = fz_addrmap_key_of(&c->peer, c->port);
  fz_addrmap_remove(&r->by_client, &by_client);
  fz_addrmap_remove(&r->by_peer, &by_peer);
  memset(c, 0, sizeof *c);
  c->next = r->free_channel;
  r->free_channel = slot;
  return true;
}

const fz_relay_channel *fz_relay_channel_of(const fz_relay *r, const fz_addr *client, uint16_t number) {
  int32_t slot = find_by_client(r, client, number);
  return slot < 0 ? NULL : &r->channels[slot];
}

/* ---- next hops ---- */

static void count_size(fz_relay_stats *stats, uint32_t n) {
  uint32_t bucket = n ? (n - 1) / 100u : 0;
  stats->sizes[bucket < FZ_RELAY_SIZE_BUCKETS ? bucket : FZ_RELAY_SIZE_BUCKETS - 1]++;
}

static void send_to_client(fz_relay *r, fz_batch *b, uint32_t row, const fz_relay_channel *c) {
  uint8_t *prefix = b->prefix + (size_t)row * FZ_PREFIX_SIZE;
  fz_store_be16(prefix, c->number);
  fz_store_be16(prefix + 2, (uint16_t)b->length[row]);
  b->prefix_len[row] = FZ_RELAY_CHANNEL_HEADER;
  b->socket[row] = r->listen_port;
  b->local[row] = c->local;
  b->remote[row] = c->client;
  r->stats.to_clients++;
  r->stats.to_clients_bytes += b->length[row];
  count_size(&r->stats, b->length[row]);
}

/* Hands a row to the machine, if who it comes from may have that. */
static void punt(fz_relay *r, fz_batch *b, uint32_t row, uint8_t reason, enum fz_relay_asker kind, const fz_addrmap_key *asker) {
  if (fz_fair_take(&r->allowances[kind], asker)) fz_row_punt(b, row, reason);
  else fz_row_drop(b, row, FZ_PUNT_LIMIT);
}

static void punt_stun(fz_relay *r, fz_batch *b, uint32_t row) {
  fz_addrmap_key client = fz_addrmap_key_of(&b->remote[row], 0), network = fz_fair_network_of(&b->remote[row]);
  bool is_holder = fz_addrmap_find(&r->holders, &client) >= 0;
  punt(r, b, row, FZ_STUN, is_holder ? FZ_RELAY_HOLDERS : FZ_RELAY_STRANGERS, is_holder ? &client : &network);
}

static void punt_peer_data(fz_relay *r, fz_batch *b, uint32_t row) {
  fz_addrmap_key allocation = {.number = b->socket[row]};
  punt(r, b, row, FZ_PEER_DATA, FZ_RELAY_PEERS, &allocation);
}

/* Hands a datagram of a peer over to the client whose channel has been found, or says why not. */
static void take_from_peer(fz_relay *r, fz_batch *b, uint32_t row, int32_t slot) {
  if (FZ_LIKELY(slot >= 0)) {
    send_to_client(r, b, row, &r->channels[slot]);
    return;
  }
  if (FZ_UNLIKELY(b->length[row] > FZ_RELAY_MAX_PAYLOAD)) {
    fz_row_drop(b, row, FZ_OVERSIZED);
    return;
  }
  fz_addrmap_key key = fz_addrmap_key_of(&b->remote[row], b->socket[row]);
  key.address.port = 0;
  if (r->permitted.count && fz_addrmap_find(&r->permitted, &key) >= 0) {
    punt_peer_data(r, b, row);
  } else {
    fz_row_drop(b, row, FZ_NO_CHANNEL);
  }
}

static bool same_ip(const fz_addr *a, const fz_addr *b) { return a->family == b->family && memcmp(a->ip, b->ip, sizeof a->ip) == 0; }

static void send_to_peer(fz_relay *r, fz_batch *b, uint32_t row, const fz_relay_channel *c) {
  r->stats.to_peers++;
  r->stats.to_peers_bytes += b->length[row];
  count_size(&r->stats, b->length[row]);
  const fz_addr *ours = c->peer.family == 4 ? &r->public_v4 : &r->public_v6;
  if (FZ_UNLIKELY(same_ip(&c->peer, ours)) && b->length[row] <= FZ_RELAY_MAX_PAYLOAD) {
    fz_addr from = *ours;
    from.port = c->port;
    fz_addrmap_key key = fz_addrmap_key_of(&from, c->peer.port);
    int32_t slot = fz_addrmap_find(&r->by_peer, &key);
    if (slot >= 0) {
      r->stats.looped++;
      send_to_client(r, b, row, &r->channels[slot]);
      return;
    } /* else it is another program of this host, or nobody */
  }
  b->socket[row] = c->port;
  memset(&b->local[row], 0, sizeof b->local[row]); /* the socket is bound to the right address, or the route decides */
  b->remote[row] = c->peer;
}

/* What a row of the listen port is, by its first bytes. */
static bool is_channel_data(const fz_batch *b, uint32_t row) { return (b->slab[b->offset[row]] & 0xC0u) == 0x40u; }

static bool is_whole(const fz_batch *b, uint32_t row) { /* bytes behind the data are padding */
  uint32_t n = b->length[row];
  return n >= FZ_RELAY_CHANNEL_HEADER && fz_load_be16(b->slab + b->offset[row] + 2) <= n - FZ_RELAY_CHANNEL_HEADER;
}

static bool is_stun(const fz_batch *b, uint32_t row) {
  const uint8_t *p = b->slab + b->offset[row];
  return p[0] <= 3 && b->length[row] >= STUN_HEADER && fz_load_be32(p + 4) == STUN_COOKIE;
}

static void take_from_client(fz_relay *r, fz_batch *b, uint32_t row, int32_t slot) {
  if (slot >= 0) {
    uint32_t length = fz_load_be16(b->slab + b->offset[row] + 2);
    r->channels[slot].local = b->local[row];
    b->offset[row] += FZ_RELAY_CHANNEL_HEADER;
    b->length[row] = length;
    send_to_peer(r, b, row, &r->channels[slot]);
  } else if (is_stun(b, row)) {
    punt_stun(r, b, row);
  } else {
    fz_row_drop(b, row, is_channel_data(b, row) && is_whole(b, row) ? FZ_NO_CHANNEL : FZ_MALFORMED_PACKET);
  }
}

/* ---- looking up ---- */

/* The key by which a row's channel is found. False: it can have none. */
static bool key_of(const fz_batch *b, uint32_t row, bool is_client, fz_addrmap_key *key) {
  if (!is_client) {
    *key = fz_addrmap_key_of(&b->remote[row], b->socket[row]);
    return b->length[row] <= FZ_RELAY_MAX_PAYLOAD;
  }
  if (!is_channel_data(b, row) || !is_whole(b, row)) return false;
  *key = fz_addrmap_key_of(&b->remote[row], fz_load_be16(b->slab + b->offset[row]));
  return true;
}

/* The channels of rows `from` to `to`, -1 without one. Stage by stage, so that the cache misses of LOOKUPS rows overlap; rows of a
 * train ask for the same channel again and again, and are answered by the row before. */
static void look_up(const fz_relay *r, const fz_batch *b, uint32_t from, uint32_t to, bool is_client, int32_t *slots) {
  const fz_addrmap *map = is_client ? &r->by_client : &r->by_peer;
  fz_addrmap_key keys[LOOKUPS];
  uint32_t hashes[LOOKUPS], asked = 0, of[LOOKUPS]; /* which key is whose */
  int32_t found[LOOKUPS];
  for (uint32_t row = from; row < to; row++) {
    of[row - from] = LOOKUPS;
    if (b->verdict[row] != FZ_FORWARD || !key_of(b, row, is_client, &keys[asked])) continue;
    if (asked == 0 || memcmp(&keys[asked], &keys[asked - 1], sizeof keys[0]) != 0) {
      hashes[asked] = fz_addrmap_hash(map, &keys[asked]);
      fz_addrmap_prefetch(map, hashes[asked]);
      asked++;
    }
    of[row - from] = asked - 1;
  }
  for (uint32_t i = 0; i < asked; i++) {
    found[i] = fz_addrmap_find_hashed(map, &keys[i], hashes[i]);
    if (found[i] >= 0) {
      const char *c = (const char *)&r->channels[found[i]];
      __builtin_prefetch(c);
      __builtin_prefetch(c + sizeof *r->channels - 1);
    }
  }
  for (uint32_t row = from; row < to; row++) slots[row - from] = of[row - from] < LOOKUPS ? found[of[row - from]] : -1;
}

/* Gives all rows that are FORWARD from row `from` on their next hop, or another verdict. */
static void route(fz_relay *r, fz_batch *b, uint32_t from, bool is_client) {
  int32_t slots[LOOKUPS];
  for (; from < b->n; from += LOOKUPS) {
    uint32_t to = b->n - from < LOOKUPS ? b->n : from + LOOKUPS;
    look_up(r, b, from, to, is_client, slots);
    for (uint32_t row = from; row < to; row++) {
      if (b->verdict[row] != FZ_FORWARD) continue;
      if (is_client) take_from_client(r, b, row, slots[row - from]);
      else take_from_peer(r, b, row, slots[row - from]);
    }
  }
}

uint32_t fz_relay_retry(fz_relay *r, fz_batch *b) {
  uint32_t found = 0;
  for (uint32_t row = 0; row < b->n; row++) {
    bool is_wanted = b->verdict[row] == FZ_DROP && b->reason[row] == FZ_NO_CHANNEL;
    b->verdict[row] = is_wanted ? FZ_FORWARD : FZ_FREE;
    if (is_wanted) b->reason[row] = 0;
  }
  route(r, b, 0, true);
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] == FZ_FORWARD) found++;
    else b->verdict[row] = FZ_FREE; /* counted the first time */
  }
  return found;
}

/* ---- cutting ---- */

/* Why a read cannot be cut, 0 when it can. Empty datagrams are valid where a peer may send one. */
static uint8_t refuse_read(const fz_ring *ring, uint32_t slot, bool is_client) {
  uint32_t length = ring->length[slot], stride = ring->stride[slot];
  if (ring->remote[slot].port == 0) return FZ_MALFORMED_PACKET; /* nobody could be answered there */
  if (is_client && ring->local[slot].family == 0) return FZ_NO_LOCAL_ADDRESS;
  if (length == 0) return is_client ? FZ_EMPTY : 0;
  if (ring->offset[slot] > ring->slot_size || length > ring->slot_size - ring->offset[slot]) return FZ_OVERSIZED;
  return stride == 0 || stride > length ? FZ_BAD_STRIDE : 0;
}

static uint32_t add_row(const fz_ring *ring, uint32_t slot, fz_batch *b, uint32_t offset, uint32_t length) {
  uint32_t row = b->n++;
  fz_row_init(b, row, slot, offset, length);
  b->stride[row] = ring->stride[slot];
  b->socket[row] = ring->socket[slot];
  b->local[row] = ring->local[slot];
  b->remote[row] = ring->remote[slot];
  b->ecn[row] = ring->ecn[slot] & 3u;
  return row;
}

static uint32_t take(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b, bool is_client) {
  uint32_t ready = fz_ring_ready(ring), slot = fz_ring_tail(ring), taken = 0, first = b->n;
  if (entries > ready) entries = ready;
  for (; taken < entries; taken++, slot = (slot + 1) & (ring->slots - 1u)) {
    uint8_t reason = refuse_read(ring, slot, is_client);
    uint32_t at = slot * ring->slot_size + ring->offset[slot], left = ring->length[slot], stride = ring->stride[slot];
    uint32_t rows = reason || left == 0 ? 1u : (left + stride - 1u) / stride;
    if (rows > b->capacity - b->n) {
      if (b->n != 0) break;
      reason = FZ_BATCH_FULL;
    }
    if (reason) {
      fz_row_drop(b, add_row(ring, slot, b, slot * ring->slot_size, 0), reason);
      continue;
    }
    do {
      uint32_t n = left < stride ? left : stride;
      add_row(ring, slot, b, at, n);
      at += n;
      left -= n;
    } while (left);
  }
  route(r, b, first, is_client);
  return taken;
}

uint32_t fz_relay_from_clients(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b) { return take(r, ring, entries, b, true); }

uint32_t fz_relay_from_peers(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b) { return take(r, ring, entries, b, false); }
