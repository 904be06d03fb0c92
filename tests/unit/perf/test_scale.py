"""Flows of every number there are steps for, and what they ask for on paper."""

from __future__ import annotations

import subprocess

import pytest

from perf.relay.build import build
from tests.harness.lab import ROOT

build()

from perf.scale.__main__ import STEPS  # noqa: E402
from perf.scale.flows import INDEX_BYTES, KERNEL_KEYS, MEMO_BYTES, SESSION_BYTES, cache_for, in_kernels, sockets_for  # noqa: E402


@pytest.mark.parametrize("flows", STEPS)
def test_sockets_make_exactly_the_flows_of_a_step(flows: int) -> None:
    clients, resources = sockets_for(flows)
    assert clients * resources == flows
    assert clients <= 1000
    assert resources <= 100


def test_more_bytes_never_fit_in_a_smaller_cache() -> None:
    order = ["L1", "L2", "L3", "L4", "memory"]
    found = [order.index(cache_for(1 << bits)) for bits in range(10, 42)]
    assert found == sorted(found)
    assert cache_for(1 << 41) == "memory"


def test_bytes_on_paper_are_those_of_the_structs() -> None:
    sizes = {"fz_memo_entry": MEMO_BYTES, "fz_nat_session": SESSION_BYTES, "fz_addrmap_entry": INDEX_BYTES}
    claims = "".join(f'_Static_assert(sizeof({name}) == {size}, "{name}");\n' for name, size in sizes.items())
    source = f'#include "fz_memo.h"\n#include "fz_nat.h"\n{claims}'
    command = ["cc", "-std=gnu11", "-fsyntax-only", "-I", str(ROOT / "csrc"), "-x", "c", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kernels_are_timed_for_both_kinds_and_ways() -> None:
    found = in_kernels(10, passes=1)
    assert tuple(found) == KERNEL_KEYS
    assert all(1 < value < 10_000 for value in found.values())
