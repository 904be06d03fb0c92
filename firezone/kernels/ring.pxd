from firezone.kernels.types cimport fz_ring


cdef class PacketRing:
    cdef fz_ring *_c              # heap, 64-byte aligned; freed in __dealloc__
    cdef readonly object slab     # numpy uint8 (slots, slot_size)
    cdef readonly object offset, length, stride, socket, local, remote, ecn
    cdef readonly Py_ssize_t slots, slot_size
