"""The same tests of the machines on every session store there is."""

from __future__ import annotations

import pytest

from tests.harness import noise
from tests.harness.stores import STORES


@pytest.fixture(params=STORES)
def store_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes every `Sim` of the test use one kind of store."""
    monkeypatch.setattr(noise, "default_store", STORES[request.param])
    return str(request.param)
