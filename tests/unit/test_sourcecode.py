"""What no compiler or linter checks for us: what must not stand in Cython files, and that stubs tell the truth."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PYX = sorted((ROOT / "firezone").rglob("*.pyx"))
KERNELS = [path for path in PYX if path.parent.name == "kernels"]

STUB_EXCEPTIONS = r"""
.*\.__pyx_capi__
.*\.__test__
.*\.__reduce_cython__
.*\.__setstate_cython__
.*\.__init__
firezone\.kernels\.\w+\.(ACTIVITY|ADDRESS|PREFIX_SIZE|RUN|SLOT_SIZE)
"""
"""Cython's own names, constructors (they are `__cinit__`, whose arguments stubtest cannot see), and constants."""


def code_of(path: Path) -> str:
    """The file without comments and documentation."""
    text = re.sub(r'""".*?"""', '""', path.read_text(), flags=re.DOTALL)
    return re.sub(r"#.*", "", text)


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PYX, ids=name_of)
def test_nothing_compiled_prints(path: Path) -> None:
    assert not re.search(r"\bprint(f)?\s*\(", code_of(path))


@pytest.mark.parametrize("path", KERNELS, ids=name_of)
def test_kernels_never_take_the_gil_back(path: Path) -> None:
    code = code_of(path)
    assert not re.search(r"\bwith\s+gil\b", code)
    assert not re.search(r"\)\s*(noexcept\s+)?with\s+gil\s*:", code)


@pytest.mark.parametrize("path", PYX, ids=name_of)
def test_functions_that_run_without_the_gil_say_how_errors_leave(path: Path) -> None:
    """A nogil function with neither `noexcept` nor `except` takes the GIL after every call to look for an exception."""
    for line in code_of(path).splitlines():
        if re.match(r"\s*cdef\b.*\)\s*nogil\s*:", line):
            pytest.fail(f"{path.name}: {line.strip()}")


@pytest.mark.parametrize("path", PYX, ids=name_of)
def test_cimports_are_absolute_and_directives_have_their_place(path: Path) -> None:
    assert not re.search(r"^\s*(from\s+\.|cimport\s+\.)", code_of(path), re.MULTILINE)
    heads = re.findall(r"^# cython:.*", path.read_text(), re.MULTILINE)
    assert all(" because " in head for head in heads), "a directive of one file needs its reason: directives live in setup.py"


@pytest.mark.parametrize("path", PYX, ids=name_of)
def test_every_compiled_module_has_a_stub_and_a_place_in_the_build(path: Path) -> None:
    assert path.with_suffix(".pyi").exists()
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert f'"{module}"' in (ROOT / "setup.py").read_text()


def test_stubs_agree_with_the_built_modules(tmp_path: Path) -> None:
    exceptions = tmp_path / "allowed"
    exceptions.write_text(STUB_EXCEPTIONS)
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in PYX]
    result = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", "--ignore-disjoint-bases", "--ignore-unused-allowlist",
         "--allowlist", str(exceptions), *modules],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
