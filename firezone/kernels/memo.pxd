# A memo of decisions: csrc/fz_memo.h, and how its owners give it memory.
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign


cdef extern from "fz_memo.h" nogil:
    enum:
        FZ_MEMO_WAYS

    ctypedef struct fz_memo_entry:
        pass

    ctypedef struct fz_memo_key:
        pass

    ctypedef struct fz_memo:
        fz_memo_entry *entries
        uint64_t seed[2]
        uint32_t bits
        uint32_t replaced

    bint fz_memo_is_crowded(const fz_memo *m)
    void fz_memo_move(fz_memo *m, fz_memo_entry *entries, uint32_t bits)

cdef extern from "sys/mman.h" nogil:
    int madvise(void *address, size_t length, int advice)
    enum:
        MADV_HUGEPAGE

cdef enum:
    LEAST_BITS = 12  # 256 KiB
    MOST_BITS = 18  # 16 MiB: 100 000 flows find their place at once, a million are looked up anew now and then
    HUGE = 1 << 21  # above it the translation of addresses costs as much as the look-up unless pages are huge


cdef inline int memo_make_room(fz_memo *m) except -1:
    """Gives a memo more memory while decisions push each other out; what it remembered is decided anew."""
    cdef uint32_t bits = LEAST_BITS if m.bits == 0 else m.bits + 2
    cdef size_t size
    cdef void *made = NULL
    if not fz_memo_is_crowded(m) or m.bits >= <uint32_t>MOST_BITS:
        return 0
    bits = min(bits, <uint32_t>MOST_BITS)
    size = ((<size_t>1 << bits) + FZ_MEMO_WAYS - 1) * sizeof(fz_memo_entry)
    if posix_memalign(&made, HUGE if size > HUGE else 64, size) != 0:
        raise MemoryError
    if size > HUGE:
        madvise(made, size, MADV_HUGEPAGE)  # Refused: slower, not wrong.
    memset(made, 0, size)
    free(m.entries)
    fz_memo_move(m, <fz_memo_entry *>made, bits)
    return 0
