"""How long a user waits for nothing: the import, and `--help` of every program."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def bench_bare_interpreter(benchmark: Any) -> None:
    """What the others are to be compared with."""
    benchmark.pedantic(run, ("-c", "pass"), rounds=10)


def bench_import(benchmark: Any) -> None:
    benchmark.pedantic(run, ("-c", "import firezone"), rounds=10)


@pytest.mark.parametrize("program", ["client", "gateway", "portal", "lab"])
def bench_help(benchmark: Any, program: str) -> None:
    benchmark.pedantic(run, ("-m", f"firezone.{program}", "--help"), rounds=5)
