#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fz_pump.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <time.h>

#define EVENTS 64
#define SIDES 2

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint32_t fz_pump_fill(int epoll, fz_ring *ring, uint32_t max_reads, fz_udp_stats *stats) {
  struct epoll_event events[EVENTS];
  uint32_t total = 0;
  uint64_t enough = stats->receive_bytes + FZ_PUMP_BYTES;
  while (total < max_reads) {
    int ready = epoll_wait(epoll, events, EVENTS, 0), wake = 0;
    for (int i = 0; i < ready; i++) {
      int fd = (int)(events[i].data.u64 >> 16), got;
      uint16_t port = (uint16_t)(events[i].data.u64 & 0xFFFFu);
      uint32_t room;
      do {
        room = max_reads - total < FZ_UDP_READS ? max_reads - total : FZ_UDP_READS;
        if (room == 0 || fz_ring_free(ring) == 0 || stats->receive_bytes >= enough) return total;
        got = fz_udp_fill(fd, port, port, ring, room, stats, &wake);
        if (got > 0) total += (uint32_t)got;
      } while (ready == 1 && got == (int)room); /* others that are ready have their turn before this one's next */
    }
    if (ready < EVENTS) break;
  }
  return total;
}

static int32_t socket_of(const int32_t *fds, const fz_batch *b, const fz_run *run) {
  return fds[(b->remote[run->first].family == 6 ? FZ_PUMP_PORTS : 0u) + b->socket[run->first]];
}

int fz_pump_send(const int32_t *fds, fz_batch *b, const fz_run *run, int gso, int32_t *row, fz_udp_stats *stats) {
  int error = 0;
  int32_t fd = socket_of(fds, b, run);
  if (fd < 0) return fd == FZ_PUMP_BLOCKED ? EAGAIN : ENOENT;
  fz_udp_send_run(fd, b, run, gso, 1, row, &error, stats);
  return error;
}

/* How many runs from p->index on are single datagrams for one socket. */
static uint32_t count_singles(const fz_pump *p, const fz_pump_side *side, int32_t fd) {
  uint32_t n = 0;
  while (n < FZ_UDP_SENDS && p->index + n < side->run_count) {
    const fz_run *run = &side->runs[p->index + n];
    if (run->count != 1 || socket_of(p->fds, side->batch, run) != fd) break;
    n++;
  }
  return n;
}

/* Sends from p->index on. False: a run was refused. */
static bool send_runs(fz_pump *p, fz_pump_side *side, int gso) {
  while (p->index < side->run_count) {
    const fz_run *run = &side->runs[p->index];
    int32_t fd = socket_of(p->fds, side->batch, run);
    uint32_t singles = fd < 0 ? 0 : count_singles(p, side, fd);
    if (singles > 1) {
      uint32_t sent = fz_udp_send_singles(fd, side->batch, run, singles, p->sent);
      p->index += sent;
      if (sent) continue;
    }
    p->row = run->first;
    p->error = fz_pump_send(p->fds, side->batch, run, gso, &p->row, p->sent);
    if (p->error) return false;
    p->index++;
  }
  return true;
}

static void start_watch(fz_pump_times *t) {
  t->is_timed = t->rounds++ % FZ_PUMP_SAMPLE == 0;
  t->sampled += t->is_timed;
  if (t->is_timed) t->lap_ns = now_ns();
}

static void lap(fz_pump_times *t, enum fz_pump_lap stage) {
  if (!t->is_timed) return;
  int64_t now = now_ns();
  t->ns[stage] += now - t->lap_ns;
  t->lap_ns = now;
}

