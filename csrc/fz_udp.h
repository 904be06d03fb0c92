/* UDP in big units: GRO trains into ring slots, runs of a batch out as GSO sends. System calls; not pure.
 *
 * Receiving: one recvmmsg fills up to FZ_UDP_READS consecutive free slots; each slot becomes one ring entry with its sender, the
 * local address it was sent to (IP_PKTINFO, IPV6_PKTINFO), the ECN bits and the segment size of a GRO train (UDP_GRO).
 * Sending: one sendmsg per run; rows are gathered by iovec (prefix, then what it does not replace), so the kernel cuts by size
 * whatever the memory looks like (UDP_SEGMENT).
 * All functions return a count or -errno and never block on a non-blocking socket.
 */
#ifndef FZ_UDP_H
#define FZ_UDP_H

#include "fz_batch.h"
#include "fz_ring.h"

#define FZ_UDP_READS 8u       /* slots per recvmmsg */
#define FZ_UDP_SENDS 32u      /* datagrams per sendmmsg */
#define FZ_UDP_MAX_SEGMENTS 64u /* UDP_MAX_SEGMENTS of the first kernels that had UDP_SEGMENT */

typedef struct fz_udp_stats {
  uint64_t receive_calls;
  uint64_t receive_bytes;
  uint64_t received; /* ring entries: datagrams or GRO trains */
  uint64_t send_calls;
  uint64_t send_bytes;
  uint64_t sent; /* datagrams */
  uint64_t truncated; /* reads longer than a slot: dropped */
} fz_udp_stats;

/* Reads until the socket is empty, the ring is full or max_reads entries have arrived.
 * port is the socket's own, host order. Returns entries added (0: nothing there), or -errno when nothing could be read. */
int fz_udp_fill(int fd, uint16_t socket_id, uint16_t port, fz_ring *ring, uint32_t max_reads, fz_udp_stats *stats, int *wake);

/* Sends the rows of one run, beginning with *row. With gso in calls of up to 64 equal datagrams, else one by one.
 * with_ecn = 0 leaves out the ECN control message; so does Not-ECT, which is what a socket sends unasked. Returns datagrams sent;
 * *row is the first row not sent (-1: all gone) and *error the errno that stopped it (0: none). */
int fz_udp_send_run(int fd, fz_batch *b, const fz_run *run, int gso, int with_ecn, int32_t *row, int *error, fz_udp_stats *stats);

/* Sends the first rows of up to FZ_UDP_SENDS runs, each a datagram of its own, in one call. Returns how many were sent; why the next
 * one was not, fz_udp_send_run tells. */
uint32_t fz_udp_send_singles(int fd, const fz_batch *b, const fz_run *runs, uint32_t count, fz_udp_stats *stats);

/* Sends size bytes in one call: one datagram, or with stride > 0 datagrams of stride bytes, the last one shorter. local's family 0
 * lets the kernel choose the source, ecn < 0 leaves out the ECN control message. Returns 0 or -errno. */
int fz_udp_send_bytes(int fd, const uint8_t *data, size_t size, uint16_t stride, const fz_addr *local, const fz_addr *remote, int ecn,
                      fz_udp_stats *stats);

#endif
