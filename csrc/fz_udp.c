#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "fz_udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define CONTROL_SIZE 128u /* three control messages, the largest an in6_pktinfo */
#define MAX_IOVECS (2u * FZ_UDP_MAX_SEGMENTS)

typedef union control {
  char bytes[CONTROL_SIZE];
  struct cmsghdr align;
} control;

static void address_from(fz_addr *out, const struct sockaddr_storage *in) {
  memset(out, 0, sizeof *out);
  if (in->ss_family == AF_INET) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)in;
    memcpy(out->ip, &v4->sin_addr, 4);
    out->port = ntohs(v4->sin_port);
    out->family = 4;
  } else if (in->ss_family == AF_INET6) {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)in;
    memcpy(out->ip, &v6->sin6_addr, 16);
    out->port = ntohs(v6->sin6_port);
    out->family = 6;
  }
}

static socklen_t address_to(struct sockaddr_storage *out, const fz_addr *in) {
  if (in->family == 4) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    memset(v4, 0, sizeof *v4);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(in->port);
    memcpy(&v4->sin_addr, in->ip, 4);
    return sizeof *v4;
  }
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
  memset(v6, 0, sizeof *v6);
  v6->sin6_family = AF_INET6;
  v6->sin6_port = htons(in->port);
  memcpy(&v6->sin6_addr, in->ip, 16);
  return sizeof *v6;
}

/* What the kernel told beside the payload. */
static void read_control(struct msghdr *m, uint16_t port, fz_addr *local, uint8_t *ecn, uint16_t *stride) {
  memset(local, 0, sizeof *local);
  *ecn = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
    if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      memcpy(local->ip, &info.ipi_addr, 4);
      local->family = 4;
      local->port = port;
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo info;
      memcpy(&info, CMSG_DATA(c), sizeof info);
      memcpy(local->ip, &info.ipi6_addr, 16);
      local->family = 6;
      local->port = port;
    } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
      *ecn = (uint8_t)(*CMSG_DATA(c) & 3); /* one byte here, an int for IPv6 */
    } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
      int value;
      memcpy(&value, CMSG_DATA(c), sizeof value);
      *ecn = (uint8_t)(value & 3);
    } else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
      int value;
      memcpy(&value, CMSG_DATA(c), sizeof value);
      *stride = (uint16_t)value;
    }
  }
}

static int fill_once(int fd, uint16_t socket_id, uint16_t port, fz_ring *ring, uint32_t room, fz_udp_stats *stats) {
  struct mmsghdr messages[FZ_UDP_READS];
  struct iovec vectors[FZ_UDP_READS];
  struct sockaddr_storage names[FZ_UDP_READS];
  control controls[FZ_UDP_READS];
  uint32_t head = fz_ring_head(ring), mask = ring->slots - 1u;
  memset(messages, 0, sizeof messages[0] * room);
  for (uint32_t i = 0; i < room; i++) {
    vectors[i].iov_base = ring->slab + (size_t)((head + i) & mask) * ring->slot_size;
    vectors[i].iov_len = ring->slot_size;
    messages[i].msg_hdr.msg_name = &names[i];
    messages[i].msg_hdr.msg_namelen = sizeof names[i];
    messages[i].msg_hdr.msg_iov = &vectors[i];
    messages[i].msg_hdr.msg_iovlen = 1;
    messages[i].msg_hdr.msg_control = controls[i].bytes;
    messages[i].msg_hdr.msg_controllen = sizeof controls[i].bytes;
  }
  int got = recvmmsg(fd, messages, room, MSG_DONTWAIT, NULL);
  if (got < 0) return -errno;
  stats->receive_calls++;
  for (int i = 0; i < got; i++) {
    uint32_t slot = (head + (uint32_t)i) & mask, length = messages[i].msg_len;
    if (messages[i].msg_hdr.msg_flags & MSG_TRUNC) {
      stats->truncated++;
      length = 0; /* the stage that cuts drops an empty entry */
    }
    uint16_t stride = (uint16_t)length;
    ring->offset[slot] = 0;
    ring->length[slot] = length;
    ring->socket[slot] = socket_id;
    address_from(&ring->remote[slot], &names[i]);
    read_control(&messages[i].msg_hdr, port, &ring->local[slot], &ring->ecn[slot], &stride);
    ring->stride[slot] = stride;
    stats->receive_bytes += length;
  }
  stats->received += (uint64_t)got;
  return got;
}

