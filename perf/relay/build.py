"""Compiles the load generator in place when its sources have changed. It is no part of the package and never in a wheel."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("load.pyx", "generator.c", "generator.h", "build.py")
_SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
flags = ["-std=gnu11", "-O3", "-g1", "-fno-omit-frame-pointer", "-Wall", "-Wextra"]
extension = Extension("perf.relay.load", ["perf/relay/load.pyx", "perf/relay/generator.c"], include_dirs=["perf/relay"],
                      depends=["perf/relay/generator.h"], extra_compile_args=flags)
setup(name="perf-relay-load", packages=[], py_modules=[], script_args=["-q", "build_ext", "--inplace"],
      ext_modules=cythonize([extension], build_dir="build/cython", language_level=3, quiet=True))
"""


class BuildFailed(Exception):
    """The compiler's words."""


def build() -> None:
    """Makes `perf.relay.load` importable. Raises BuildFailed."""
    built = HERE / f"load{sysconfig.get_config_var('EXT_SUFFIX')}"
    if built.exists() and built.stat().st_mtime >= max((HERE / name).stat().st_mtime for name in SOURCES):
        return
    done = subprocess.run([sys.executable, "-c", _SETUP], cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"The load generator does not compile:\n{done.stdout}{done.stderr}")
