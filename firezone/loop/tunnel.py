"""The engine on an asyncio loop: ticks when a descriptor or the timer calls, yields when the budget is used up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from firezone.base.timing import MILLISECOND
from firezone.loop.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.io.deadline import DeadlineTimer
    from firezone.loop.errors import TunnelError
    from firezone.loop.inputs import Source, Ticking

RETRY_INTERVAL = 2 * MILLISECOND
"""Longest pause before a refused send is tried again; writability usually comes first."""


class Tunnel:
    """Drives one engine. Portal, signals and health checks are ordinary tasks of the same loop."""

    def __init__(
        self,
        engine: Ticking,
        timer: DeadlineTimer,
        *,
        on_event: Callable[[object], None],
        on_error: Callable[[TunnelError], None],
        budget: Budget | None = None,
    ) -> None:
        self.engine = engine
        self.budget = budget or Budget()
        self._timer = timer
        self._on_event = on_event
        self._on_error = on_error
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: dict[int, Source] = {}
        self._blocked: set[int] = set()
        self._tick_is_queued = False

    def start(self) -> None:
        """Begins to watch the sources, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._timer.fd, self._on_timer)
        self.watch()
        self.touch()
        self._queue_tick()

    def stop(self) -> None:
        """Stops watching. The engine stays usable: tick by hand to flush."""
        if self._loop is None:
            return
        self._loop.remove_reader(self._timer.fd)
        self._change_watch({}, set())
        self._loop = None

    def watch(self) -> None:
        """Brings the watched descriptors in line with the engine's sources; call it after sockets were replaced."""
        engine = self.engine
        readable = {fd: source for source in engine.open_sources() for fd in source.descriptors()}
        blocked = set(engine.blocked_descriptors()) if engine.is_held else set()
        if readable != self._watched or blocked != self._blocked:
            self._change_watch(readable, blocked)

    def unwatch(self) -> None:
        """Forgets all descriptors; call it before sockets are replaced, since new ones may get the numbers of the old."""
        if self._loop is not None:
            self._change_watch({}, set())

    def touch(self) -> None:
        """Call it after anything outside the tick has called the machine: takes its outputs and sets the timer anew."""
        has_more = self.engine.touch()
        self._report()
        self._arm()
        if has_more:
            self._queue_tick()

    def wake(self) -> None:
        """Ticks now, for sources that have no descriptor (rings in memory)."""
        self._run()

    def _run(self, source: Source | None = None, descriptor: int = -1) -> None:
        self._tick_is_queued = False
        caller = None if source is None else (source, descriptor)
        if self._loop is None:
            return
        engine, budget = self.engine, self.budget
        budget.start()
        while budget.take():
            more = engine.tick(caller)
            caller = None
            self._report()
            if self._loop is None:
                return
            if not more and engine.sleeps():
                if engine.is_held or self._blocked:
                    self.watch()
                self._arm()
                return
        self._arm()
        self._queue_tick()

    def _queue_tick(self) -> None:
        if self._loop is not None and not self._tick_is_queued:
            self._tick_is_queued = True
            self._loop.call_soon(self._run)

    def _on_timer(self) -> None:
        self._timer.clear()
        self._run()

    def _report(self) -> None:
        engine = self.engine
        while (event := engine.poll_event()) is not None:
            self._on_event(event)
        if (errors := engine.errors.take()) is not None:
            self._on_error(errors)

    def _arm(self) -> None:
        deadline = self.engine.deadline
        if self.engine.is_held:
            retry = self.engine.clock.now() + RETRY_INTERVAL
            deadline = retry if deadline is None else min(deadline, retry)
        self._timer.arm(deadline)

    def _change_watch(self, readable: dict[int, Source], blocked: set[int]) -> None:
        assert self._loop is not None
        for fd in self._watched.keys() - readable.keys():
            self._loop.remove_reader(fd)
        for fd in readable.keys() - self._watched.keys():
            self._loop.add_reader(fd, self._run, readable[fd], fd)
        for fd in self._blocked - blocked:
            self._loop.remove_writer(fd)
        for fd in blocked - self._blocked:
            self._loop.add_writer(fd, self._run)
        self._watched, self._blocked = readable, blocked