int fz_udp_fill(int fd, uint16_t socket_id, uint16_t port, fz_ring *ring, uint32_t max_reads, fz_udp_stats *stats, int *wake) {
  uint32_t total = 0;
  *wake = 0;
  while (total < max_reads) {
    uint32_t room = fz_ring_free(ring);
    if (room > max_reads - total) room = max_reads - total;
    if (room > FZ_UDP_READS) room = FZ_UDP_READS;
    if (room == 0) break;
    int got = fill_once(fd, socket_id, port, ring, room, stats);
    if (got <= 0) return total > 0 ? (int)total : got;
    if (fz_ring_commit(ring, (uint32_t)got)) *wake = 1;
    total += (uint32_t)got;
    if ((uint32_t)got < room) break;
  }
  return (int)total;
}

static void put_control(struct msghdr *m, int level, int type, const void *value, size_t size, struct cmsghdr **at) {
  struct cmsghdr *c = *at;
  c->cmsg_level = level;
  c->cmsg_type = type;
  c->cmsg_len = CMSG_LEN(size);
  memcpy(CMSG_DATA(c), value, size);
  m->msg_controllen += CMSG_SPACE(size);
  *at = (struct cmsghdr *)((char *)c + CMSG_SPACE(size));
}

static void write_control(struct msghdr *m, control *space, const fz_addr *local, int family, int ecn, uint16_t stride) {
  struct cmsghdr *at = &space->align;
  bool has_local = local->family == family;
  m->msg_control = NULL;
  m->msg_controllen = 0;
  if (!has_local && ecn <= 0 && !stride) return;
  memset(space, 0, sizeof *space);
  m->msg_control = space->bytes;
  if (has_local && family == 4) {
    struct in_pktinfo info = {0};
    memcpy(&info.ipi_spec_dst, local->ip, 4);
    put_control(m, IPPROTO_IP, IP_PKTINFO, &info, sizeof info, &at);
  } else if (has_local) {
    struct in6_pktinfo info = {0};
    memcpy(&info.ipi6_addr, local->ip, 16);
    put_control(m, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info, &at);
  }
  if (ecn > 0) put_control(m, family == 4 ? IPPROTO_IP : IPPROTO_IPV6, family == 4 ? IP_TOS : IPV6_TCLASS, &ecn, sizeof ecn, &at);
  if (stride) put_control(m, SOL_UDP, UDP_SEGMENT, &stride, sizeof stride, &at);
}

/* Adds one row's bytes, merging with the vector before when the memory is adjacent. */
static size_t gather_row(const fz_batch *b, int32_t row, struct iovec *vectors, size_t n) {
  uint8_t *body = b->slab + b->offset[row] + b->skip[row];
  size_t length = b->length[row] - b->skip[row];
  if (b->prefix_len[row]) {
    vectors[n].iov_base = b->prefix + (size_t)row * FZ_PREFIX_SIZE;
    vectors[n++].iov_len = b->prefix_len[row];
  } else if (n && (uint8_t *)vectors[n - 1].iov_base + vectors[n - 1].iov_len == body) {
    vectors[n - 1].iov_len += length;
    return n;
  }
  vectors[n].iov_base = body;
  vectors[n].iov_len = length;
  return n + 1;
}

static uint32_t row_size(const fz_batch *b, int32_t row) { return b->prefix_len[row] + b->length[row] - b->skip[row]; }

