"""Compiled modules of firezone, derived from one table; everything else is in pyproject.toml.

Environment: FZ_CHECKED=1 turns Cython's bounds, overflow and initialisation checks on and makes warnings errors;
FZ_SANITIZE=address,undefined builds with those sanitizers; FZ_ANNOTATE=1 writes Cython's annotated HTML to build/;
FZ_NATIVE=1 compiles for the machine it is built on (never for a wheel that travels).
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CHECKED = os.environ.get("FZ_CHECKED") == "1"
SANITIZE = os.environ.get("FZ_SANITIZE", "")
X86 = platform.machine() in ("x86_64", "AMD64")

CFLAGS = [
    "-std=gnu11", "-O3", "-g1", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-fvisibility=hidden",
    "-Wall", "-Wextra", "-Wno-unused-parameter",
]  # fmt: skip
if X86 or platform.machine() == "aarch64":
    # Stacks are whole to profilers: functions that call no other keep their frames too.
    CFLAGS.append("-mno-omit-leaf-frame-pointer")
if os.environ.get("FZ_NATIVE") == "1":
    CFLAGS.append("-march=native")
if CHECKED:
    CFLAGS += ["-Werror", "-Wno-error=unused-function", "-Wno-error=unused-variable"]
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-O1"]

# (module, C sources in csrc/). Sources whose names end in an instruction set get that set's flags and no others do.
MODULES: list[tuple[str, tuple[str, ...]]] = [
    ("firezone.kernels.ring", ()),
    ("firezone.kernels.batch", ()),
    ("firezone.kernels.aead", ("fz_aead.c", "fz_aead_portable.c", "fz_aead_avx2.c", "fz_aead_avx512.c", "fz_cpu.c")),
    ("firezone.kernels.session", ("fz_session.c", "fz_hash.c")),
    ("firezone.io.reader", ("fz_reader.c", "fz_udp.c", "fz_tun.c")),
    ("firezone.io.udp_batch", ("fz_udp.c",)),
    ("firezone.io.tun_batch", ("fz_tun.c",)),
    ("firezone.kernels.checksum", ("fz_csum.c",)),
    ("firezone.kernels.ip", ("fz_ip.c",)),
    ("firezone.kernels.channel", ("fz_channel.c",)),
    ("firezone.kernels.demux", ("fz_demux.c", "fz_channel.c")),
    ("firezone.kernels.route", ("fz_route.c", "fz_lpm.c", "fz_memo.c")),
    ("firezone.kernels.relay", ("fz_relay.c", "fz_fair.c", "fz_addrmap.c")),
    (
        "firezone.io.relay_batch",
        ("fz_pump.c", "fz_udp.c", "fz_relay.c", "fz_fair.c", "fz_addrmap.c", "fz_split.c", "fz_csum.c", "fz_ip.c"),
    ),
    ("firezone.kernels.filter", ("fz_filter.c", "fz_lpm.c", "fz_memo.c")),
    ("firezone.kernels.nat", ("fz_nat.c", "fz_nat_stage.c", "fz_addrmap.c", "fz_csum.c", "fz_ip.c")),
    (
        "firezone.datapath.path",
        (
            "fz_split.c",
            "fz_ip.c",
            "fz_csum.c",
            "fz_route.c",
            "fz_lpm.c",
            "fz_memo.c",
            "fz_nat.c",
            "fz_nat_stage.c",
            "fz_addrmap.c",
            "fz_filter.c",
            "fz_session.c",
            "fz_hash.c",
            "fz_join.c",
            "fz_demux.c",
            "fz_channel.c",
        ),
    ),
    ("firezone.kernels.offload", ("fz_split.c", "fz_join.c", "fz_csum.c", "fz_ip.c")),
]
ISA_FLAGS = {
    "_avx2.c": ["-mavx2"],
    "_avx512.c": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512ifma"],
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "overflowcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "binding": True,
}


class BuildExt(build_ext):
    """Compiles each C source with the flags of its own instruction set only, so that a wheel runs on the oldest CPU."""

    def build_extension(self, ext: Extension) -> None:
        isa = [source for source in ext.sources if any(source.endswith(ending) for ending in ISA_FLAGS)]
        ext.sources = [source for source in ext.sources if source not in isa]
        objects = []
        for source in isa if X86 else []:
            flags = next(flags for ending, flags in ISA_FLAGS.items() if source.endswith(ending))
            objects += self.compiler.compile(
                [source],
                # One object directory per module: modules are built side by side.
                output_dir=str(Path(self.build_temp) / ext.name),
                include_dirs=ext.include_dirs,
                extra_postargs=CFLAGS + flags,
                depends=ext.depends,
            )
        ext.extra_objects = [*ext.extra_objects, *objects]
        ext.depends = [*ext.depends, *isa]  # or a change of nothing but these would not be linked
        super().build_extension(ext)


def extension(module: str, sources: tuple[str, ...]) -> Extension:
    return Extension(
        module,
        sources=[module.replace(".", "/") + ".pyx", *(f"csrc/{source}" for source in sources)],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        depends=[str(path) for path in sorted(Path("csrc").glob("*.h"))],
        extra_compile_args=CFLAGS,
        extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
    )


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize(
        [extension(*row) for row in MODULES],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
        annotate=os.environ.get("FZ_ANNOTATE") == "1",
    ),
)
