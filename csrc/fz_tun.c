#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fz_tun.h"

#include <errno.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_ROWS 256u /* rows of one super-packet */

int fz_tun_fill(int fd, fz_ring *ring, uint32_t max_reads, fz_tun_stats *stats, int *wake) {
  uint32_t total = 0;
  *wake = 0;
  while (total < max_reads && fz_ring_free(ring) > 0) {
    uint32_t slot = fz_ring_head(ring);
    ssize_t got = read(fd, ring->slab + (size_t)slot * ring->slot_size, ring->slot_size);
    if (got < 0) {
      if (errno == EINTR) continue;
      return total > 0 ? (int)total : -errno;
    }
    if (got == 0) return total > 0 ? (int)total : -ENODEV;
    if (got < (ssize_t)FZ_VNET_SIZE) continue;
    ring->offset[slot] = FZ_VNET_SIZE;
    ring->length[slot] = (uint32_t)got - FZ_VNET_SIZE;
    ring->stride[slot] = 0;
    ring->socket[slot] = 0;
    ring->ecn[slot] = 0;
    stats->reads++;
    stats->read_bytes += (uint64_t)got - FZ_VNET_SIZE;
    if (fz_ring_commit(ring, 1)) *wake = 1;
    total++;
  }
  return (int)total;
}

int fz_tun_write_run(int fd, fz_batch *b, const fz_run *run, fz_tun_stats *stats) {
  struct iovec vectors[1 + 2 * MAX_ROWS];
  size_t n = 1, bytes = 0;
  vectors[0].iov_base = (void *)(uintptr_t)run->vnet;
  vectors[0].iov_len = FZ_VNET_SIZE;
  uint32_t count = 0;
  for (int32_t row = run->first; row >= 0 && count < MAX_ROWS; row = b->next[row], count++) {
    if (b->prefix_len[row]) {
      vectors[n].iov_base = b->prefix + (size_t)row * FZ_PREFIX_SIZE;
      vectors[n++].iov_len = b->prefix_len[row];
      bytes += b->prefix_len[row];
    }
    vectors[n].iov_base = b->slab + b->offset[row] + b->skip[row];
    vectors[n].iov_len = b->length[row] - b->skip[row];
    bytes += vectors[n++].iov_len;
  }
  ssize_t done;
  do {
    done = writev(fd, vectors, (int)n);
  } while (done < 0 && errno == EINTR);
  stats->writes++;
  if (done < 0) return -errno;
  stats->written += count;
  stats->written_bytes += bytes;
  return 0;
}
