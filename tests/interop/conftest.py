"""Interoperability tests need root, for namespaces and TUN devices, and the programs of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _needs(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("root") is not None:
        if os.geteuid() != 0:
            pytest.skip("needs root")
        if not Path("/dev/net/tun").exists():
            pytest.skip("needs /dev/net/tun")
