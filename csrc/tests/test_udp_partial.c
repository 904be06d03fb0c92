// sources: fz_udp.c
// sanitize: undefined
/* A kernel that takes only a part of what one send offers: the rest follows, in order, nothing twice; one that takes less than a
 * datagram is an error. The sendmsg of this program stands in for that kernel. */
#include <errno.h>
#include <sys/socket.h>

#include "fz_test.h"

#include "fz_udp.h"

enum { ROWS = 10, SIZE = 100, LAST = 40 };

static uint8_t taken[4096];
static size_t taken_bytes, takes_at_once, calls;

ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
  (void)fd;
  (void)flags;
  size_t left = takes_at_once, done = 0;
  calls++;
  for (size_t i = 0; i < m->msg_iovlen && left; i++) {
    size_t n = m->msg_iov[i].iov_len < left ? m->msg_iov[i].iov_len : left;
    memcpy(taken + taken_bytes + done, m->msg_iov[i].iov_base, n);
    done += n;
    left -= n;
  }
  taken_bytes += done;
  return (ssize_t)done;
}

int main(void) {
  uint64_t state = 3;
  fz_batch b = test_batch(ROWS, ROWS * SIZE);
  fz_udp_stats stats = {0};
  test_fill(&state, b.slab, b.slab_size);
  for (uint32_t row = 0; row < ROWS; row++) {
    fz_row_init(&b, row, 0, row * SIZE, row == ROWS - 1 ? LAST : SIZE);
    b.remote[row] = (fz_addr){.ip = {127, 0, 0, 1}, .port = 9, .family = 4};
    b.next[row] = row + 1 < ROWS ? (int32_t)row + 1 : -1;
  }
  b.n = ROWS;
  fz_run run = {.first = 0, .last = ROWS - 1, .count = ROWS, .stride = SIZE, .total = (ROWS - 1) * SIZE + LAST};
  for (uint32_t datagrams = 1; datagrams <= ROWS; datagrams++) {
    int32_t row = 0;
    int error = -1;
    takes_at_once = datagrams * SIZE;
    taken_bytes = calls = 0;
    CHECK(fz_udp_send_run(5, &b, &run, 1, 1, &row, &error, &stats) == ROWS);
    CHECK(row == -1 && error == 0);
    CHECK(calls == (ROWS + datagrams - 1) / datagrams);
    CHECK(taken_bytes == run.total && memcmp(taken, b.slab, run.total) == 0);
  }
  int32_t row = 0;
  int error = 0;
  takes_at_once = SIZE - 1;
  taken_bytes = 0;
  CHECK(fz_udp_send_run(5, &b, &run, 1, 1, &row, &error, &stats) == 0);
  CHECK(row == 0 && error == EMSGSIZE);
  test_batch_free(&b);
  return 0;
}
