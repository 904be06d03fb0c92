"""Sealing and opening batches: each instruction set, a libcrypto call per packet, and `cryptography` from Python.

libcrypto is held to AVX2 as ours is, so that the ratio tells about the batching; without a compiler or its headers it is left out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from firezone.kernels import aead
from firezone.kernels.aead import TAG_SIZE, CpuFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER_SIZE = 16
KEY = bytes(range(32))
WITHOUT_AVX512 = ":~0xD0230000"
"""For OPENSSL_ia32cap: takes AVX512F, DQ, IFMA, CD, BW and VL away."""

SIZES = pytest.mark.parametrize("size", [64, 576, 1280, 1424])
BATCHES = pytest.mark.parametrize("batch", [1, 4, 16, 64, 256])


class Batch:
    """Packets of one size as they stand in an outgoing slab."""

    def __init__(self, size: int, batch: int) -> None:
        stride = HEADER_SIZE + size + TAG_SIZE
        self.slab = np.random.default_rng(1).integers(0, 256, stride * batch, np.uint8)
        self.offset = (np.arange(batch, dtype=np.uint32) * stride + HEADER_SIZE).astype(np.uint32)
        self.length = np.full(batch, size, np.uint32)
        self.counter = np.arange(batch, dtype=np.uint64)
        self.key = np.frombuffer(KEY, np.uint8).reshape(1, 32)

    def columns(self) -> tuple[Any, ...]:
        return self.slab, self.offset, self.length, self.key, self.counter


@pytest.fixture(params=[CpuFeatures(0), CpuFeatures.AVX2], ids=["portable", "avx2"])
def features(request: pytest.FixtureRequest) -> Iterator[None]:
    if aead.force_features(request.param) != request.param:
        pytest.skip("machine lacks these instructions")
    yield
    aead.force_features(None)


@pytest.fixture(scope="module")
def libcrypto(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    library = tmp_path_factory.mktemp("libcrypto") / "libcrypto_aead.so"
    source = Path(__file__).with_suffix("").with_name("libcrypto_aead.c")
    command = [compiler or "", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-lcrypto"]
    if compiler is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no compiler, or no headers of libcrypto")
    os.environ["OPENSSL_ia32cap"] = WITHOUT_AVX512  # noqa: SIM112 - libcrypto spells it so
    return ctypes.CDLL(str(library))


@SIZES
@BATCHES
def bench_seal(benchmark: Any, features: None, size: int, batch: int) -> None:
    columns = Batch(size, batch).columns()
    benchmark.extra_info.update(packets=batch, bytes=batch * size)
    benchmark(aead.seal_many, *columns)


@SIZES
@BATCHES
def bench_open(benchmark: Any, features: None, size: int, batch: int) -> None:
    packets = Batch(size, batch)
    aead.seal_many(*packets.columns())
    sealed = packets.slab.copy()
    benchmark.extra_info.update(packets=batch, bytes=batch * size)

    def setup() -> None:
        packets.slab[:] = sealed

    benchmark.pedantic(aead.open_many, packets.columns(), setup=setup, rounds=500, warmup_rounds=20)


@SIZES
@BATCHES
def bench_seal_with_libcrypto(benchmark: Any, libcrypto: ctypes.CDLL, size: int, batch: int) -> None:
    packets = Batch(size, batch)
    pointers = [column.ctypes.data_as(ctypes.c_void_p) for column in packets.columns()]
    benchmark.extra_info.update(packets=batch, bytes=batch * size)
    assert libcrypto.seal_many(*pointers, batch)
    benchmark(libcrypto.seal_many, *pointers, batch)


@SIZES
def bench_seal_with_cryptography(benchmark: Any, size: int) -> None:
    """The slow twin: one packet, one call from Python."""
    cipher, packet, nonce = ChaCha20Poly1305(KEY), bytes(size), bytes(12)
    benchmark.extra_info.update(packets=1, bytes=size)
    benchmark(cipher.encrypt, nonce, packet, None)
