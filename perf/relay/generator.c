#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "generator.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <time.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define EVENTS 128
#define READS 32u
#define SMALLEST_WINDOW 32u
#define STALL_NS 3000000u /* nothing comes back for so long: what was on its way is lost */
#define NAP_NS 30000u
#define LAG_NS 2000000u

typedef union control {
  char bytes[64];
  struct cmsghdr align;
} control;

typedef struct parcel {
  struct iovec vector;
  struct sockaddr_in to;
  control space;
} parcel;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- plans ---- */

static int grow(rl_plan *p) {
  if (p->n & (p->n - 1u)) return 0; /* room until the next power of two */
  size_t room = p->n ? 2u * (size_t)p->n : 1u;
  rl_message *messages = realloc(p->messages, room * sizeof *messages);
  if (messages) p->messages = messages;
  struct mmsghdr *headers = realloc(p->headers, room * sizeof *headers);
  if (headers) p->headers = headers;
  return messages && headers ? 0 : -1;
}

int rl_plan_add(rl_plan *p, int fd, const void *data, uint32_t size, uint32_t segment, const struct sockaddr_in *to) {
  parcel *own = calloc(1, sizeof *own);
  if (own == NULL || grow(p) < 0) {
    free(own);
    return -1;
  }
  own->vector = (struct iovec){(void *)(uintptr_t)data, size};
  struct msghdr m = {.msg_iov = &own->vector, .msg_iovlen = 1};
  if (to) {
    own->to = *to;
    m.msg_name = &own->to;
    m.msg_namelen = sizeof own->to;
  }
  if (segment && segment < size) {
    uint16_t value = (uint16_t)segment;
    struct cmsghdr *c = &own->space.align;
    c->cmsg_level = SOL_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof value);
    memcpy(CMSG_DATA(c), &value, sizeof value);
    m.msg_control = own->space.bytes;
    m.msg_controllen = CMSG_SPACE(sizeof value);
  }
  p->headers[p->n] = (struct mmsghdr){.msg_hdr = m};
  p->messages[p->n++] = (rl_message){fd, segment ? (size + segment - 1u) / segment : 1u, 1u};
  return 0;
}

void rl_plan_seal(rl_plan *p, uint32_t batch) {
  for (uint32_t i = p->n; i-- > 0;) {
    const rl_message *next = i + 1 < p->n ? &p->messages[i + 1] : NULL;
    if (next && next->fd == p->messages[i].fd && next->call < batch) p->messages[i].call = next->call + 1u;
  }
}

void rl_plan_free(rl_plan *p) {
  for (uint32_t i = 0; i < p->n; i++) {
    struct iovec *vector = p->headers[i].msg_hdr.msg_iov; /* the first member of its parcel */
    free(vector);
  }
  free(p->messages);
  free(p->headers);
  memset(p, 0, sizeof *p);
}

/* Sends messages with about `budget` datagrams in one call, one message at least. Returns datagrams sent; *refused counts calls. */
static uint32_t send_some(rl_plan *p, uint64_t budget, uint64_t *refused) {
  const rl_message *m = &p->messages[p->at];
  uint32_t count = m->call, sent = 0;
  uint64_t fit = budget / m->datagrams;
  if (count > fit) count = fit ? (uint32_t)fit : 1u;
  int done = sendmmsg(m->fd, &p->headers[p->at], count, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (done <= 0) {
    ++*refused;
    done = 1; /* go on behind the one that was refused */
  } else {
    for (int i = 0; i < done; i++) sent += m[i].datagrams;
  }
  p->at += (uint32_t)done;
  if (p->at >= p->n) p->at = 0;
  return sent;
}

/* ---- sinks ---- */

static uint32_t segment_of(struct msghdr *m, uint32_t length) {
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
      int value;
      memcpy(&value, CMSG_DATA(c), sizeof value);
      return value > 0 ? (uint32_t)value : length;
    }
  }
  return length;
}

/* Counts what one socket has, 32 reads at most. Returns datagrams. */
static uint64_t receive(int fd, const rl_sinks *sinks, uint64_t *wrong) {
  static __thread struct mmsghdr headers[READS];
  static __thread struct iovec vectors[READS];
  static __thread uint8_t heads[READS][RL_HEAD];
  static __thread control spaces[READS];
  uint64_t total = 0;
  for (uint32_t i = 0; i < READS; i++) {
    vectors[i] = (struct iovec){heads[i], RL_HEAD};
    headers[i].msg_hdr = (struct msghdr){
        .msg_iov = &vectors[i], .msg_iovlen = 1, .msg_control = spaces[i].bytes, .msg_controllen = sizeof spaces[i].bytes};
  }
  int got = recvmmsg(fd, headers, READS, MSG_DONTWAIT | MSG_TRUNC, NULL);
  for (int i = 0; i < got; i++) {
    uint32_t length = headers[i].msg_len, segment = segment_of(&headers[i].msg_hdr, length);
    uint64_t count = segment ? (length + segment - 1u) / segment : 1u;
    total += count;
    if (segment != sinks->size || length % segment || memcmp(heads[i] + sinks->magic_at, &sinks->magic, 4) != 0) *wrong += count;
  }
  return total;
}