int fz_udp_send_run(int fd, fz_batch *b, const fz_run *run, int gso, int with_ecn, int32_t *row, int *error, fz_udp_stats *stats) {
  struct iovec vectors[MAX_IOVECS];
  struct sockaddr_storage name;
  const fz_addr *remote = &b->remote[run->first];
  socklen_t name_len = address_to(&name, remote);
  int ecn = with_ecn ? b->ecn[run->first] & 3 : -1, sent = 0;
  uint32_t limit = gso ? FZ_UDP_MAX_SEGMENTS : 1u;
  *error = 0;
  while (*row >= 0) {
    size_t n = 0, bytes = 0;
    uint32_t count = 0, stride = row_size(b, *row);
    int32_t next = *row;
    for (; next >= 0 && count < limit; next = b->next[next], count++) {
      bytes += row_size(b, next);
      n = gather_row(b, next, vectors, n);
    }
    struct msghdr m = {.msg_name = &name, .msg_namelen = name_len, .msg_iov = vectors, .msg_iovlen = n};
    control space;
    write_control(&m, &space, &b->local[run->first], remote->family, ecn, count > 1 ? (uint16_t)stride : 0);
    ssize_t done = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    stats->send_calls++;
    if (done < 0) {
      *error = errno;
      return sent;
    }
    if ((size_t)done < bytes && stride) { /* a prefix was accepted: go on behind its last whole datagram */
      uint32_t whole = (uint32_t)((size_t)done / stride);
      for (next = *row; whole > 0 && next >= 0; whole--) next = b->next[next];
      count = (uint32_t)((size_t)done / stride);
      if (count == 0) {
        *error = EMSGSIZE;
        return sent;
      }
    }
    stats->send_bytes += (uint64_t)done;
    stats->sent += count;
    sent += (int)count;
    *row = next;
  }
  return sent;
}

uint32_t fz_udp_send_singles(int fd, const fz_batch *b, const fz_run *runs, uint32_t count, fz_udp_stats *stats) {
  struct mmsghdr messages[FZ_UDP_SENDS];
  struct iovec vectors[FZ_UDP_SENDS][2];
  struct sockaddr_storage names[FZ_UDP_SENDS];
  control spaces[FZ_UDP_SENDS];
  if (count > FZ_UDP_SENDS) count = FZ_UDP_SENDS;
  for (uint32_t i = 0; i < count; i++) {
    int32_t row = runs[i].first;
    struct msghdr *m = &messages[i].msg_hdr;
    m->msg_name = &names[i];
    m->msg_namelen = address_to(&names[i], &b->remote[row]);
    m->msg_iov = vectors[i];
    m->msg_iovlen = gather_row(b, row, vectors[i], 0);
    m->msg_flags = 0;
    write_control(m, &spaces[i], &b->local[row], b->remote[row].family, b->ecn[row] & 3, 0);
  }
  int sent = sendmmsg(fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);
  stats->send_calls++;
  if (sent <= 0) return 0;
  for (int i = 0; i < sent; i++) stats->send_bytes += messages[i].msg_len;
  stats->sent += (uint32_t)sent;
  return (uint32_t)sent;
}

int fz_udp_send_bytes(int fd, const uint8_t *data, size_t size, uint16_t stride, const fz_addr *local, const fz_addr *remote, int ecn,
                      fz_udp_stats *stats) {
  struct iovec vector = {(void *)(uintptr_t)data, size};
  struct sockaddr_storage name;
  struct msghdr m = {.msg_name = &name, .msg_namelen = address_to(&name, remote), .msg_iov = &vector, .msg_iovlen = 1};
  control space;
  write_control(&m, &space, local, remote->family, ecn, size > stride ? stride : 0);
  ssize_t done = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
  stats->send_calls++;
  if (done < 0) return -errno;
  stats->sent += stride ? (size + stride - 1) / stride : 1;
  stats->send_bytes += size;
  return 0;
}
