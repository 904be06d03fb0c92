"""The portal's server as an object: what a cancellation must do whatever else happens in the same moment."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from firezone.base.rng import SeededRng
from firezone.loop.portal import PortalOptions, PortalServer

if TYPE_CHECKING:
    from firezone.proto.portal.model import PolicyBook


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
        server._wake.set()
        await asyncio.wait([task], timeout=2)
        assert task.cancelled()
    finally:
        await server.stop()


async def test_a_large_policy_is_read_aside_and_the_newest_is_in_force(options: PortalOptions) -> None:
    """While it is read the loop goes round: devices would else wait for seconds."""
    server = PortalServer(options, rng=SeededRng(1))
    reading, go_on = threading.Event(), threading.Event()
    load = server._policy.load

    def slow_load() -> PolicyBook:
        book = load()
        reading.set()
        assert go_on.wait(5)
        return book

    server._policy.load = slow_load  # type: ignore[method-assign]
    try:
        before = options.config.read_text()
        options.config.write_text(before.replace('slug = "home"', 'slug = "first"'))
        first = asyncio.create_task(server.reload())
        while not reading.is_set():  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(0.001)
        options.config.write_text(before.replace('slug = "home"', 'slug = "second"'))
        second = asyncio.create_task(server.reload())
        await asyncio.sleep(0.01)
        go_on.set()
        assert await first
        assert await second
        assert server._service._book.account.slug == "second"
    finally:
        await server.stop()
