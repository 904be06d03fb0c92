"""Pure folders take bytes and time and give back values: they import nothing that reaches the world, and call no clock."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.unit.test_layers import PACKAGE, ROOT, SOURCES, imports_of, layer_of

PURE = {"base", "kernels", "wire", "proto", "datapath"}

FORBIDDEN = {
    "asyncio", "multiprocessing", "os", "random", "secrets", "select", "selectors", "signal", "socket", "ssl", "subprocess",
    "threading", "time", "uvloop", "websockets", "pyroute2",
}  # fmt: skip

CLOCK_CALLS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("uuid", "uuid1"),
               ("uuid", "uuid4")}  # fmt: skip
"""(object, method) whose result depends on more than its arguments."""

IMPURE = {"firezone.base.log": "opens log files and stamps lines; for programs, machines log through structlog alone"}
"""Modules of pure folders that are none, with the reason; nothing pure may import them."""

SYSTEM_CALL_WRAPPERS = {"fz_udp", "fz_pump", "fz_tun"}
"""C sources that make system calls: used by `io` alone."""

STOPWATCH = "fz_stopwatch"
"""Reads a clock for the counters of the data path; what a stage does never depends on it."""

C_CLOCKS_AND_CALLS = ("clock_gettime", "gettimeofday", "getrandom", "getentropy", "rand(", "socket(", "open(", "ioctl(")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


FILES = [path for path in SOURCES if layer_of(path) in PURE and module_of(path) not in IMPURE]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_pure_imports_the_world(path: Path) -> None:
    names = imports_of(path)
    wrong = ({name.split(".")[0] for name in names} & FORBIDDEN) | (names & IMPURE.keys())
    assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".py"], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_pure_calls_a_clock(path: Path) -> None:
    calls = {
        (node.func.value.id if isinstance(node.func.value, ast.Name) else getattr(node.func.value, "attr", ""), node.func.attr)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & CLOCK_CALLS


def test_compute_kernels_in_c_make_no_system_calls() -> None:
    for path in sorted((ROOT / "csrc").glob("*.[ch]")):
        if path.stem in {*SYSTEM_CALL_WRAPPERS, STOPWATCH}:
            continue
        text = path.read_text()
        assert not [call for call in C_CLOCKS_AND_CALLS if f" {call}" in text or f"({call}" in text], path.name
        assert "malloc(" not in text, path.name


def test_pure_folders_are_not_empty() -> None:
    assert {layer_of(path) for path in FILES} == PURE
    assert (PACKAGE / "proto").is_dir()
