"""fz_aead.h compiled as a library of its own, at the flags of setup.py, for what the compiled module does not let through:
nonces whose first word is not zero, another buffer to write to, and a look at the stack that a call leaves behind.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from firezone.kernels.aead import TAG_SIZE

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = [CSRC / name for name in ("fz_aead.c", "fz_aead_portable.c", "fz_cpu.c", "tests/fz_aead_seams.c")]
ISA = {
    "fz_aead_avx2.c": ["-mavx2"],
    "fz_aead_avx512.c": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512ifma"],
}
ISA |= {f"tests/fz_mac_{level}.c": ISA[f"fz_aead_{level}.c"] for level in ("avx2", "avx512")}
MAC_GROUP = 16
"""The messages that one call of `mac` takes."""
FLAGS = ["-std=gnu11", "-O3", "-g1", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-fPIC"]
COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
IS_X86 = platform.machine() in ("x86_64", "AMD64")


class Job(ctypes.Structure):
    """fz_aead_job."""

    _fields_ = (
        ("key", ctypes.c_void_p),
        ("counter", ctypes.c_uint64),
        ("in_", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("tag", ctypes.c_void_p),
        ("length", ctypes.c_uint32),
        ("ok", ctypes.c_uint32),
    )


class Message(ctypes.Structure):
    """message of fz_wide.h."""

    _fields_ = (("text", ctypes.c_char_p), ("key", ctypes.c_char_p), ("tag", ctypes.c_void_p), ("length", ctypes.c_uint32))


class Packet:
    """One job and its memory. `shift` moves the bytes off their alignment; with `apart` the result goes to another buffer."""

    def __init__(self, key: bytes, counter: int, text: bytes, tag: bytes = bytes(TAG_SIZE), shift: int = 0, apart: bool = False):
        self._key = ctypes.create_string_buffer(key, len(key))
        self._in = ctypes.create_string_buffer(bytes(shift) + text, shift + len(text) + 1)
        self._out = ctypes.create_string_buffer(shift + len(text) + 1) if apart else self._in
        self._tag = ctypes.create_string_buffer(tag, TAG_SIZE)
        self._shift, self._length = shift, len(text)
        self.job = Job(
            ctypes.addressof(self._key),
            counter,
            ctypes.addressof(self._in) + shift,
            ctypes.addressof(self._out) + shift,
            ctypes.addressof(self._tag),
            len(text),
            7,
        )

    @property
    def out(self) -> bytes:
        return self._out.raw[self._shift : self._shift + self._length]

    @property
    def source(self) -> bytes:
        return self._in.raw[self._shift : self._shift + self._length]

    @property
    def tag(self) -> bytes:
        return self._tag.raw


class Library:
    """Seals and opens through the dispatcher of its own copy; `force` narrows that one's features only."""

    def __init__(self, folder: Path) -> None:
        path = folder / "fz_aead.so"
        assert COMPILER is not None
        common = [COMPILER, *FLAGS, f"-I{CSRC}", "-include", str(CSRC / "tests" / "fz_aead_seams.h")]
        objects = []
        for source in SOURCES + [CSRC / name for name in ISA if IS_X86]:
            objects.append(str(folder / f"{source.stem}.o"))
            flags = ISA.get(str(source.relative_to(CSRC)), [])
            subprocess.run([*common, *flags, "-c", str(source), "-o", objects[-1]], check=True)
        subprocess.run([COMPILER, "-shared", *objects, "-o", str(path)], check=True)
        self._c = ctypes.CDLL(str(path))
        self._c.fz_aead_open.restype = ctypes.c_size_t

    def force(self, mask: int) -> None:
        self._c.fz_cpu_force(ctypes.c_uint32(mask))

    def set_nonce_head(self, word: int) -> None:
        """The first word of the nonces from now on."""
        ctypes.c_uint32.in_dll(self._c, "fz_nonce_head").value = word

    def seal(self, packets: Sequence[Packet]) -> None:
        self._c.fz_aead_seal(self._array(packets), ctypes.c_size_t(len(packets)))

    def open(self, packets: Sequence[Packet]) -> list[bool]:
        jobs = self._array(packets)
        count = self._c.fz_aead_open(jobs, ctypes.c_size_t(len(packets)))
        assert count == sum(job.ok for job in jobs)
        return [bool(job.ok) for job in jobs]

    def mac(self, level: str, keys: Sequence[bytes], texts: Sequence[bytes]) -> list[bytes]:
        """The tags of up to MAC_GROUP texts, each padded and followed by its lengths, under one-time keys of 32 bytes."""
        tags = [ctypes.create_string_buffer(TAG_SIZE) for _ in texts]
        rows = zip(texts, keys, tags, strict=True)
        messages = (Message * len(texts))(*(Message(text, key, ctypes.addressof(tag), len(text)) for text, key, tag in rows))
        self._c[f"fz_mac_{level}"](messages, ctypes.c_uint32(len(texts)))
        return [tag.raw for tag in tags]

    def leftovers(self, packets: Sequence[Packet], is_seal: bool, secrets: bytes, *, leaves_them: bool = False) -> list[int]:
        """Returns which 8-byte pieces of `secrets` stand on the dead stack after packets were sealed or opened.

        With `leaves_them` a function that forgets to wipe takes the place of the AEAD.
        """
        found = ctypes.create_string_buffer(len(secrets) // 8)
        way = 2 if leaves_them else int(is_seal)
        sizes = ctypes.c_size_t(len(packets)), ctypes.c_size_t(len(secrets) // 8)
        self._c.fz_leftovers(self._array(packets), sizes[0], way, secrets, sizes[1], found)
        return [i for i, mark in enumerate(found.raw) if mark]

    @staticmethod
    def _array(packets: Sequence[Packet]) -> ctypes.Array[Job]:
        return (Job * len(packets))(*(packet.job for packet in packets))