static bool take(fz_pump *p, fz_pump_side *side, uint32_t reads) {
  start_watch(&p->times);
  fz_pump_fill(side->epoll, side->ring, reads, side->read);
  lap(&p->times, FZ_PUMP_LAP_READ);
  uint32_t entries = fz_ring_ready(side->ring), size = 64;
  if (entries == 0) return false;
  fz_batch *b = side->batch;
  b->n = 0;
  if (entries > reads) entries = reads;
  p->taken = p->side ? fz_relay_from_peers(p->relay, side->ring, entries, b) : fz_relay_from_clients(p->relay, side->ring, entries, b);
  lap(&p->times, FZ_PUMP_LAP_ROUTE);
  while (size < 2u * b->n) size *= 2u;
  side->run_count = fz_group_runs(b, side->runs, b->capacity, side->table, size);
  lap(&p->times, FZ_PUMP_LAP_GROUP);
  p->index = 0;
  p->load.round_rows += b->n;
  p->load.round_entries += p->taken;
  return true;
}

static void nap(fz_pump *p, long ns) {
  struct timespec t = {0, ns};
  int64_t start = now_ns();
  nanosleep(&t, NULL);
  p->times.wait_ns += now_ns() - start;
}

bool fz_pump_end_round(fz_pump_load *load, int64_t now) {
  int64_t elapsed = now - load->since_ns;
  load->rows += load->round_rows;
  if (elapsed >= FZ_PUMP_LOAD_NS) {
    load->is_high = (int64_t)load->rows * 1000000000 / elapsed >= FZ_PUMP_JOIN_RATE;
    load->since_ns = now;
    load->rows = 0;
  }
  bool came_singly = load->round_rows < 2u * load->round_entries, came_few = load->round_rows < FZ_PUMP_JOIN_ROWS;
  load->round_rows = load->round_entries = 0;
  return load->is_high && came_singly && came_few;
}

/* Waits until either side has something. False: it has not, or a signal came. When it has waited only just before, data comes one by
 * one and every wake-up costs as much as several datagrams: then it naps, once, so that some have come meanwhile. */
static bool wait_for_more(fz_pump *p, int linger_ms) {
  struct pollfd fds[SIDES] = {{.fd = p->sides[0].epoll, .events = POLLIN}, {.fd = p->sides[1].epoll, .events = POLLIN}};
  int64_t now = now_ns(), since = now - p->waited_ns;
  if (linger_ms <= 0) return false;
  p->waited_ns = now;
  p->has_napped = since < FZ_PUMP_BUSY_NS && !p->has_napped;
  if (p->has_napped) {
    nap(p, FZ_PUMP_NAP_NS);
    return true;
  }
  int ready = poll(fds, SIDES, linger_ms);
  p->times.wait_ns += now_ns() - now;
  return ready > 0;
}

int fz_pump_run(fz_pump *p, uint32_t reads, int64_t duration_ns, int linger_ms, int gso) {
  int64_t end = now_ns() + duration_ns;
  int quiet = 0;
  if (p->stage == FZ_PUMP_SEND) p->index++; /* behind the run that was refused */
  if (p->times.is_timed) p->times.lap_ns = now_ns(); /* what the owner did meanwhile is not ours */
  for (;;) {
    fz_pump_side *side = &p->sides[p->side];
    if (p->stage == FZ_PUMP_SEND) {
      bool is_sent = send_runs(p, side, gso);
      lap(&p->times, FZ_PUMP_LAP_SEND);
      if (!is_sent) return FZ_PUMP_REFUSED;
      p->stage = FZ_PUMP_RELEASE;
      if (fz_batch_account(side->batch, p->reasons)) return FZ_PUMP_PUNTED;
    }
    if (p->stage == FZ_PUMP_RELEASE) {
      fz_ring_release(side->ring, p->taken);
      p->stage = FZ_PUMP_FILL;
      if (now_ns() >= end) return FZ_PUMP_BUSY;
    }
    if (quiet >= SIDES) {
      if (!wait_for_more(p, linger_ms)) return FZ_PUMP_IDLE;
      quiet = 0;
    }
    p->side = 1 - p->side;
    if (p->side == 0 && fz_pump_end_round(&p->load, now_ns())) nap(p, FZ_PUMP_JOIN_NS);
    if (take(p, &p->sides[p->side], reads)) {
      p->stage = FZ_PUMP_SEND;
      p->has_napped = false;
      quiet = 0;
    } else {
      quiet++;
    }
  }
}
