/* The relay's data path: ChannelData of clients to their peers, datagrams of peers to their clients (RFC 8656 section 12).
 *
 *   listen port      ▸ fz_relay_from_clients ▸ fz_group_runs ▸ allocation ports, or the listen port again (see below)
 *   allocation ports ▸ fz_relay_from_peers   ▸ fz_group_runs ▸ listen port
 *
 * Both stages cut ring entries into one row per datagram, look the channel up and give the row its next hop. Payloads are never
 * copied or moved: a channel header is stripped by moving the row's offset and added as the row's prefix, gathered by the send,
 * so a GRO train stays one run through the relay. Rows of one train nearly always share their channel: the last answer of the
 * map is kept while the key stays the same.
 *
 * When the peer is an allocation of this very relay, the datagram would leave by one port and come back by another, if the host
 * or its NAT lets it: instead it goes straight to the other client.
 *
 * `socket` columns hold the local UDP port; with the family of the remote address that names a socket.
 * Not for concurrent use: one batch or one change at a time.
 */
#ifndef FZ_RELAY_H
#define FZ_RELAY_H

#include "fz_addrmap.h"
#include "fz_fair.h"
#include "fz_ring.h"

#define FZ_CHANNEL_FIRST 0x4000u
#define FZ_CHANNEL_LAST 0x7FFFu /* RFC 8656 ends at 0x4FFF; clients of RFC 5766, which a stand-alone relay takes, go on */
#define FZ_RELAY_CHANNEL_HEADER 4u
#define FZ_RELAY_MAX_PAYLOAD 65503u /* the largest UDP payload over IPv4, less the header we add */
#define FZ_RELAY_SIZE_BUCKETS 16u   /* datagrams of at most 100, 200, ... 1500 bytes, and above */

/* Who makes the interpreter work: each kind has an allowance of its own, and within it those that are told apart each a share. */
enum fz_relay_asker {
  FZ_RELAY_HOLDERS = 0,   /* control messages of clients with an allocation: each client */
  FZ_RELAY_STRANGERS = 1, /* those of everybody else: each network */
  FZ_RELAY_PEERS = 2,     /* datagrams of permitted peers without a channel: the peers of each allocation */
  FZ_RELAY_ASKERS = 3,
};

typedef struct fz_relay_channel {
  fz_addr client; /* family 0: the slot is free */
  fz_addr peer;
  fz_addr local; /* ours, that the client last sent data to and is answered from; family 0: none yet, the kernel chooses */
  uint16_t number;
  uint16_t port; /* of the allocation */
  int32_t next;  /* of a free slot: the next free one */
} fz_relay_channel;

typedef struct fz_relay_stats {
  uint64_t to_peers; /* datagrams */
  uint64_t to_peers_bytes;
  uint64_t to_clients;
  uint64_t to_clients_bytes;
  uint64_t looped; /* between two of our own allocations, counted both ways */
  uint64_t sizes[FZ_RELAY_SIZE_BUCKETS];
} fz_relay_stats;

typedef struct fz_relay {
  fz_addrmap by_client; /* (client, number) -> channel */
  fz_addrmap by_peer;   /* (peer, allocation port) -> channel */
  fz_addrmap permitted; /* (peer's IP with port 0, allocation port) -> 0: its datagrams without a channel are punted */
  fz_relay_channel *channels;
  uint32_t room; /* slots that have memory */
  uint32_t used; /* slots handed out at least once */
  int32_t free_channel; /* -1: none */
  fz_addrmap holders;   /* (client, 0) -> 0: has an allocation */
  fz_fair allowances[FZ_RELAY_ASKERS]; /* of rows that may be punted: what is beyond is dropped (PUNT_LIMIT) before it costs more */
  fz_addr public_v4, public_v6; /* in relayed addresses; family 0: none */
  uint16_t listen_port;
  fz_relay_stats stats;
} fz_relay;

/* True when fz_relay_bind needs no more memory. */
static inline bool fz_relay_has_room(const fz_relay *r) {
  return (r->free_channel >= 0 || r->used < r->room) && fz_addrmap_has_room(&r->by_client) && fz_addrmap_has_room(&r->by_peer);
}

/* Makes a channel that does not exist: neither its number nor its peer is bound by this client and allocation. */
void fz_relay_bind(fz_relay *r, const fz_addr *client, uint16_t number, const fz_addr *peer, uint16_t port);

/* Forgets a channel. False: there is none. */
bool fz_relay_unbind(fz_relay *r, const fz_addr *client, uint16_t number);

/* The channel under (client, number), NULL without one. */
const fz_relay_channel *fz_relay_channel_of(const fz_relay *r, const fz_addr *client, uint16_t number);

/* Takes up to `entries` reads of the listen port. ChannelData of bound channels is FORWARD to the peer, STUN is punted, all else is
 * dropped. Returns how many ring entries were taken. */
uint32_t fz_relay_from_clients(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b);

/* Looks the rows of a batch of fz_relay_from_clients up again that had no channel, after the control messages of the batch were
 * obeyed: clients send data right behind the request for its channel. All other rows become FREE. Returns how many are FORWARD. */
uint32_t fz_relay_retry(fz_relay *r, fz_batch *b);

/* Like fz_relay_from_clients for reads of allocation ports: datagrams of bound peers are FORWARD to the client; those of permitted ones are punted
 * (PEER_DATA), the rest is dropped. */
uint32_t fz_relay_from_peers(fz_relay *r, fz_ring *ring, uint32_t entries, fz_batch *b);

#endif
