// sources: fz_pump.c fz_udp.c fz_relay.c fz_fair.c fz_addrmap.c fz_split.c fz_csum.c fz_ip.c
// sanitize: address,undefined
/* When the relay pauses so that datagrams gather: with many single ones per second only, and never once they have become few. */
#include "fz_test.h"

#include "fz_pump.h"

enum { STEP_NS = 200000 };

static int64_t now = 5000000000;
static fz_pump_load load;

/* Rounds of `rows` datagrams in `entries` reads, step_ns apart, for so long. Returns how many of the last ten were to pause. */
static int rounds(uint32_t rows, uint32_t entries, int64_t step_ns, int64_t for_ns) {
  int pauses = 0;
  for (int64_t end = now + for_ns, last = end - 10 * step_ns; now < end;) {
    now += step_ns;
    load.round_rows = rows;
    load.round_entries = entries;
    bool pause = fz_pump_end_round(&load, now);
    if (now > last) pauses += pause;
    CHECK(load.round_rows == 0 && load.round_entries == 0);
  }
  return pauses;
}

int main(void) {
  const uint32_t fast = FZ_PUMP_JOIN_RATE / (1000000000 / STEP_NS); /* rows per step */
  CHECK(rounds(1, 1, 1000000, 100000000) == 0); /* a thousand per second */
  CHECK(rounds(fast - 1, fast - 1, STEP_NS, 10000000) == 0);
  CHECK(rounds(fast, fast, STEP_NS, 10000000) == 10);
  CHECK(rounds(FZ_PUMP_JOIN_ROWS - 1, FZ_PUMP_JOIN_ROWS - 1, STEP_NS, 10000000) == 10);
  CHECK(rounds(FZ_PUMP_JOIN_ROWS, FZ_PUMP_JOIN_ROWS, STEP_NS, 10000000) == 0); /* enough has come without a pause */
  CHECK(rounds(64, 2, STEP_NS, 10000000) == 0);                               /* trains are joined already */
  CHECK(rounds(fast, fast, STEP_NS, 10000000) == 10);
  CHECK(rounds(0, 0, STEP_NS, 2 * 10 * STEP_NS) == 0); /* it has ended: whoever comes next does not wait */
  CHECK(rounds(1, 1, 1000000, 10000000) == 0);
  CHECK(rounds(fast, fast, STEP_NS, 10000000) == 10);
  now += 3000000000; /* nothing for long, then one datagram */
  load.round_rows = load.round_entries = 1;
  CHECK(!fz_pump_end_round(&load, now));
  return 0;
}
