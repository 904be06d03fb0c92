"""The world finds bugs that were real when they are put back, and nothing in the same walks without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.world.mutations import MUTATIONS
from tests.world.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable

WORLDS, STEPS = 8, 250
"""Worlds that a mutation is looked for in, and steps of each."""


def walk(seed: int) -> None:
    one = Walk(seed)
    for _ in range(STEPS):
        one.apply(one.propose())


def fails(seed: int) -> bool:
    """Whether the system differs from the reference, or a machine raises what it should not."""
    try:
        walk(seed)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_the_world_finds_it(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert any(fails(seed) for seed in range(MUTATIONS[mutate], MUTATIONS[mutate] + WORLDS))


@pytest.mark.parametrize("seed", sorted(set(MUTATIONS.values())))
def test_without_them_it_finds_nothing(seed: int) -> None:
    walk(seed)
