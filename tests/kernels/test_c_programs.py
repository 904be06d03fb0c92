"""Compiles and runs every `csrc/tests/test_*.c` under the sanitizers it names.

The head of a program says what it needs:  `// sources: fz_x.c fz_y.c`  from csrc/, and  `// sanitize: address,undefined`.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
PROGRAMS = sorted((CSRC / "tests").glob("test_*.c"))
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Wno-sign-conversion", "-Werror"]
X86 = platform.machine() in ("x86_64", "AMD64")
ISA_FLAGS = {
    "_avx2.c": ["-mavx2"],
    "_avx512.c": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512ifma"],
}
COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
TIMEOUT_S = 120


def head_value(program: Path, key: str) -> str:
    """Returns what the head of a program says after `// key:`."""
    found = re.search(rf"^// {key}:(.*)$", program.read_text(), re.MULTILINE)
    assert found, f"{program.name} does not say its {key}."
    return found[1].strip()


def compile_program(program: Path, folder: Path) -> Path:
    """Compiles each source with the flags of its own instruction set only, as setup.py does."""
    assert COMPILER is not None
    if not X86 and any(program.name.endswith(ending) for ending in ISA_FLAGS):
        pytest.skip("machine lacks the instruction set")
    sanitize = head_value(program, "sanitize")
    common = [COMPILER, "-std=gnu11", "-g1", "-O1", *WARNINGS, f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
    common += [f"-I{CSRC}", f"-I{CSRC / 'tests'}"]
    objects = []
    for source in [program, *(CSRC / name for name in head_value(program, "sources").split())]:
        flags = next((flags for ending, flags in ISA_FLAGS.items() if source.name.endswith(ending)), None)
        if flags and not X86:
            continue
        objects.append(str(folder / f"{source.stem}.o"))
        subprocess.run([*common, *(flags or ()), "-c", str(source), "-o", objects[-1]], check=True)
    binary = folder / program.stem
    subprocess.run([*common, *objects, "-o", str(binary), "-lpthread"], check=True)
    return binary


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_program_finds_nothing_wrong(program: Path, tmp_path: Path) -> None:
    binary = compile_program(program, tmp_path)
    done = subprocess.run([str(binary)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_programs() -> None:
    assert PROGRAMS
