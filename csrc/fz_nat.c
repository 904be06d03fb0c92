#include "fz_nat.h"

#include "fz_ip.h"

enum { TCP_FIN = 1, TCP_RST = 4, NONE = -1 };

bool fz_nat_is_proxy(const uint8_t *address, bool v6) {
  static const uint8_t prefix[13] = {0xfd, 0x00, 0x20, 0x21, 0x11, 0x11, 0x80};
  if (v6) return memcmp(address, prefix, sizeof prefix) == 0 && address[13] < 0x20;
  return address[0] == 100 && (address[1] & 0xE0) == 96;
}

bool fz_nat_has_room(const fz_nat *n, uint32_t sessions) {
  uint64_t wanted = (uint64_t)n->session_count + sessions;
  return wanted <= n->session_room && n->inside.bits && n->outside.bits && 2 * wanted <= 1ull << n->inside.bits &&
         2 * wanted <= 1ull << n->outside.bits;
}

/* Lists */

static void list_add(fz_nat *n, fz_nat_list *list, int32_t slot) {
  fz_nat_session *s = &n->sessions[slot];
  s->previous = list->last;
  s->next = NONE;
  if (list->last != NONE) n->sessions[list->last].next = slot;
  else list->first = slot;
  list->last = slot;
  list->count++;
}

static void list_remove(fz_nat *n, fz_nat_list *list, int32_t slot) {
  fz_nat_session *s = &n->sessions[slot];
  if (s->previous != NONE) n->sessions[s->previous].next = s->next;
  else list->first = s->next;
  if (s->next != NONE) n->sessions[s->next].previous = s->previous;
  else list->last = s->previous;
  list->count--;
}

/* Sessions */

static fz_addrmap_key inside_key(const fz_nat_session *s) {
  return fz_nat_key(s->client, &(fz_nat_flow){s->proxy, s->inside, s->protocol, s->family});
}

static fz_addrmap_key outside_key(const fz_nat_session *s) {
  return fz_nat_key(s->client, &(fz_nat_flow){s->real, s->outside, s->protocol, s->family});
}

static int32_t take_slot(fz_nat *n) {
  int32_t slot = n->free_session;
  if (slot != NONE) n->free_session = n->sessions[slot].next;
  else if (n->session_used < n->session_room) slot = (int32_t)n->session_used++;
  if (slot != NONE) n->session_count++;
  return slot;
}

static void give_slot(fz_nat *n, int32_t slot) {
  fz_nat_session *s = &n->sessions[slot];
  s->family = 0;
  s->next = n->free_session;
  n->free_session = slot;
  n->session_count--;
}

/* Forgets an ended session. */
static void forget(fz_nat *n, int32_t slot) {
  fz_addrmap_key key = outside_key(&n->sessions[slot]);
  fz_addrmap_remove(&n->outside, &key);
  list_remove(n, &n->clients[n->sessions[slot].client].ended, slot);
  give_slot(n, slot);
}

static uint32_t most_ended(const fz_nat *n) {
  uint32_t share = FZ_NAT_ENDED / (n->client_count ? n->client_count : 1u);
  if (share > FZ_NAT_CLIENT_ENDED) return FZ_NAT_CLIENT_ENDED;
  return share < FZ_NAT_LEAST_ENDED ? FZ_NAT_LEAST_ENDED : share;
}

void fz_nat_end(fz_nat *n, int32_t slot) {
  fz_nat_session *s = &n->sessions[slot];
  fz_nat_client *client = &n->clients[s->client];
  fz_addrmap_key key = inside_key(s);
  fz_addrmap_remove(&n->inside, &key);
  list_remove(n, &client->live, slot);
  s->flags |= FZ_NAT_ENDED_FLAG;
  list_add(n, &client->ended, slot);
  n->stats.ended++;
  for (uint32_t most = most_ended(n); client->ended.count > most;) forget(n, client->ended.first);
}

