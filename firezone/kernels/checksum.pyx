"""The internet checksum for callers in Python; stages in C use `csrc/fz_csum.h` themselves.

A *sum* is the folded one's complement sum of big-endian 16-bit words, a *checksum* its complement, as it stands in a header.
Source: RFC 1071, RFC 1624 equation 3.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from firezone.kernels.checksum cimport (
    fz_copy_sum, fz_csum_update, fz_csum_update16, fz_csum_update16_udp, fz_fold, fz_inet_csum, fz_pseudo_sum, fz_sum,
)


cdef inline const uint8_t *_start(const uint8_t[::1] data) noexcept:
    return &data[0] if data.shape[0] else NULL


def inet_checksum(const uint8_t[::1] data, uint32_t initial=0) -> int:
    """Returns the checksum of some bytes, on top of the sum of what came before them (an even number of bytes)."""
    return fz_inet_csum(_start(data), data.shape[0], initial)


def inet_sum(const uint8_t[::1] data) -> int:
    """Returns the folded sum, not complemented."""
    return fz_sum(_start(data), data.shape[0])


def copy_and_sum(uint8_t[::1] out, const uint8_t[::1] data) -> int:
    """Copies data to the start of out and returns its sum.

    Raises: ValueError when out is shorter than data.
    """
    if out.shape[0] < data.shape[0]:
        raise ValueError(f"{data.shape[0]} bytes do not fit into {out.shape[0]}.")
    return fz_copy_sum(&out[0], &data[0], data.shape[0]) if data.shape[0] else 0


def update16(uint16_t checksum, uint16_t before, uint16_t after) -> int:
    """Returns the checksum after one 16-bit word that it covers has changed."""
    return fz_csum_update16(checksum, before, after)


def update16_udp(uint16_t checksum, uint16_t before, uint16_t after) -> int:
    """Returns the UDP checksum after a change of one word: 0 (none) stays 0, a computed 0 becomes 0xFFFF (RFC 768)."""
    return fz_csum_update16_udp(checksum, before, after)


def update(uint16_t checksum, const uint8_t[::1] before, const uint8_t[::1] after) -> int:
    """Returns the checksum after several bytes have changed.

    Raises: ValueError unless both have the same even length; they must stand at an even distance from the start.
    """
    if before.shape[0] != after.shape[0] or before.shape[0] % 2:
        raise ValueError(f"Cannot replace {before.shape[0]} bytes by {after.shape[0]} in a checksum.")
    return fz_csum_update(checksum, _start(before), _start(after), before.shape[0])


def pseudo_header_sum(const uint8_t[::1] source, const uint8_t[::1] destination, uint8_t protocol, uint32_t length) -> int:
    """Returns the folded sum of a pseudo-header: what stands in a checksum field that is left to the device.

    Raises: ValueError unless both addresses have 4 or both 16 bytes.
    """
    if source.shape[0] != destination.shape[0] or source.shape[0] not in (4, 16):
        raise ValueError(f"No pseudo-header has addresses of {source.shape[0]} and {destination.shape[0]} bytes.")
    cdef uint8_t both[32]
    cdef Py_ssize_t i
    for i in range(source.shape[0]):
        both[i] = source[i]
        both[source.shape[0] + i] = destination[i]
    return fz_fold(fz_pseudo_sum(both, source.shape[0], protocol, length))


def transport_checksum(
    const uint8_t[::1] source, const uint8_t[::1] destination, uint8_t protocol, const uint8_t[::1] segment
) -> int:
    """Returns the checksum of a TCP, UDP or ICMPv6 segment whose own checksum field is zero; a computed UDP 0 is 0xFFFF.

    Raises: ValueError unless both addresses have 4 or both 16 bytes.
    """
    cdef uint32_t initial = pseudo_header_sum(source, destination, protocol, segment.shape[0])
    cdef uint16_t checksum = fz_inet_csum(_start(segment), segment.shape[0], initial)
    return 0xFFFF if checksum == 0 and protocol == 17 else checksum
