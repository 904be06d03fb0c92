/* The gateway's NAT for resources that are named: per client a bijection (source key, proxy IP) <-> (source key', real IP).
 *
 * A source key is a TCP or UDP port or an ICMP echo identifier; destination ports are not part of a session (address-dependent
 * mapping and filtering in the words of RFC 4787, ports preserved where possible). Proxy IPs lie in 100.96.0.0/11 and
 * fd00:2021:1111:8000::/107; other destinations are none of our business. Families are never translated into each other: a proxy IP
 * whose name has no address of its family has no real IP.
 *
 * A session lives until its deadline, which every packet in either direction moves. What ended is remembered, so that late packets
 * are dropped and not passed on under the resource's real address; the memory is bounded, the oldest goes first.
 * Packets are rewritten in place and their checksums patched (RFC 1624); a patched checksum is never written as 0x0000.
 *
 * All memory is the caller's: before a stage runs it makes room for as many sessions as the batch has rows (fz_nat_has_room).
 * Times are nanoseconds on a monotonic clock. Not for concurrent use: change tables only while no stage runs.
 */
#ifndef FZ_NAT_H
#define FZ_NAT_H

#include "fz_addrmap.h"

#define FZ_NAT_SECOND 1000000000ll
#define FZ_NAT_TCP_IDLE (7440 * FZ_NAT_SECOND)      /* RFC 5382 REQ-5 */
#define FZ_NAT_IDLE (120 * FZ_NAT_SECOND)           /* UDP (RFC 4787 REQ-5 allows it) and ICMP echo */
#define FZ_NAT_UNANSWERED_IDLE (60 * FZ_NAT_SECOND) /* nothing has ever come back */
#define FZ_NAT_CLOSED_IDLE (5 * FZ_NAT_SECOND)      /* FIN in both directions */
#define FZ_NAT_RESET_LINGER FZ_NAT_SECOND           /* after a RST, whatever follows */

#define FZ_NAT_CLIENT_SESSIONS (1u << 17) /* live sessions of one client */
#define FZ_NAT_CLIENT_ENDED 4096u         /* ended sessions remembered of one client, less when there are many clients */
#define FZ_NAT_ENDED (1u << 16)           /* ended sessions remembered, shared out among the clients */
#define FZ_NAT_LEAST_ENDED 8u             /* but for no client less than this */
/* A search of free ports may look at every one, once a second and client; searches beyond that look at few, or one client that has
 * taken them all would make everybody wait. */
#define FZ_NAT_PROBES 65536u
#define FZ_NAT_FEW_PROBES 16u

enum { FZ_NAT_ANSWERED = 1, FZ_NAT_FIN_OUT = 2, FZ_NAT_FIN_IN = 4, FZ_NAT_RST = 8, FZ_NAT_ENDED_FLAG = 16 };

typedef struct fz_nat_session {
  uint8_t proxy[16]; /* IPv4 in the first four bytes, the rest zero */
  uint8_t real[16];
  int64_t deadline;
  uint32_t client;
  int32_t previous, next; /* in the client's list of live or of ended sessions, or of free ones; -1 none */
  uint16_t inside, outside; /* source keys, host order */
  uint8_t protocol; /* as on the wire */
  uint8_t family;   /* 4 or 6; 0: free */
  uint8_t flags;    /* FZ_NAT_* */
  uint8_t zero;
} fz_nat_session;

typedef struct fz_nat_list {
  int32_t first, last;
  uint32_t count;
} fz_nat_list;

typedef struct fz_nat_translation {
  uint8_t proxy[16];
  uint8_t real[16];
  uint32_t client;
  int32_t previous, next;
  uint8_t family;   /* of both; 0: free */
  uint8_t has_real; /* 0: the name has no address of this family */
  uint8_t zero[2];
} fz_nat_translation;

typedef struct fz_nat_client {
  fz_nat_list live, ended; /* sessions */
  int32_t translations;    /* first of the list, -1 none */
  uint32_t translation_count;
  int64_t probes_since;
  uint32_t probes; /* ports looked at since */
  uint32_t in_use;
} fz_nat_client;

typedef struct fz_nat_stats {
  uint64_t opened, ended, translated_out, translated_in, errors_in, exhausted;
} fz_nat_stats;