void fz_nat_touch(fz_nat_session *s, bool out, uint8_t tcp_flags, int64_t now) {
  int64_t idle = s->protocol == FZ_TCP ? FZ_NAT_TCP_IDLE : FZ_NAT_IDLE;
  if (s->flags & FZ_NAT_RST) return;
  if (!out) s->flags |= FZ_NAT_ANSWERED;
  if (tcp_flags & TCP_FIN) s->flags |= out ? FZ_NAT_FIN_OUT : FZ_NAT_FIN_IN;
  if (!(s->flags & FZ_NAT_ANSWERED)) idle = FZ_NAT_UNANSWERED_IDLE;
  else if ((s->flags & (FZ_NAT_FIN_OUT | FZ_NAT_FIN_IN)) == (FZ_NAT_FIN_OUT | FZ_NAT_FIN_IN)) idle = FZ_NAT_CLOSED_IDLE;
  if (tcp_flags & TCP_RST) {
    s->flags |= FZ_NAT_RST;
    idle = FZ_NAT_RESET_LINGER;
  }
  s->deadline = now + idle;
}

/* Makes the outside with this source key free if it is not in use. False: it is. */
static bool claim(fz_nat *n, fz_nat_session *s, uint16_t key, int64_t now) {
  s->outside = key;
  fz_addrmap_key wanted = outside_key(s);
  int32_t taken = fz_addrmap_find(&n->outside, &wanted);
  if (taken == FZ_ADDRMAP_NONE) return true;
  if (fz_nat_is_alive(&n->sessions[taken], now)) return false;
  if (!(n->sessions[taken].flags & FZ_NAT_ENDED_FLAG)) fz_nat_end(n, taken);
  if ((taken = fz_addrmap_find(&n->outside, &wanted)) != FZ_ADDRMAP_NONE) forget(n, taken);
  return true;
}

/* Looks for a free source key: the client's own, then upwards, then from 1. Port 0 only for a client that used it itself. */
static bool choose_key(fz_nat *n, fz_nat_session *s, int64_t now) {
  fz_nat_client *client = &n->clients[s->client];
  if (client->probes == 0 || now - client->probes_since >= FZ_NAT_SECOND) {
    client->probes_since = now;
    client->probes = 0;
  }
  uint32_t key = s->inside, limit = client->probes < FZ_NAT_PROBES ? 65536u : FZ_NAT_FEW_PROBES;
  for (uint32_t tried = 0; tried < limit; tried++) {
    if (claim(n, s, (uint16_t)key, now)) return true;
    client->probes++;
    if (++key == 65536u) key = 1;
    if (key == s->inside) break;
  }
  return false;
}

static bool make_place(fz_nat *n, uint32_t client) {
  const fz_nat_client *c = &n->clients[client];
  if (c->live.count >= FZ_NAT_CLIENT_SESSIONS) return false;
  if (!fz_nat_has_room(n, 1) && c->ended.count) forget(n, c->ended.first);
  return fz_nat_has_room(n, 1);
}

int32_t fz_nat_open(fz_nat *n, uint32_t client, const fz_nat_flow *flow, const uint8_t *real, int64_t now) {
  fz_nat_session fresh = {.client = client, .inside = flow->key, .protocol = flow->protocol, .family = flow->family};
  size_t size = flow->family == 4 ? 4 : 16;
  memcpy(fresh.proxy, flow->address, size);
  memcpy(fresh.real, real, size);
  if (!make_place(n, client) || !choose_key(n, &fresh, now)) {
    n->stats.exhausted++;
    return NONE;
  }
  int32_t slot = take_slot(n);
  n->sessions[slot] = fresh;
  fz_addrmap_key inside = inside_key(&fresh), outside = outside_key(&fresh);
  fz_addrmap_insert(&n->inside, &inside, slot);
  fz_addrmap_insert(&n->outside, &outside, slot);
  list_add(n, &n->clients[client].live, slot);
  n->stats.opened++;
  return slot;
}

