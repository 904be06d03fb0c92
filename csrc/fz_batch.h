/* The batch: parallel descriptor columns over one slab of bytes; a row is one packet or datagram.
 *
 * A stage of the data path is one function over a batch. Rows are independent; a stage touches only rows whose verdict is
 * FZ_FORWARD. The bytes that leave for row i are   prefix[i][0 .. prefix_len[i])   followed by
 * slab[offset[i] + skip[i] .. offset[i] + length[i]):  a stage can give a row new headers without moving its payload.
 *
 * All memory is the caller's (numpy arrays owned by firezone.kernels.batch). Ports and lengths are in host byte order.
 */
#ifndef FZ_BATCH_H
#define FZ_BATCH_H

#include "fz_common.h"
#include "fz_histogram.h"

#define FZ_PREFIX_SIZE 128u /* >= virtio-net header 10 + IPv6 40 + TCP 60 */

/* An IP address and UDP port. family 0 means "unspecified: let the kernel choose". */
typedef struct fz_addr {
  uint8_t ip[16]; /* network order; IPv4 in the first four bytes, the rest zero */
  uint16_t port;  /* host order */
  uint8_t family; /* 0, 4 or 6 */
  uint8_t zero;
} fz_addr;

enum fz_verdict { FZ_FREE = 0, FZ_FORWARD = 1, FZ_REPLY = 2, FZ_DROP = 3, FZ_PUNT = 4 };

typedef struct fz_batch {
  uint8_t *slab;      /* all offsets count from here */
  uint64_t slab_size; /* bytes */
  uint32_t n;         /* rows in use */
  uint32_t capacity;
  uint32_t *slot;     /* ring slot the bytes live in (or the source slot, for rows split into another slab) */
  uint32_t *offset;   /* first byte of the packet or datagram */
  uint32_t *length;   /* bytes */
  uint16_t *stride;   /* segment size of the GRO/GSO run the row came from; 0 = single */
  uint16_t *socket;   /* id of the socket it came from or leaves by */
  fz_addr *local;     /* outer local address */
  fz_addr *remote;    /* outer remote address */
  uint8_t *ecn;       /* outer ECN codepoint, 0..3 */
  int32_t *peer;      /* peer row, -1 unknown */
  int32_t *session;   /* session slot, -1 unknown */
  uint16_t *channel;  /* TURN channel number, 0 = direct */
  uint8_t *verdict;   /* enum fz_verdict */
  uint8_t *reason;    /* why dropped or punted: firezone.kernels.types.Reason */
  uint8_t *prefix;    /* capacity x FZ_PREFIX_SIZE */
  uint8_t *prefix_len;
  uint16_t *skip;     /* leading bytes of the row that the prefix replaces */
  /* filled by the parse stage */
  uint8_t *ip_version;        /* 4 or 6 */
  uint8_t *protocol;          /* IP protocol number of the transport header */
  uint16_t *transport;        /* offset of the transport header from the start of the packet */
  uint8_t *flags;             /* FZ_ROW_* */
  uint16_t *source_port;      /* or echo identifier */
  uint16_t *destination_port; /* or echo identifier */
  int32_t *next;              /* next row of the same run, -1 = last */
  fz_histogram sizes;         /* rows of every batch that was accounted for */
} fz_batch;

#define FZ_ROW_HAS_KEY 1u     /* source_port / destination_port are meaningful (TCP, UDP, ICMP echo) */
#define FZ_ROW_ICMP_ERROR 2u  /* an ICMP error about an earlier packet */
#define FZ_ROW_ICMP 4u        /* any ICMP or ICMPv6 */

/* A run: rows that leave in one system call. Its address, socket, ECN and channel are those of its first row. */
typedef struct fz_run {
  int32_t first; /* row; the others follow by fz_batch.next */
  int32_t last;
  uint32_t count;
  uint32_t stride; /* size of every datagram but the last; for TUN: payload bytes per segment */
  uint32_t total;  /* bytes of the whole run, prefixes included, virtio-net header not */
  uint8_t vnet[10]; /* virtio-net header in front of the run (TUN only) */
  uint8_t zero[2];
} fz_run;

/* Gives a row to `length` bytes at `offset` with every column at its default: verdict FORWARD, all else unknown. */
static inline void fz_row_init(fz_batch *b, uint32_t row, uint32_t slot, uint32_t offset, uint32_t length) {
  b->slot[row] = slot;
  b->offset[row] = offset;
  b->length[row] = length;
  b->stride[row] = 0;
  b->socket[row] = 0;
  memset(&b->local[row], 0, sizeof b->local[row]);
  memset(&b->remote[row], 0, sizeof b->remote[row]);
  b->ecn[row] = 0;
  b->peer[row] = -1;
  b->session[row] = -1;
  b->channel[row] = 0;
  b->verdict[row] = FZ_FORWARD;
  b->reason[row] = 0;
  b->prefix_len[row] = 0;
  b->skip[row] = 0;
  b->ip_version[row] = 0;
  b->protocol[row] = 0;
  b->transport[row] = 0;
  b->flags[row] = 0;
  b->source_port[row] = 0;
  b->destination_port[row] = 0;
  b->next[row] = -1;
}

static inline void fz_row_drop(fz_batch *b, uint32_t row, uint8_t reason) {
  b->verdict[row] = FZ_DROP;
  b->reason[row] = reason;
}

static inline void fz_row_punt(fz_batch *b, uint32_t row, uint8_t reason) {
  b->verdict[row] = FZ_PUNT;
  b->reason[row] = reason;
}

/* Ends a batch's books: its size, and every dropped and punted row in reasons[reason] (256 places). Returns the rows punted. */
static inline uint32_t fz_batch_account(fz_batch *b, uint32_t *reasons) {
  uint32_t punted = 0;
  fz_histogram_add(&b->sizes, b->n);
  for (uint32_t row = 0; row < b->n; row++) {
    if (b->verdict[row] == FZ_DROP || b->verdict[row] == FZ_PUNT) reasons[b->reason[row]]++;
    punted += b->verdict[row] == FZ_PUNT;
  }
  return punted;
}

#endif
