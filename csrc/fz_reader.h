/* A reader: one thread that blocks in the kernel for a few descriptors and fills one ring.
 *
 * The thread enters fz_reader_run and stays until fz_reader_stop. It sleeps in poll; when a descriptor is readable it fills the
 * ring without blocking, and when the ring is full it sleeps until the consumer has given slots back: a full ring stops its own
 * reader and nothing else. Descriptors can be replaced under it: fz_reader_set returns only when no read on the former ones is
 * under way, so they may be closed.
 *   ready_fd  eventfd the reader rings when the consumer sleeps (fz_ring_commit said so)
 *   space_fd  eventfd the consumer rings when the reader waits for room (fz_ring_release said so)
 */
#ifndef FZ_READER_H
#define FZ_READER_H

#include <pthread.h>
#include <stdatomic.h>

#include "fz_ring.h"
#include "fz_tun.h"
#include "fz_udp.h"

#define FZ_READER_MAX 8u
#define FZ_READER_BURST 8u /* reads between two looks at the other descriptors */

enum fz_reader_kind { FZ_READER_TUN = 0, FZ_READER_UDP = 1 };

typedef struct fz_reader_source {
  int fd;
  uint16_t socket_id;
  uint16_t port;
  enum fz_reader_kind kind;
  fz_udp_stats *udp;
  fz_tun_stats *tun;
} fz_reader_source;

typedef struct fz_reader {
  fz_ring *ring;
  pthread_mutex_t lock; /* held while reading and while the sources change */
  fz_reader_source sources[FZ_READER_MAX];
  uint32_t count;
  int ready_fd;
  int space_fd;
  int control_fd;
  int stopping;
  uint32_t turn;          /* source that is read first: each in turn, or a full ring would always feed the same one */
  _Atomic int last_error; /* errno of the last refused read; taken by whoever looks, who must not wait for a read */
} fz_reader;

/* Returns 0 or -errno. */
int fz_reader_init(fz_reader *r, fz_ring *ring);
void fz_reader_free(fz_reader *r);
void fz_reader_set(fz_reader *r, const fz_reader_source *sources, uint32_t count);
void fz_reader_stop(fz_reader *r);
/* Blocks. Returns 0 when stopped, -errno when a descriptor died (a TUN device that is gone). */
int fz_reader_run(fz_reader *r);
int fz_reader_take_error(fz_reader *r);

#endif
