"""The worlds find every bug that is put back, soon, and nothing where it is not."""

from __future__ import annotations

import pytest

from tests.edges.mutations import MUTATIONS, SEARCHES, Search
from tests.edges.replay import play, steps_of

WORLDS = 6


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_bug_that_is_put_back_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = SEARCHES.get(name, Search())
    failure = None
    with monkeypatch.context() as patch:
        MUTATIONS[name](patch)
        for seed in range(search.seed, search.seed + WORLDS):
            if (failure := play(seed, steps_of(seed, search.steps, search.kinds))) is not None:
                break
    assert failure is not None, f"{WORLDS} worlds of {search.steps} steps"
    assert play(failure.seed, failure.steps) is None, "the same steps without the bug"
