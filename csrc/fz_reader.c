#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fz_reader.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ERROR_PAUSE_MS 10

static void ring_bell(int fd) {
  uint64_t one = 1;
  ssize_t done = write(fd, &one, sizeof one); /* fails only when the bell rings already */
  (void)done;
}

static void hush_bell(int fd) {
  uint64_t count;
  ssize_t done = read(fd, &count, sizeof count);
  (void)done;
}

int fz_reader_init(fz_reader *r, fz_ring *ring) {
  memset(r, 0, sizeof *r);
  r->ring = ring;
  r->ready_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  r->space_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  r->control_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (r->ready_fd < 0 || r->space_fd < 0 || r->control_fd < 0) return -errno;
  return -pthread_mutex_init(&r->lock, NULL);
}

void fz_reader_free(fz_reader *r) {
  close(r->ready_fd);
  close(r->space_fd);
  close(r->control_fd);
  pthread_mutex_destroy(&r->lock);
}

void fz_reader_set(fz_reader *r, const fz_reader_source *sources, uint32_t count) {
  if (count > FZ_READER_MAX) count = FZ_READER_MAX;
  pthread_mutex_lock(&r->lock);
  if (count) memcpy(r->sources, sources, count * sizeof *sources);
  r->count = count;
  pthread_mutex_unlock(&r->lock);
  ring_bell(r->control_fd);
}

void fz_reader_stop(fz_reader *r) {
  pthread_mutex_lock(&r->lock);
  r->stopping = 1;
  pthread_mutex_unlock(&r->lock);
  ring_bell(r->control_fd);
}

int fz_reader_take_error(fz_reader *r) {
  return atomic_exchange_explicit(&r->last_error, 0, memory_order_relaxed);
}

/* Sleeps until the consumer gives slots back or somebody wants something. */
static void wait_for_space(fz_reader *r) {
  if (!fz_ring_producer_sleeps(r->ring)) return;
  struct pollfd fds[2] = {{.fd = r->space_fd, .events = POLLIN}, {.fd = r->control_fd, .events = POLLIN}};
  poll(fds, 2, -1);
  hush_bell(r->space_fd);
}

/* An error that stays must not spin; a word from the owner ends the pause. */
static void pause_after_error(fz_reader *r) {
  struct pollfd control = {.fd = r->control_fd, .events = POLLIN};
  poll(&control, 1, ERROR_PAUSE_MS);
}

/* Reads a burst from every readable source. Returns 0, 1 when one refused, or -errno when a device is gone for good. */
static int read_sources(fz_reader *r, const struct pollfd *fds, uint32_t count) {
  int refused = 0;
  r->turn++;
  for (uint32_t n = 0; n < count; n++) {
    uint32_t i = (r->turn + n) % count;
    if (i >= r->count) continue;
    fz_reader_source *s = &r->sources[i];
    int wake = 0, got;
    if (s->fd != fds[i].fd || fds[i].revents == 0) continue;
    if (s->kind == FZ_READER_TUN) got = fz_tun_fill(s->fd, r->ring, FZ_READER_BURST, s->tun, &wake);
    else got = fz_udp_fill(s->fd, s->socket_id, s->port, r->ring, FZ_READER_BURST, s->udp, &wake);
    if (wake) ring_bell(r->ready_fd);
    /* A TUN descriptor whose device was deleted answers EBADFD for ever; one that is merely down answers EAGAIN. */
    if (s->kind == FZ_READER_TUN && (got == -ENODEV || got == -EBADF || got == -EBADFD)) return got;
    if (got < 0 && got != -EAGAIN && got != -EINTR) {
      atomic_store_explicit(&r->last_error, -got, memory_order_relaxed);
      refused = 1;
    }
  }
  return refused;
}

int fz_reader_run(fz_reader *r) {
  for (;;) {
    struct pollfd fds[FZ_READER_MAX + 1];
    pthread_mutex_lock(&r->lock);
    uint32_t count = r->count;
    for (uint32_t i = 0; i < count; i++) fds[i] = (struct pollfd){.fd = r->sources[i].fd, .events = POLLIN};
    int stopping = r->stopping;
    pthread_mutex_unlock(&r->lock);
    if (stopping) return 0;
    fds[count] = (struct pollfd){.fd = r->control_fd, .events = POLLIN};
    if (poll(fds, count + 1, -1) < 0 && errno != EINTR) return -errno;
    if (fds[count].revents) {
      hush_bell(r->control_fd);
      continue;
    }
    pthread_mutex_lock(&r->lock);
    int error = read_sources(r, fds, count);
    pthread_mutex_unlock(&r->lock);
    if (error) ring_bell(r->ready_fd); /* the consumer takes the error, so it must look */
    if (error < 0) return error;
    if (error) pause_after_error(r);
    if (fz_ring_free(r->ring) == 0) wait_for_space(r);
  }
}
