// sources: fz_reader.c fz_udp.c fz_tun.c
// sanitize: thread
/* A reader thread over real sockets and a packet pipe: datagrams arrive in order and whole through a small ring that is often full;
 * sockets are replaced, errors taken and signals raised under the live reader; a device that ends, ends the reader. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fz_test.h"

#include "fz_reader.h"

enum { SLOTS = 8, SLOT_SIZE = 2048, TOTAL = 20000, ROUNDS = 40, WINDOW = 64 };

typedef struct bench {
  fz_reader reader;
  fz_ring *ring;
  pthread_t thread;
  int result;
} bench;

static void *run(void *argument) {
  bench *b = argument;
  b->result = fz_reader_run(&b->reader);
  return NULL;
}

static void start(bench *b) {
  b->ring = test_ring(SLOTS, SLOT_SIZE);
  b->result = 1;
  CHECK(fz_reader_init(&b->reader, b->ring) == 0);
  CHECK(pthread_create(&b->thread, NULL, run, b) == 0);
}

static void finish(bench *b, int expected) {
  CHECK(pthread_join(b->thread, NULL) == 0);
  CHECK(b->result == expected);
  fz_reader_free(&b->reader);
  test_ring_free(b->ring);
}

static int udp_socket(struct sockaddr_in *bound) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  socklen_t size = sizeof *bound;
  *bound = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  CHECK(fd >= 0 && bind(fd, (struct sockaddr *)bound, size) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)bound, &size) == 0);
  return fd;
}

static fz_reader_source udp_source(int fd, fz_udp_stats *stats) {
  return (fz_reader_source){.fd = fd, .socket_id = 4, .port = 1, .kind = FZ_READER_UDP, .udp = stats};
}

/* Sleeps as the tick does until entries are ready. False: the bell rang for something else. */
static int wait_ready(bench *b) {
  if (fz_ring_ready(b->ring) > 0 || !fz_ring_consumer_sleeps(b->ring)) return fz_ring_ready(b->ring) > 0;
  struct pollfd p = {.fd = b->reader.ready_fd, .events = POLLIN};
  uint64_t count;
  CHECK(poll(&p, 1, 30000) == 1); /* half a minute without a wake-up is a lost one */
  CHECK(read(p.fd, &count, sizeof count) == sizeof count);
  return fz_ring_ready(b->ring) > 0;
}

static void give_back(bench *b, uint32_t n) {
  uint64_t one = 1;
  if (fz_ring_release(b->ring, n)) CHECK(write(b->reader.space_fd, &one, sizeof one) == sizeof one);
}

static uint64_t number_at(const bench *b, uint32_t slot) {
  uint64_t number;
  memcpy(&number, b->ring->slab + (size_t)slot * SLOT_SIZE + b->ring->offset[slot], sizeof number);
  return number;
}

/* Two sockets feed one ring; each one's datagrams stay in order. */
static void test_datagrams_arrive_in_order_through_a_full_ring(void) {
  bench b;
  struct sockaddr_in to[2];
  fz_udp_stats stats[2] = {{0}, {0}};
  int in[2] = {udp_socket(&to[0]), udp_socket(&to[1])}, out = socket(AF_INET, SOCK_DGRAM, 0);
  uint64_t sent = 0, got[2] = {0, 0};
  start(&b);
  fz_reader_source sources[2] = {udp_source(in[0], &stats[0]), udp_source(in[1], &stats[1])};
  sources[1].socket_id = 5;
  fz_reader_set(&b.reader, sources, 2);
  while (got[0] + got[1] < TOTAL) {
    for (; sent < TOTAL && sent < got[0] + got[1] + WINDOW; sent++) {
      uint64_t number = sent / 2;
      CHECK(sendto(out, &number, sizeof number, 0, (struct sockaddr *)&to[sent & 1], sizeof to[0]) == sizeof number);
    }
    if (sent % 1000 == 0) pthread_kill(b.thread, SIGUSR1);
    CHECK(fz_reader_take_error(&b.reader) == 0);
    if (!wait_ready(&b)) continue;
    uint32_t slot = fz_ring_tail(b.ring), which = b.ring->socket[slot] - 4u;
    CHECK(which < 2 && b.ring->length[slot] == sizeof sent && b.ring->remote[slot].family == 4);
    CHECK(number_at(&b, slot) == got[which]++);
    give_back(&b, 1);
  }
  fz_reader_stop(&b.reader);
  finish(&b, 0);
  CHECK(stats[0].received + stats[1].received == TOTAL);
  close(in[0]), close(in[1]), close(out);
}

