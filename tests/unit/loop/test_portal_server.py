"""The portal's server as an object: what a cancellation must do whatever else happens in the same moment."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from firezone.base.rng import SeededRng
from firezone.loop.portal import PortalOptions, PortalServer


@pytest.fixture
def options(tmp_path: Path) -> PortalOptions:
    policy = tmp_path / "policy.toml"
    subprocess.run([sys.executable, "-m", "firezone.portal", "init", "--config", str(policy)], check=True, capture_output=True)
    return PortalOptions(policy, tmp_path / "policy.db", "127.0.0.1", 0, None)


@pytest.mark.parametrize("turns", range(4))
async def test_cancellation_in_the_moment_of_a_wake_up_ends_the_portal(turns: int, options: PortalOptions) -> None:
    """SIGTERM arrives some passes of the loop before a device leaves: asyncio.wait_for of Python 3.11 loses it in one of them."""
    server = PortalServer(options, rng=SeededRng(1))
    try:
        task = asyncio.create_task(server.run())
        await asyncio.sleep(0.05)
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        server.reload()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()
    finally:
        await server.stop()
