/* TUN reads and writes with the virtio-net header (IFF_VNET_HDR). System calls; not pure.
 *
 * A read is one packet or one super-packet behind its 10-byte header; it fills one ring slot, header included. A write gathers the
 * header of the run and its rows: prefix, then what the prefix does not replace.
 * All functions return a count or -errno and never block on a non-blocking descriptor.
 */
#ifndef FZ_TUN_H
#define FZ_TUN_H

#include "fz_batch.h"
#include "fz_ring.h"

#define FZ_VNET_SIZE 10u

typedef struct fz_tun_stats {
  uint64_t reads;
  uint64_t read_bytes;
  uint64_t writes;
  uint64_t written_bytes;
  uint64_t written; /* packets */
} fz_tun_stats;

/* Reads until nothing is left, the ring is full or max_reads packets have arrived. Returns entries added or -errno;
 * -ENODEV when the device is gone. *wake: the consumer sleeps and must be woken. */
int fz_tun_fill(int fd, fz_ring *ring, uint32_t max_reads, fz_tun_stats *stats, int *wake);

/* Writes one run. Returns 0 or -errno (EAGAIN: later; EINVAL: this super-packet is not taken). */
int fz_tun_write_run(int fd, fz_batch *b, const fz_run *run, fz_tun_stats *stats);

#endif