/* All zero but for the seeds, free_session, free_translation (-1): an empty table without memory. */
typedef struct fz_nat {
  fz_addrmap inside, outside; /* sessions; an ended one is only in `outside` */
  fz_addrmap proxies;         /* translations */
  fz_nat_session *sessions;
  uint32_t session_room, session_used; /* slots there is memory for; ever handed out */
  int32_t free_session;
  uint32_t session_count; /* live and ended */
  fz_nat_translation *translations;
  uint32_t translation_room, translation_used;
  int32_t free_translation;
  fz_nat_client *clients; /* by client number */
  uint32_t client_room, client_count;
  int32_t *client_of_peer; /* by peer row, -1 none */
  uint32_t peers;
  fz_addr own_v4, own_v6; /* the gateway's tunnel addresses, family 0 before they are known; ports 0 */
  uint32_t sweep_at;      /* where the sweep goes on */
  int64_t swept;          /* when it was last here */
  fz_nat_stats stats;
} fz_nat;

/* True when `sessions` more can be opened in the memory there is. */
bool fz_nat_has_room(const fz_nat *n, uint32_t sessions);

/* A client in use, initialised. `client` < client_room. */
void fz_nat_add_client(fz_nat *n, uint32_t client);

/* Forgets all sessions, live and ended, and all translations of a client. */
void fz_nat_clear_client(fz_nat *n, uint32_t client);

/* The same, and the client is no longer in use; peers attached to it are detached by the caller. */
void fz_nat_remove_client(fz_nat *n, uint32_t client);

/* Sets where new flows to a proxy IP go; `real` NULL: nowhere. Live sessions stay with the address they have. Room for one more key
 * in `proxies` and one more translation must have been made. Addresses are 4 or 16 bytes as `v6` says. */
void fz_nat_set_translation(fz_nat *n, uint32_t client, const uint8_t *proxy, const uint8_t *real, bool v6);

/* Removes a translation and ends the live sessions of its proxy IP, which may stand for another name next. False: it was not there. */
bool fz_nat_remove_translation(fz_nat *n, uint32_t client, const uint8_t *proxy, bool v6);

/* Whether an address lies in the ranges of proxy IPs. */
bool fz_nat_is_proxy(const uint8_t *address, bool v6);

/* What the stages are made of. Keys are zero but for their fields; a session's slot is its place in `sessions`. */
typedef struct fz_nat_flow {
  const uint8_t *address; /* proxy IP or real IP */
  uint16_t key;
  uint8_t protocol;
  uint8_t family;
} fz_nat_flow;

static inline fz_addrmap_key fz_nat_key(uint32_t client, const fz_nat_flow *flow) {
  fz_addrmap_key key = {.number = (uint16_t)client, .zero = (uint16_t)(client >> 16)};
  memcpy(key.address.ip, flow->address, flow->family == 4 ? 4 : 16);
  key.address.port = flow->key;
  key.address.family = flow->family;
  key.address.zero = flow->protocol;
  return key;
}

static inline bool fz_nat_is_alive(const fz_nat_session *s, int64_t now) {
  return !(s->flags & FZ_NAT_ENDED_FLAG) && now < s->deadline;
}

/* Opens a session for a flow to a proxy IP that has no live one. Its slot, or -1 when no port or no place is free. */
int32_t fz_nat_open(fz_nat *n, uint32_t client, const fz_nat_flow *flow, const uint8_t *real, int64_t now);

/* Ends a live session: it is remembered by its outside only. */
void fz_nat_end(fz_nat *n, int32_t slot);

/* Moves the deadline for a packet out (towards the resource) or in; tcp_flags are 0 for anything but TCP. */
void fz_nat_touch(fz_nat_session *s, bool out, uint8_t tcp_flags, int64_t now);

/* Ends what is over, a share of the table at a time: all of it once a second. */
void fz_nat_sweep(fz_nat *n, int64_t now);

/* Both stages look at parsed FORWARD rows of attached peers and return how many rows are left FORWARD.
 *
 * From the tunnel: a destination that is a proxy IP becomes the real one. Punts NO_TRANSLATION; drops UNSUPPORTED_PROTOCOL (no source
 * key) and NAT_EXHAUSTED.
 * To the tunnel, after routing: a source that is the outside of a session becomes the proxy IP; ICMP errors about a session are
 * rebuilt as if the proxy IP had sent them. Drops EXPIRED_NAT_SESSION. What is no session's stays as it is, and so does everything
 * from our own addresses but ICMP errors. */
uint32_t fz_nat_from_tunnel(fz_nat *n, fz_batch *b, int64_t now);
uint32_t fz_nat_to_tunnel(fz_nat *n, fz_batch *b, int64_t now);

#endif
