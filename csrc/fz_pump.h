/* The relay from socket to socket: fill, look up, group, send, over and over, for as long as data comes. System calls; not pure.
 *
 * Two sides take turns: 0 is the listen port, 1 the ports of allocations. Each has an epoll set with the sockets that it reads
 * (level-triggered: what is left in a socket brings it back behind the others), a ring, and a batch and runs over that ring's slab.
 * A call returns when somebody has to think, and the next one goes on where it stopped; so a relay under load costs its owner one
 * call in some milliseconds, whatever the sizes of batches are.
 *
 * All memory is the caller's. Not for concurrent use with whatever changes the relay's tables.
 */
#ifndef FZ_PUMP_H
#define FZ_PUMP_H

#include "fz_relay.h"
#include "fz_split.h"
#include "fz_udp.h"

#define FZ_PUMP_BYTES (1u << 20) /* after which a batch is full: what is read should still be in the cache when it is sent */
#define FZ_PUMP_PORTS 65536u
#define FZ_PUMP_NO_SOCKET (-1)
#define FZ_PUMP_BLOCKED (-2) /* something waits for this socket: runs for it are refused with EAGAIN */

#define FZ_PUMP_BUSY_NS 200000 /* waits that follow each other faster than this are worth a nap */
#define FZ_PUMP_NAP_NS 50000   /* the least the kernel's timers give is about twice that; a relayed round trip has milliseconds */

/* Datagrams that come one by one cost a read each, and a send each unless others of the same flow are in the batch. From JOIN_RATE
 * datagrams per second on, a round that found fewer than JOIN_ROWS is followed by a pause in which more can gather. At that rate
 * four come meanwhile; a relay that has less to do never pauses, and nor does one that cannot keep up: its batches are full. */
#define FZ_PUMP_JOIN_RATE 20000
#define FZ_PUMP_JOIN_ROWS 250
#define FZ_PUMP_JOIN_NS 150000 /* and what the kernel's timers are late, about 50 us */
#define FZ_PUMP_LOAD_NS 1000000 /* over which the rate is taken */

enum fz_pump_outcome {
  FZ_PUMP_IDLE = 0,    /* nothing came for a while */
  FZ_PUMP_BUSY = 1,    /* the time is up */
  FZ_PUMP_PUNTED = 2,  /* the batch of `side` has rows for the machine */
  FZ_PUMP_REFUSED = 3, /* run `index` of `side` was not wholly sent: `row` is its first one left, -1 all, `error` the errno */
};

enum fz_pump_stage { FZ_PUMP_FILL = 0, FZ_PUMP_SEND = 1, FZ_PUMP_RELEASE = 2 };

typedef struct fz_pump_side {
  int epoll; /* data.u64 of its events: descriptor << 16 | port */
  fz_ring *ring;
  fz_batch *batch;
  fz_run *runs; /* as many as the batch has rows */
  int32_t *table; /* scratch of fz_group_runs for table_size entries, a power of two of at least twice the batch's rows */
  uint32_t table_size;
  uint32_t run_count;
  fz_udp_stats *read;
} fz_pump_side;

typedef struct fz_pump_load {
  int64_t since_ns; /* when counting began */
  uint32_t rows;    /* since then */
  bool is_high;     /* as counted before */
  uint32_t round_rows, round_entries; /* of both sides since the round began */
} fz_pump_load;

/* Where the time goes. One round of reading in FZ_PUMP_SAMPLE is timed, since a clock reading costs as much as half a datagram. */
#define FZ_PUMP_SAMPLE 16u

enum fz_pump_lap { FZ_PUMP_LAP_READ = 0, FZ_PUMP_LAP_ROUTE = 1, FZ_PUMP_LAP_GROUP = 2, FZ_PUMP_LAP_SEND = 3, FZ_PUMP_LAPS = 4 };

typedef struct fz_pump_times {
  uint64_t rounds;  /* of reading, those that found nothing too */
  uint64_t sampled; /* how many of them were timed */
  int64_t ns[FZ_PUMP_LAPS]; /* of those */
  int64_t wait_ns;  /* for datagrams, of all */
  int64_t lap_ns;   /* when the present stage began */
  bool is_timed;    /* this round is */
} fz_pump_times;

typedef struct fz_pump {
  fz_relay *relay;
  const int32_t *fds; /* to send by: of IPv4 by port, then of IPv6 by port */
  fz_udp_stats *sent;
  uint32_t *reasons; /* 256 counters of dropped and punted rows */
  fz_pump_side sides[2];
  int side;
  int stage; /* enum fz_pump_stage of this side */
  uint32_t taken;
  uint32_t index;
  int32_t row;
  int error;
  int64_t waited_ns; /* when it waited last */
  bool has_napped;   /* and nothing has come since */
  fz_pump_load load;
  fz_pump_times times;
} fz_pump;

/* Reads from the sockets of an epoll set that are ready, at most max_reads entries, few of each in turn. Returns entries added;
 * errors of single sockets (ICMP errors of earlier sends) are taken off them and not reported. */
uint32_t fz_pump_fill(int epoll, fz_ring *ring, uint32_t max_reads, fz_udp_stats *stats);

/* Sends one run by the socket of its first row's port and of its remote's family. *row: see fz_udp_send_run. Returns 0 or the
 * errno; ENOENT without a socket, EAGAIN for a blocked one. */
int fz_pump_send(const int32_t *fds, fz_batch *b, const fz_run *run, int gso, int32_t *row, fz_udp_stats *stats);

/* Ends a round over both sides. True: a pause pays, since data comes fast but singly and little of it has gathered. */
bool fz_pump_end_round(fz_pump_load *load, int64_t now_ns);

/* Relays for about duration_ns, in batches of at most `reads` reads, and waits up to linger_ms for more. Batches are placed over
 * their rings' slabs beforehand. Returns enum fz_pump_outcome. */
int fz_pump_run(fz_pump *p, uint32_t reads, int64_t duration_ns, int linger_ms, int gso);

#endif
