/* Load through a relay: datagrams out by sendmmsg (single, or as GSO trains), in by recvmmsg with GRO, counted and paced on one
 * thread. The sinks copy only the head of what they receive, so the generator costs less than the relay it loads.
 *
 * A plan is an endless cycle of messages; neighbours of one socket leave in one call. Two streams run side by side: the data and,
 * where a test wants one, a flood. Rates and counts are in datagrams, never in trains.
 */
#ifndef PERF_RELAY_GENERATOR_H
#define PERF_RELAY_GENERATOR_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>

#define RL_HEAD 16u /* bytes of a datagram that a sink looks at */

typedef struct rl_message {
  int fd;
  uint32_t datagrams; /* in this message: 1, or the segments of its train */
  uint32_t call;      /* messages from here on that leave in one sendmmsg: this one and later ones of the same socket */
} rl_message;

typedef struct rl_plan {
  uint32_t n;
  uint32_t at; /* the next message */
  rl_message *messages;
  struct mmsghdr *headers;
} rl_plan;

typedef struct rl_sinks {
  int epoll;
  uint32_t size;      /* of every datagram that is expected, channel header included */
  uint32_t magic;     /* its four bytes at magic_at, in memory order */
  uint32_t magic_at;
} rl_sinks;

typedef struct rl_order {
  uint64_t duration_ns;
  uint64_t grace_ns;   /* how long after the last datagram arrivals still count */
  double rate;         /* datagrams per second; 0: as many as come back, at most `window` on their way */
  uint32_t window;     /* largest; halved when something is lost, then grown again */
  double flood_rate;   /* datagrams per second of the flood */
} rl_order;

typedef struct rl_result {
  uint64_t elapsed_ns; /* of sending */
  uint64_t sent;
  uint64_t received; /* within the grace */
  uint64_t wrong;    /* of another size or with other bytes at their head */
  uint64_t flooded;
  uint64_t refused; /* sends that the kernel did not take */
} rl_result;

/* Appends a message. Returns 0, or -1 without memory. `to` may be NULL for a connected socket; segment 0 sends one datagram. `data`
 * must outlive the plan. */
int rl_plan_add(rl_plan *p, int fd, const void *data, uint32_t size, uint32_t segment, const struct sockaddr_in *to);

/* Sets how many messages leave per call, at most `batch`. Call it once, after the last rl_plan_add. */
void rl_plan_seal(rl_plan *p, uint32_t batch);

void rl_plan_free(rl_plan *p);

/* Throws away what waits in the sinks, until nothing has come for `quiet_ns`. */
void rl_drain(const rl_sinks *sinks, uint64_t quiet_ns);

void rl_run(rl_plan *data, rl_plan *flood, const rl_sinks *sinks, const rl_order *order, rl_result *result);

#endif