void fz_nat_sweep(fz_nat *n, int64_t now) {
  int64_t passed = now - n->swept;
  if (passed <= 0 || n->session_used == 0) {
    n->swept = now;
    return;
  }
  uint64_t share = n->session_used;
  if (passed < FZ_NAT_SECOND) share = share * (uint64_t)passed / (uint64_t)FZ_NAT_SECOND;
  if (share == 0) return; /* and the time that passed counts the next time */
  n->swept = now;
  for (uint64_t i = 0; i < share; i++) {
    if (n->sweep_at >= n->session_used) n->sweep_at = 0;
    int32_t slot = (int32_t)n->sweep_at++;
    const fz_nat_session *s = &n->sessions[slot];
    if (s->family != 0 && !(s->flags & FZ_NAT_ENDED_FLAG) && now >= s->deadline) fz_nat_end(n, slot);
  }
}

/* Clients */

void fz_nat_add_client(fz_nat *n, uint32_t client) {
  fz_nat_client *c = &n->clients[client];
  if (c->in_use) return;
  *c = (fz_nat_client){.live = {NONE, NONE, 0}, .ended = {NONE, NONE, 0}, .translations = NONE, .in_use = 1};
  n->client_count++;
}

static void drop_translation(fz_nat *n, int32_t slot) {
  fz_nat_translation *t = &n->translations[slot];
  fz_addrmap_key key = fz_nat_key(t->client, &(fz_nat_flow){t->proxy, 0, 0, t->family});
  fz_addrmap_remove(&n->proxies, &key);
  if (t->previous != NONE) n->translations[t->previous].next = t->next;
  else n->clients[t->client].translations = t->next;
  if (t->next != NONE) n->translations[t->next].previous = t->previous;
  n->clients[t->client].translation_count--;
  t->family = 0;
  t->next = n->free_translation;
  n->free_translation = slot;
}

void fz_nat_clear_client(fz_nat *n, uint32_t client) {
  fz_nat_client *c = &n->clients[client];
  while (c->live.first != NONE) fz_nat_end(n, c->live.first);
  while (c->ended.first != NONE) forget(n, c->ended.first);
  while (c->translations != NONE) drop_translation(n, c->translations);
}

void fz_nat_remove_client(fz_nat *n, uint32_t client) {
  if (!n->clients[client].in_use) return;
  fz_nat_clear_client(n, client);
  n->clients[client].in_use = 0;
  n->client_count--;
}

/* Translations */

void fz_nat_set_translation(fz_nat *n, uint32_t client, const uint8_t *proxy, const uint8_t *real, bool v6) {
  size_t size = v6 ? 16 : 4;
  fz_addrmap_key key = fz_nat_key(client, &(fz_nat_flow){proxy, 0, 0, v6 ? 6 : 4});
  int32_t slot = fz_addrmap_find(&n->proxies, &key);
  if (slot == FZ_ADDRMAP_NONE) {
    fz_nat_client *c = &n->clients[client];
    slot = n->free_translation;
    if (slot != NONE) n->free_translation = n->translations[slot].next;
    else slot = (int32_t)n->translation_used++;
    n->translations[slot] =
        (fz_nat_translation){.client = client, .previous = NONE, .next = c->translations, .family = v6 ? 6 : 4};
    memcpy(n->translations[slot].proxy, proxy, size);
    if (c->translations != NONE) n->translations[c->translations].previous = slot;
    c->translations = slot;
    c->translation_count++;
    fz_addrmap_insert(&n->proxies, &key, slot);
  }
  fz_nat_translation *t = &n->translations[slot];
  t->has_real = real != NULL;
  memset(t->real, 0, sizeof t->real);
  if (real) memcpy(t->real, real, size);
}

bool fz_nat_remove_translation(fz_nat *n, uint32_t client, const uint8_t *proxy, bool v6) {
  fz_addrmap_key key = fz_nat_key(client, &(fz_nat_flow){proxy, 0, 0, v6 ? 6 : 4});
  int32_t slot = fz_addrmap_find(&n->proxies, &key);
  if (slot == FZ_ADDRMAP_NONE) return false;
  const fz_nat_translation *t = &n->translations[slot];
  for (int32_t at = n->clients[client].live.first, next; at != NONE; at = next) {
    const fz_nat_session *s = &n->sessions[at];
    next = s->next;
    if (s->family == t->family && memcmp(s->proxy, t->proxy, sizeof t->proxy) == 0) fz_nat_end(n, at);
  }
  drop_translation(n, slot);
  return true;
}
