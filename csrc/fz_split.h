/* Uplink offload: cuts TUN reads (virtio-net header + packet or super-packet) into packets with complete checksums, and groups the
 * sealed datagrams into GSO runs.
 *
 * A ring slot holds the 10-byte virtio-net header at its start; the offset column tells where the packet starts (10) and the length
 * column counts the packet only. Each packet is copied once, its payload summed on the way, to where FZ_SEAL_HEAD bytes before it
 * and FZ_SEAL_TAIL behind it are free: sealed, the datagrams of one super-packet lie back to back.
 */
#ifndef FZ_SPLIT_H
#define FZ_SPLIT_H

#include "fz_ring.h"

#define FZ_VNET_SIZE 10u
#define FZ_SEAL_HEAD 16u /* WireGuard data header */
#define FZ_SEAL_TAIL 16u /* Poly1305 tag */
#define FZ_MAX_SPLIT 256u
#define FZ_MAX_GSO_SEGMENTS 64u

/* virtio_net_hdr (virtio 1.2, 5.1.6), native byte order on TUN devices. */
enum { FZ_VNET_NEEDS_CSUM = 1, FZ_GSO_NONE = 0, FZ_GSO_TCPV4 = 1, FZ_GSO_TCPV6 = 4, FZ_GSO_UDP = 5 };

typedef struct fz_vnet {
  uint8_t flags;
  uint8_t gso_type;
  uint16_t header_len; /* not trusted on reading: forwarded packets carry the length of their linear part */
  uint16_t gso_size;
  uint16_t csum_start;
  uint16_t csum_offset;
} fz_vnet;

static inline fz_vnet fz_vnet_load(const uint8_t *p) {
  fz_vnet v;
  memcpy(&v, p, FZ_VNET_SIZE);
  return v;
}

static inline void fz_vnet_store(uint8_t *p, const fz_vnet *v) { memcpy(p, v, FZ_VNET_SIZE); }

/* Splits up to `entries` of the oldest slots into rows behind the b->n rows there are, from b->slab + *used on; *used moves on. A
 * malformed read becomes one dropped row. Returns slots consumed: stops in front of a slot whose rows or bytes do not fit, except
 * that an empty batch drops it as too big for ever. */
uint32_t fz_split_batch(fz_ring *ring, uint32_t entries, fz_batch *b, uint64_t *used);

/* Groups FORWARD rows into runs of equal datagrams, only the last of a run shorter, per (local, remote, socket, ECN, channel); only
 * the most recent run of a key grows, runs stay in the order of their first rows. `table` is scratch for `table_size` entries, a
 * power of two of at least twice the rows. Rows for which there is no run left are dropped. Returns the number of runs. */
uint32_t fz_group_runs(fz_batch *b, fz_run *runs, uint32_t capacity, int32_t *table, uint32_t table_size);

#endif
