# ChaCha20-Poly1305 over many packets: csrc/fz_aead.h.
#
# Other modules call it through `seal_jobs` and `open_jobs`, one indirect call per batch, and do not link the C sources: so the
# process has one CPU word, and what `force_features` chooses holds for all of them.
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "fz_aead.h" nogil:
    enum:
        FZ_KEY_SIZE
        FZ_TAG_SIZE

    ctypedef struct fz_aead_job:
        const uint8_t *key
        uint64_t counter
        const uint8_t *in_ "in"
        uint8_t *out
        uint8_t *tag
        uint32_t length
        uint32_t ok

    void fz_aead_seal(fz_aead_job *jobs, size_t n)
    size_t fz_aead_open(fz_aead_job *jobs, size_t n)


cdef extern from "fz_cpu.h" nogil:
    enum:
        FZ_CPU_AVX2
        FZ_CPU_AVX512

    uint32_t fz_cpu_features()
    uint32_t fz_cpu_force(uint32_t mask)


cdef void seal_jobs(fz_aead_job *jobs, size_t n) noexcept nogil
cdef size_t open_jobs(fz_aead_job *jobs, size_t n) noexcept nogil
