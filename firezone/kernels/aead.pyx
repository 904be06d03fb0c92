"""ChaCha20-Poly1305 (RFC 8439) over many packets in one call, on the widest instruction set the CPU has.

The session stages are its users, from C; the functions here are for tests, benches and whoever has packets in an array.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

import enum

import numpy as np

from firezone.kernels.aead cimport (
    FZ_CPU_AVX2, FZ_CPU_AVX512, FZ_KEY_SIZE, FZ_TAG_SIZE, fz_aead_job, fz_aead_open, fz_aead_seal, fz_cpu_features, fz_cpu_force,
)

KEY_SIZE = FZ_KEY_SIZE
TAG_SIZE = FZ_TAG_SIZE
MAX_LENGTH = 1 << 24
"""Bytes of one packet that `seal_many` accepts: far above a datagram, far below where a block number could wrap."""


class CpuFeatures(enum.IntFlag):
    """Instruction sets that kernels are written for. None of them is needed."""

    AVX2 = FZ_CPU_AVX2
    AVX512 = FZ_CPU_AVX512


def cpu_features() -> CpuFeatures:
    """Returns what kernels may use: what the CPU has, less what FZ_CPU_MASK or `force_features` took away."""
    return CpuFeatures(fz_cpu_features())


def force_features(object mask) -> CpuFeatures:
    """Narrows the choice to the features in the mask, None lifts that again; returns what is left. For tests and benches."""
    return CpuFeatures(fz_cpu_force(0xFFFFFFFF if mask is None else <uint32_t>(mask & 0xFFFFFFFF)))


def seal_many(
    uint8_t[::1] slab not None,
    const uint32_t[::1] offset not None,
    const uint32_t[::1] length not None,
    const uint8_t[:, ::1] keys not None,
    const uint64_t[::1] counter not None,
) -> None:
    """Encrypts packets in place and writes each one's tag right behind it.

    Shapes:    slab 1-D uint8; offset, length (n,) uint32; keys (n, 32) or, one for all, (1, 32) uint8; counter (n,) uint64.
    Raises:    ValueError for shapes that disagree or a packet that, with its tag, leaves the slab; nothing is written then.
    Ownership: packets and their tags must not overlap each other.
    Source:    RFC 8439 section 2.8; nonce as in the WireGuard paper 5.4.6.
    """
    cdef size_t n = offset.shape[0]
    cdef fz_aead_job *jobs = _jobs(slab, offset, length, keys, counter)
    try:
        with nogil:
            fz_aead_seal(jobs, n)
    finally:
        free(jobs)


def open_many(
    uint8_t[::1] slab not None,
    const uint32_t[::1] offset not None,
    const uint32_t[::1] length not None,
    const uint8_t[:, ::1] keys not None,
    const uint64_t[::1] counter not None,
) -> object:
    """Decrypts packets in place whose tag, right behind each, is right; leaves the others as they are.

    Shapes:    as for `seal_many`; lengths are without the tag.
    Returns:   (n,) bool, True where the packet is authentic.
    Raises:    ValueError as `seal_many`.
    Source:    RFC 8439 section 2.8.
    """
    cdef size_t i, n = offset.shape[0]
    cdef fz_aead_job *jobs = _jobs(slab, offset, length, keys, counter)
    authentic = np.zeros(n, np.uint8)
    cdef uint8_t[::1] out = authentic
    try:
        with nogil:
            fz_aead_open(jobs, n)
            for i in range(n):
                out[i] = <uint8_t>jobs[i].ok
    finally:
        free(jobs)
    return authentic.view(np.bool_)


cdef void seal_jobs(fz_aead_job *jobs, size_t n) noexcept nogil:
    fz_aead_seal(jobs, n)


cdef size_t open_jobs(fz_aead_job *jobs, size_t n) noexcept nogil:
    return fz_aead_open(jobs, n)


cdef fz_aead_job *_jobs(
    uint8_t[::1] slab,
    const uint32_t[::1] offset,
    const uint32_t[::1] length,
    const uint8_t[:, ::1] keys,
    const uint64_t[::1] counter,
) except NULL:
    """Returns a new array of jobs over packets that end inside the slab; the caller frees it."""
    cdef Py_ssize_t i, n = offset.shape[0], step = 0 if keys.shape[0] == 1 else 1
    if length.shape[0] != n or counter.shape[0] != n or keys.shape[1] != FZ_KEY_SIZE or (step and keys.shape[0] != n):
        raise ValueError("Offsets, lengths, counters and keys of 32 bytes must be equally many.")
    for i in range(n):
        if length[i] > MAX_LENGTH or <uint64_t>offset[i] + length[i] + FZ_TAG_SIZE > <uint64_t>slab.shape[0]:
            raise ValueError(f"Packet {i}, {length[i]} bytes at {offset[i]} and a tag, leaves a slab of {slab.shape[0]}.")
    cdef fz_aead_job *jobs = <fz_aead_job *>calloc(max(n, 1), sizeof(fz_aead_job))
    if jobs == NULL:
        raise MemoryError
    for i in range(n):
        jobs[i].key = &keys[i * step, 0]
        jobs[i].counter = counter[i]
        jobs[i].in_ = jobs[i].out = &slab[offset[i]]
        jobs[i].tag = jobs[i].out + length[i]
        jobs[i].length = length[i]
    return jobs
