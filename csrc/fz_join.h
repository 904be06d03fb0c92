/* Downlink offload: joins consecutive packets of a flow into super-packets for TUN (virtio-net header, NEEDS_CSUM).
 *
 * Payloads stay where they are: the first row of a super-packet gets rewritten headers as its prefix, later rows only skip theirs.
 * A packet is a candidate when it has an IPv4 header without options or IPv6 without extensions, a payload, and is UDP with a
 * checksum, or TCP with flags ACK or ACK|PSH. It joins the most recent run of its flow if that still takes it; every other
 * packet is a run of its own that leaves unchanged.
 */
#ifndef FZ_JOIN_H
#define FZ_JOIN_H

#include "fz_split.h"

#define FZ_MAX_UDP_SEGMENTS 128u /* the kernel's UDP_MAX_SEGMENTS on TUN writes */

/* Puts parsed FORWARD rows into runs, in order of their first rows. run.stride is the payload per segment, 0 for a single packet;
 * run.total counts all bytes behind the virtio-net header. coalesce false: every row is its own run. `table` is scratch for
 * `table_size` entries, a power of two of at least twice the rows. Rows for which there is no run left are dropped. Returns runs. */
uint32_t fz_join_batch(fz_batch *b, fz_run *runs, uint32_t capacity, bool coalesce, int32_t *table, uint32_t table_size);

#endif