/* After fz_reader_set nobody reads the former socket: it is closed at once and its number goes to the next one. */
static void test_sockets_are_replaced_under_the_reader(void) {
  bench b;
  fz_udp_stats *stats = NULL;
  int out = socket(AF_INET, SOCK_DGRAM, 0);
  start(&b);
  for (uint64_t round = 0; round < ROUNDS; round++) {
    struct sockaddr_in to;
    int in = udp_socket(&to);
    stats = test_alloc(1, sizeof *stats);
    fz_reader_source source = udp_source(in, stats);
    fz_reader_set(&b.reader, &source, 1);
    CHECK(sendto(out, &round, sizeof round, 0, (struct sockaddr *)&to, sizeof to) == sizeof round);
    while (!wait_ready(&b)) continue;
    CHECK(number_at(&b, fz_ring_tail(b.ring)) == round);
    for (int i = 0; i < 20; i++) sendto(out, &round, sizeof round, 0, (struct sockaddr *)&to, sizeof to);
    fz_reader_set(&b.reader, NULL, 0); /* often while the reader waits for room */
    CHECK(close(in) == 0);
    free(stats);
    while (fz_ring_ready(b.ring) > 0) give_back(&b, 1);
  }
  fz_reader_stop(&b.reader);
  finish(&b, 0);
  close(out);
}

/* A bad UDP descriptor is an error that is told, and told again; the other socket is read on. */
static void test_an_error_of_one_socket_leaves_the_other(void) {
  bench b;
  struct sockaddr_in to;
  fz_udp_stats stats[2] = {{0}, {0}};
  int pair[2], in = udp_socket(&to), out = socket(AF_INET, SOCK_DGRAM, 0), error = 0;
  CHECK(pipe(pair) == 0 && write(pair[1], "x", 1) == 1); /* recvmmsg on a pipe: ENOTSOCK, for ever */
  start(&b);
  fz_reader_source sources[2] = {udp_source(pair[0], &stats[0]), udp_source(in, &stats[1])};
  fz_reader_set(&b.reader, sources, 2);
  uint64_t number = 7;
  CHECK(sendto(out, &number, sizeof number, 0, (struct sockaddr *)&to, sizeof to) == sizeof number);
  for (int looks = 0; fz_ring_ready(b.ring) == 0 || error == 0; looks++) {
    CHECK(looks < 3000);
    if (error == 0) error = fz_reader_take_error(&b.reader);
    poll(NULL, 0, 10);
  }
  CHECK(error == ENOTSOCK && number_at(&b, fz_ring_tail(b.ring)) == 7);
  fz_reader_stop(&b.reader);
  finish(&b, 0);
  close(pair[0]), close(pair[1]), close(in), close(out);
}

/* A packet socket pair stands for a TUN descriptor: packets behind ten bytes of header, end of file when the device is gone. */
static void test_a_device_that_ends_ends_the_reader(void) {
  bench b;
  fz_tun_stats stats = {0};
  int pair[2];
  uint8_t frame[FZ_VNET_SIZE + 8] = {0};
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair) == 0);
  start(&b);
  fz_reader_source source = {.fd = pair[0], .kind = FZ_READER_TUN, .tun = &stats};
  fz_reader_set(&b.reader, &source, 1);
  for (uint64_t number = 0; number < 1000; number++) {
    memcpy(frame + FZ_VNET_SIZE, &number, sizeof number);
    CHECK(write(pair[1], frame, sizeof frame) == sizeof frame);
    while (!wait_ready(&b)) continue;
    CHECK(b.ring->length[fz_ring_tail(b.ring)] == 8 && number_at(&b, fz_ring_tail(b.ring)) == number);
    give_back(&b, 1);
  }
  CHECK(write(pair[1], frame, 3) == 3); /* shorter than its header: skipped */
  close(pair[1]);
  finish(&b, -ENODEV);
  CHECK(stats.reads == 1000 && stats.read_bytes == 8000);
  close(pair[0]);
}

static void test_stopping_reaches_a_reader_that_waits_for_room(void) {
  bench b;
  struct sockaddr_in to;
  fz_udp_stats stats = {0};
  int in = udp_socket(&to), out = socket(AF_INET, SOCK_DGRAM, 0);
  start(&b);
  fz_reader_source source = udp_source(in, &stats);
  fz_reader_set(&b.reader, &source, 1);
  for (int i = 0; i < 3 * SLOTS; i++) sendto(out, &i, sizeof i, 0, (struct sockaddr *)&to, sizeof to);
  while (fz_ring_ready(b.ring) < SLOTS) poll(NULL, 0, 1);
  fz_reader_stop(&b.reader);
  finish(&b, 0);
  CHECK(stats.received == SLOTS);
  close(in), close(out);
}

static void nothing(int number) { (void)number; }

int main(void) {
  struct sigaction action = {.sa_handler = nothing}; /* without SA_RESTART: it interrupts */
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  test_datagrams_arrive_in_order_through_a_full_ring();
  test_sockets_are_replaced_under_the_reader();
  test_an_error_of_one_socket_leaves_the_other();
  test_a_device_that_ends_ends_the_reader();
  test_stopping_reaches_a_reader_that_waits_for_room();
  return 0;
}
