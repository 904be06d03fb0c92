"""The AEAD as a library of its own, compiled once for the tests that look at it from outside the package."""

from __future__ import annotations

import pytest

from tests.kernels.aead_library import COMPILER, Library


@pytest.fixture(scope="session")
def aead_library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    if COMPILER is None:
        pytest.skip("no C compiler")
    return Library(tmp_path_factory.mktemp("aead"))