static uint64_t receive_all(const rl_sinks *sinks, uint64_t *wrong) {
  struct epoll_event events[EVENTS];
  uint64_t total = 0;
  int ready = epoll_wait(sinks->epoll, events, EVENTS, 0);
  for (int i = 0; i < ready; i++) total += receive(events[i].data.fd, sinks, wrong);
  return total;
}

static void nap(void) {
  struct timespec t = {0, NAP_NS};
  clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

void rl_drain(const rl_sinks *sinks, uint64_t quiet_ns) {
  uint64_t wrong = 0, last = now_ns();
  while (now_ns() - last < quiet_ns) {
    if (receive_all(sinks, &wrong)) last = now_ns();
    else nap();
  }
}

/* ---- runs ---- */

typedef struct flight {
  uint64_t out;      /* datagrams on their way */
  uint32_t window;
  uint64_t heard_ns; /* of the last arrival */
} flight;

/* What may be sent now by a closed loop. */
static uint64_t room_of(flight *f, uint64_t got, uint64_t now, uint32_t largest) {
  f->out = got < f->out ? f->out - got : 0;
  if (got) {
    f->heard_ns = now;
    f->window += (uint32_t)(got / 64u + 1u);
    if (f->window > largest) f->window = largest;
  } else if (f->out && now - f->heard_ns > STALL_NS) {
    f->out = 0;
    f->heard_ns = now;
    f->window = f->window / 2 > SMALLEST_WINDOW ? f->window / 2 : SMALLEST_WINDOW;
  }
  return f->out < f->window ? f->window - f->out : 0;
}

/* What an open loop may send now. What we could not send for LAG_NS and longer, since we were not let run, is never made up for: it
 * would be a burst that nobody asked for. */
typedef struct pace {
  double rate;
  double credit;
  uint64_t at_ns;
} pace;

static uint64_t due(pace *p, uint64_t now, uint64_t least) {
  double most = p->rate * (double)LAG_NS * 1e-9 + (double)least;
  p->credit += p->rate * (double)(now - p->at_ns) * 1e-9;
  p->at_ns = now;
  if (p->credit > most) p->credit = most;
  return (uint64_t)p->credit;
}

static uint64_t send_up_to(rl_plan *p, uint64_t room, uint64_t limit, uint64_t *refused) {
  uint64_t sent = 0;
  if (room > limit) room = limit;
  while (sent < room && p->messages[p->at].datagrams <= room - sent) {
    uint32_t n = send_some(p, room - sent, refused);
    sent += n;
    if (n == 0) break;
  }
  return sent;
}

void rl_run(rl_plan *data, rl_plan *flood, const rl_sinks *sinks, const rl_order *o, rl_result *r) {
  uint64_t start = now_ns(), now = start;
  flight f = {.window = o->window < 128 ? o->window : 128, .heard_ns = start};
  pace data_pace = {o->rate, 0, start}, flood_pace = {o->flood_rate, 0, start};
  uint64_t unit = data->n ? data->messages[0].datagrams : 1, limit = unit > 1 ? 32u * unit : 64u; /* between two looks at the sinks */
  memset(r, 0, sizeof *r);
  while (now - start < o->duration_ns) {
    uint64_t got = receive_all(sinks, &r->wrong), flooded = 0, sent = 0;
    r->received += got;
    if (data->n) sent = send_up_to(data, o->rate > 0 ? due(&data_pace, now, unit) : room_of(&f, got, now, o->window), limit, &r->refused);
    data_pace.credit -= (double)sent;
    f.out += sent;
    r->sent += sent;
    if (flood && flood->n) flooded = send_up_to(flood, due(&flood_pace, now, 1), limit, &r->refused);
    flood_pace.credit -= (double)flooded;
    r->flooded += flooded;
    if (!sent && !flooded && !got) nap();
    now = now_ns();
  }
  r->elapsed_ns = now - start;
  uint64_t end = now;
  while (r->received < r->sent && now - end < o->grace_ns) {
    uint64_t got = receive_all(sinks, &r->wrong);
    r->received += got;
    if (!got) nap();
    now = now_ns();
  }
}
