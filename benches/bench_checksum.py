"""The internet checksum: sum, copy-and-sum, incremental update, each beside its twin in plain Python."""

from __future__ import annotations

import os
from typing import Any

import pytest

from firezone.kernels import checksum
from tests.harness.twins import checksum as twin

SIZES = [64, 576, 1280, 65_535]


@pytest.mark.parametrize("size", SIZES)
def bench_sum(benchmark: Any, size: int) -> None:
    benchmark.extra_info["bytes"] = size
    benchmark(checksum.inet_sum, os.urandom(size))


@pytest.mark.parametrize("size", SIZES)
def bench_copy_and_sum(benchmark: Any, size: int) -> None:
    benchmark.extra_info["bytes"] = size
    benchmark(checksum.copy_and_sum, bytearray(size), os.urandom(size))


def bench_update(benchmark: Any) -> None:
    benchmark(checksum.update16, 0x1234, 0x5678, 0x9ABC)


@pytest.mark.parametrize("size", SIZES)
def bench_twin_sum(benchmark: Any, size: int) -> None:
    benchmark.extra_info["bytes"] = size
    benchmark.pedantic(twin.inet_sum, (os.urandom(size),), rounds=20)
