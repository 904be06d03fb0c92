/* IP packets: walk the headers to the transport header, accept or refuse a packet, name its flow, carry ECN.
 *
 * Acceptance is strict: IPv4 with IHL >= 5, lengths that agree with the bytes at hand, the extension headers of RFC 8200 and the
 * authentication header walked, TCP, UDP, ICMP and ICMPv6 headers complete, ICMP only in IPv4 and ICMPv6 only in IPv6, any other
 * protocol accepted unparsed. Fragments are refused by name; an atomic fragment (RFC 6946) is none. Checksums are not verified.
 */
#ifndef FZ_IP_H
#define FZ_IP_H

#include <stdbool.h>

#include "fz_batch.h"

#define FZ_MAX_PACKET 1280u

enum fz_ip_protocol { FZ_ICMP = 1, FZ_TCP = 6, FZ_UDP = 17, FZ_AH = 51, FZ_ICMPV6 = 58, FZ_CONTROL = 255 };

/* Reasons of firezone.kernels.types that the packet stages give. */
enum fz_packet_reason {
  FZ_EMPTY = 1,
  FZ_OVERSIZED = 2,
  FZ_BAD_STRIDE = 3,
  FZ_NO_LOCAL_ADDRESS = 4,
  FZ_MALFORMED_PACKET = 5,
  FZ_FRAGMENT = 6,
  FZ_MALFORMED_OFFLOAD = 7,
  FZ_BATCH_FULL = 8,
  FZ_NO_ROUTE = 24,
  FZ_FOREIGN_SOURCE = 25,
  FZ_FOREIGN_DESTINATION = 26,
  FZ_NOT_PERMITTED = 27,
  FZ_UNSUPPORTED_PROTOCOL = 28,
  FZ_EXPIRED_NAT_SESSION = 29,
  FZ_NAT_EXHAUSTED = 30,
  FZ_PUNT_LIMIT = 36,
  FZ_NO_CHANNEL = 40,
  FZ_STUN = 64,
  FZ_HANDSHAKE = 65,
  FZ_UNKNOWN_DATAGRAM = 66,
  FZ_CHANNEL_DATA = 67,
  FZ_NO_PEER = 72,
  FZ_CONTROL_PACKET = 80,
  FZ_REFUSED_SOURCE = 81,
  FZ_REFUSED_DESTINATION = 82,
  FZ_NO_TRANSLATION = 83,
  FZ_PEER_DATA = 88
};

typedef struct fz_ip_headers {
  uint8_t version;    /* 4 or 6 */
  uint8_t protocol;   /* of the transport header */
  uint16_t transport; /* its offset */
  bool fragment;      /* a piece of a packet: the transport header may be missing */
} fz_ip_headers;

/* Walks from the IP header to the transport header within n bytes. The length fields of the IP header are not looked at.
 * False: a header is cut off, of unknown version, or where it must not be. */
bool fz_ip_walk(const uint8_t *p, uint32_t n, fz_ip_headers *out);

/* The row's source and destination address. Only for rows that were parsed. */
static inline const uint8_t *fz_row_source(const fz_batch *b, uint32_t row) {
  return b->slab + b->offset[row] + (b->ip_version[row] == 4 ? 12 : 8);
}

static inline const uint8_t *fz_row_destination(const fz_batch *b, uint32_t row) {
  return b->slab + b->offset[row] + (b->ip_version[row] == 4 ? 16 : 24);
}

/* Parses every FORWARD row: sets its ip_version, protocol, transport, flags and ports, or drops or punts it.
 * from_tunnel: padding behind the packet is cut off, control packets are punted, and the outer ECN codepoint is merged into the
 * packet; otherwise lengths must agree exactly and the ECN column is filled from the packet. Returns rows left FORWARD. */
uint32_t fz_ip_parse_batch(fz_batch *b, bool from_tunnel);

#endif
