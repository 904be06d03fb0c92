"""Sealing and opening batches on each instruction set, in turns with libcrypto, and as it costs from Python.

`bench_in_turns` prints a table: every round times libcrypto as it is, libcrypto held to AVX2 and each of our levels, so that the
ratios of medians hold whatever the clock does; without a compiler or libcrypto's headers it is left out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
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

HERE = Path(__file__).parent
HEADER_SIZE = 16
KEY = bytes(range(32))
WITHOUT_AVX512 = ":~0xD0230000"
"""For OPENSSL_ia32cap: takes AVX512F, DQ, IFMA, CD, BW and VL away."""
LEVELS = {"portable": CpuFeatures(0), "avx2": CpuFeatures.AVX2, "avx512": CpuFeatures.AVX2 | CpuFeatures.AVX512}
MIXED = (64, 1424, 576, 1280)
"""Sizes in turn, each packet with a key of its own where ours is timed; libcrypto_aead.c knows them as size 0."""
SHAPES = [(1424, 1), (1424, 2), (1424, 4), (1424, 8), (1424, 16), (1424, 64), (576, 64), (64, 1), (64, 64), (0, 8), (0, 64)]
ROUNDS = 41
PASS_NS = 400_000
"""How long a level is timed in one turn; far below the machine's changes of clock."""

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


@pytest.fixture(params=LEVELS)
def features(request: pytest.FixtureRequest) -> Iterator[None]:
    if aead.force_features(LEVELS[request.param]) != LEVELS[request.param]:
        pytest.skip("machine lacks these instructions")
    yield
    aead.force_features(None)


# ---- in turns with libcrypto ----


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


class Ours:
    """The compiled module's own functions, called and timed from C."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.cycle_ns.restype = ctypes.c_double
        self._functions = [ctypes.c_void_p(_exported(name)) for name in ("seal_jobs", "open_jobs")]

    def cycle_ns(self) -> float:
        return float(self._library.cycle_ns())

    def time(self, level: str, size: int, batch: int, repeats: int) -> tuple[float, float]:
        packets = Batch(size or max(MIXED), batch)
        keys = np.random.default_rng(2).integers(0, 256, (batch, aead.KEY_SIZE), np.uint8)
        jobs = (Job * batch)()
        for i, job in enumerate(jobs):
            packet = packets.slab.ctypes.data + int(packets.offset[i])
            job.key, job.counter = keys.ctypes.data + (0 if size else i * aead.KEY_SIZE), i
            job.length = size or MIXED[i % len(MIXED)]
            job.in_, job.out, job.tag = packet, packet, packet + job.length
        out = (ctypes.c_double * 2)()
        aead.force_features(LEVELS[level])
        self._library.time_jobs(*self._functions, jobs, batch, repeats, out)
        aead.force_features(None)
        return out[0], out[1]


def _exported(name: str) -> int:
    """The address of a C function that `aead.pxd` declares."""
    capsule = aead.__dict__["__pyx_capi__"][name]
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype, api.PyCapsule_GetPointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(api.PyCapsule_GetPointer(capsule, api.PyCapsule_GetName(capsule)))


class Libcrypto:
    """A process that seals and opens with libcrypto."""

    def __init__(self, program: Path, capabilities: str | None) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_ia32cap"}
        if capabilities:
            environment["OPENSSL_ia32cap"] = capabilities
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def time(self, size: int, batch: int, repeats: int) -> tuple[float, float]:
        assert self.process.stdin
        assert self.process.stdout
        print(size, batch, repeats, file=self.process.stdin, flush=True)
        seal, open_ = self.process.stdout.readline().split()
        return float(seal), float(open_)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libcrypto_aead.c as a program; beside it, ending in .so, as a library."""
    compiler = shutil.which("cc")
    path = tmp_path_factory.mktemp("libcrypto") / "libcrypto_aead"
    command = [compiler or "", "-O2", f"-I{HERE.parent / 'csrc'}", str(HERE / "libcrypto_aead.c"), "-lcrypto"]
    for more in (["-o", str(path)], ["-shared", "-fPIC", "-o", f"{path}.so"]):
        if compiler is None or subprocess.run([*command, *more], capture_output=True, check=False).returncode:
            pytest.skip("no compiler, or no headers of libcrypto")
    return path


def bench_in_turns(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints nanoseconds, cycles per byte and ratios to libcrypto; medians of rounds in which all take turns."""
    ours = Ours(program.with_name(f"{program.name}.so"))
    library, narrow = Libcrypto(program, None), Libcrypto(program, WITHOUT_AVX512)
    levels = [name for name, wanted in LEVELS.items() if aead.cpu_features() & wanted == wanted]
    try:
        for size, batch in SHAPES:
            repeats = max(3, PASS_NS // (batch * (_mean(size) + 600)))
            rows: dict[str, list[tuple[float, float]]] = {}
            cycles = []
            for _ in range(ROUNDS):
                rows.setdefault("libcrypto", []).append(library.time(size, batch, repeats))
                rows.setdefault("libcrypto, AVX2", []).append(narrow.time(size, batch, repeats))
                for level in levels:
                    rows.setdefault(level, []).append(ours.time(level, size, batch, repeats))
                cycles.append(ours.cycle_ns())
            with capsys.disabled():
                print(_table(size, batch, rows, statistics.median(cycles)))
    finally:
        for child in (library, narrow):
            child.process.communicate()
            assert child.process.returncode == 0


def _mean(size: int) -> int:
    return size or sum(MIXED) // len(MIXED)


def _table(size: int, batch: int, rows: dict[str, list[tuple[float, float]]], cycle_ns: float) -> str:
    median = {name: [statistics.median(row[way] for row in turns) for way in (0, 1)] for name, turns in rows.items()}
    what = f"{size} bytes" if size else "mixed sizes, a key each,"
    lines = [f"\n{what} x {batch}, {1 / cycle_ns:.2f} GHz: per packet, medians of {ROUNDS} rounds in turns"]
    head = "seal ns  cycles/B  x libcrypto  x the same, AVX2"
    lines.append(f"{'':16}  {head}    {head.replace('seal', 'open')}")
    for name, times in median.items():
        cells = []
        for way, ns in enumerate(times):
            ratios = ns / median["libcrypto"][way], ns / median["libcrypto, AVX2"][way]
            cells.append(f"{ns:7.0f}  {ns / cycle_ns / _mean(size):8.2f}  {ratios[0]:11.2f}  {ratios[1]:16.2f}")
        lines.append(f"{name:16}  {'    '.join(cells)}")
    return "\n".join(lines)


# ---- from Python ----


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
def bench_seal_with_cryptography(benchmark: Any, size: int) -> None:
    """The slow twin: one packet, one call from Python."""
    cipher, packet, nonce = ChaCha20Poly1305(KEY), bytes(size), bytes(12)
    benchmark.extra_info.update(packets=1, bytes=size)
    benchmark(cipher.encrypt, nonce, packet, None)
