"""What client and gateway do alike as programs: start in order, serve portal and signals, end in order.

Start: sockets and TUN device ▸ netlink ▸ engine ▸ portal. End: portal closed ▸ goodbyes flushed ▸ device gone ▸ rules removed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog

import firezone
from firezone.base.errors import FirezoneError
from firezone.base.network_view import NetworkView
from firezone.base.timing import SECOND
from firezone.datapath.tables import Tables
from firezone.io.clock import BootClock
from firezone.io.deadline import DeadlineTimer
from firezone.io.entropy import SystemRng
from firezone.io.netlink import Netlink
from firezone.io.network_changes import NetworkChanges
from firezone.io.threads import name_thread
from firezone.loop.host import Host
from firezone.loop.portal_connection import PortalConnection
from firezone.loop.snapshot import SnapshotFile
from firezone.loop.user_agent import system_user_agent
from firezone.proto.roaming import SUSPEND_CHECK_INTERVAL, Roaming, Verdict
from firezone.proto.snownet.events import PathChosen
from firezone.proto.tunnel_state import ConnectionChanged, PortalWanted, ReconnectPortal, RelayEnded, SendToPortal, TunnelState

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from firezone.loop.config import TunnelConfig
    from firezone.loop.ends import Ends
    from firezone.proto.phoenix.login import LoginUrl
    from firezone.wire.portal.shared import Vocabulary

log = structlog.get_logger(__name__)

PORTAL_PATIENCE_S = 5.0
"""How long a login after a reset may take before that is worth an error."""
RECEIVE_CEILING, SEND_CEILING = 134_217_728, 16_777_216

State = TypeVar("State", bound=TunnelState)


class TunnelProgram(Generic[State]):
    """One running client or gateway."""

    topic: str
    user_agent_word: str
    compatible_version: str
    """Version we present ourselves as; portals pair and gate by it."""
    vocabularies: Mapping[int, tuple[Vocabulary, Vocabulary]]
    """By generation of the protocol: what the portal says to us, what we say to it."""

    def __init__(self, config: TunnelConfig, ends: Ends, state_class: type[State], *, addresses: list[str] | None = None,
                 owns_process: bool = True, **state_options: Any) -> None:  # fmt: skip
        """Prepares; `run` starts. `state_options` are for the state alone.

        `addresses` replaces what netlink says of our local addresses (memory mode). `owns_process` False leaves the process's
        signals to whoever runs several programs in it.
        """
        self.config = config
        self.ends = ends
        self._owns_process = owns_process
        self.clock = BootClock()
        self._rng = SystemRng()
        tables = Tables(self._rng.bytes(48))
        self.state: State = state_class(
            store=tables.sessions, channels=tables.channels, rng=self._rng, now=self.clock.now(), utc=self.clock.utc(),
            **state_options,
        )  # fmt: skip
        self.state.set_portal_reached(False, self.clock.now())
        self.host = Host(self.clock, ends, tables, DeadlineTimer())
        self.netlink = Netlink(ends.device) if ends.device is not None else None
        self._snapshot = SnapshotFile(self.topic, config.counters_file, self._counters)
        self._fixed_addresses = addresses
        self._roaming = Roaming()
        self._offered: tuple[str, ...] = ()
        """Local addresses that the state knows."""
        self._suspend_watch: asyncio.Task[Any] | None = None
        self._impatience: asyncio.TimerHandle | None = None
        self._has_complained = False
        self._stopping = asyncio.Event()
        self._failure: Exception | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.portal: PortalConnection

    # for subclasses to say

    def login_url(self) -> LoginUrl:
        raise NotImplementedError

    async def on_event(self, event: object) -> None:
        """Reacts to an event of the state that is not common to both programs."""
        raise NotImplementedError

    async def resolve_portal(self, host: str) -> Sequence[str]:
        """Finds the portal's addresses; as it is, the name itself, which leaves it to the system."""
        return [host]

    async def prepare(self) -> None:
        """Does what must be done between netlink and engine."""

    def on_moved(self, addresses: tuple[str, ...]) -> None:
        """Reacts to another network under us, where these are our addresses."""
        raise NotImplementedError

    def on_back(self) -> None:
        """Reacts to the same network as before that was away for a moment."""

    async def clean_up(self) -> None:
        """Takes back what `prepare` did."""

    def abandon(self) -> None:
        """Takes back, without waiting for anything, what would outlive the process."""

    def install_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Comes before anything is set up on the host: a signal meanwhile must not leave half of it behind."""
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        self._snapshot.watch_signal(loop)

    # life

    async def run(self) -> None:
        """Runs until a signal or `stop`.

        Raises: what ended the program otherwise: PortalError, ConfigError, TunnelFatalError.
        """
        loop = asyncio.get_running_loop()
        changes = None
        if self.config.raise_buffers:
            _raise_ceilings()
        if self._owns_process:
            name_thread(f"fz-{self.topic}")
            self.install_signals(loop)
        try:
            if self.netlink is not None:
                await self.netlink.start()
            await self.prepare()
            self.portal = self._make_portal()
            self.host.start(self.state, self._on_event, self._fail)
            if self.netlink is not None:
                changes = NetworkChanges(self._look_again, self.ends.device)
                self._suspend_watch = self._spawn(self._watch_for_suspend())
            await self._look_at_network()
            self._spawn(self._run_portal())
            # What exists now lives as long as the program: the collector need not walk it again and again, which shows as
            # pauses of several milliseconds in the round trips.
            gc.collect()
            gc.freeze()
            await self._stopping.wait()
        finally:
            if changes is not None:
                changes.close()
            await self._end(loop)
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Begins an orderly end; called again, the flush is not waited for."""
        self._stopping.set()

    def _make_portal(self) -> PortalConnection:
        config = self.config
        tls = None if config.ca_file is None else ssl.create_default_context(cafile=config.ca_file)
        from_portal, to_portal = self.vocabularies[config.portal_generation]
        return PortalConnection(
            self.login_url(), self.topic, user_agent=system_user_agent(self.compatible_version), from_portal=from_portal,
            to_portal=to_portal, on_message=self._on_message, rng=self._rng, public_key=self.state.public_key,
            on_state=self._on_portal_state, mark=self.ends.mark, max_partition_ns=config.max_partition, tls=tls,
            resolve=self.resolve_portal, clock=self.clock.now,
        )  # fmt: skip

    async def _run_portal(self) -> None:
        await self.portal.run()

    # roaming

    def _look_again(self) -> None:
        self._spawn(self._look_at_network())

    async def _look_at_network(self) -> None:
        """Finds out where we are and obeys what `Roaming` makes of it."""
        if self.netlink is not None and self._fixed_addresses is None:
            view = await self.netlink.view(self.portal.address)
            await self.netlink.sync_link_routes()
        else:
            view = NetworkView(tuple(self._fixed_addresses or ()))
        verdict = self._roaming.handle_view(view, self.clock.now())
        log.debug("network", verdict=verdict.name, view=view)
        match verdict:
            case Verdict.AWAY:
                log.info("no network")
            case Verdict.BACK:
                log.info("the network is back")
                self.portal.hurry()
                self._offer(view.addresses)
                self.on_back()
            case Verdict.MOVED:
                self.on_moved(view.addresses)
            case Verdict.SAME | Verdict.OTHER_ADDRESSES:
                self._leave_lost_address(view.addresses)
                self._offer(view.addresses)

    def _leave_lost_address(self, addresses: tuple[str, ...]) -> None:
        """Logs in anew when the portal's connection hangs at an address that is gone: it would die slowly.

        Where we are the network is still the same, say because nothing in it leads out and others of our addresses are left.
        """
        lost = self.portal.local_address
        if lost is None or lost not in self._offered or lost in addresses or self._roaming.is_away:
            return
        log.info("logging in again", reason="the address we were logged in from is gone")
        self.state.set_portal_reached(False, self.clock.now())
        self.portal.reconnect()

    def _offer(self, addresses: tuple[str, ...]) -> None:
        """Tells the state our local addresses, unless it knows them or they are gone for the moment."""
        if addresses == self._offered or self._roaming.is_away:
            return
        log.info("local addresses", count=len(addresses))
        log.debug("local addresses", addresses=addresses)
        self._offered = addresses
        self.state.set_local_addresses(self.host.local_endpoints(list(addresses)), self.clock.now())
        self.host.tunnel.touch()

    async def _watch_for_suspend(self) -> None:
        """Looks after a suspend: an interface that needs no new link tells nothing, and yet all mappings are gone."""
        while True:
            if self._roaming.handle_clocks(self.clock.now(), self.clock.awake()):
                log.info("woke up")
                await self._look_at_network()
            await asyncio.sleep(SUSPEND_CHECK_INTERVAL / SECOND)

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._owns_process:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._hurry, loop)
        if hasattr(self.host, "engine"):
            self.portal.close()
            self.state.shutdown(self.clock.now())
            self.host.tunnel.touch()
            self.host.flush()
            if self._owns_process:
                self._snapshot.finish()
            self.host.close()
        else:
            self.ends.close()
        if self._suspend_watch is not None:
            self._suspend_watch.cancel()
        _, late = await asyncio.wait(self._tasks, timeout=1) if self._tasks else (set(), set())
        for task in late:
            task.cancel()
        await self.clean_up()
        if self.netlink is not None:
            await self.netlink.stop()

    def _hurry(self, loop: asyncio.AbstractEventLoop) -> None:
        """Asked twice, as `timeout` does: nobody is waited for, but the host is tidied up. Asked once more: `_leave`."""
        for task in self._tasks:
            task.cancel()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._leave)

    def _leave(self) -> None:
        """Asked a third time: leaves everything to the kernel that the kernel takes back."""
        self.abandon()
        os._exit(0)

    def _counters(self) -> dict[str, Any]:
        return self.host.counters() if hasattr(self.host, "engine") else {}

    # what happens

    def _on_message(self, message: Any) -> None:
        _tell_candidates("from the portal", message)
        try:
            self.state.handle_portal(message, self.clock.now(), self.clock.utc())
        except FirezoneError as error:
            log.warning("a message of the portal could not be obeyed", message=type(message).__name__, error=str(error))
        self.host.tunnel.touch()

    def expect_portal(self) -> None:
        """After a reset nothing is reached before the portal is; if it stays away, the log says so."""
        if self._impatience is not None:
            self._impatience.cancel()
        self._impatience = asyncio.get_running_loop().call_later(PORTAL_PATIENCE_S, self._complain)

    def _complain(self) -> None:
        self._impatience = None
        if not self.portal.is_joined and not self._stopping.is_set():
            self._has_complained = True
            log.error("no resource can be reached: after the reset connections need the portal, which is not there; still trying")

    def _on_portal_state(self, is_joined: bool) -> None:
        if is_joined:
            if self._impatience is not None:
                self._impatience.cancel()
                self._impatience = None
            if self._has_complained:
                self._has_complained = False
                log.info("the portal is back, resources can be reached again")
        self.state.set_portal_reached(is_joined, self.clock.now())
        self.host.tunnel.touch()

    def _on_event(self, event: object) -> None:
        match event:
            case SendToPortal(message):
                _tell_candidates("to the portal", message)
                self.portal.send(message)
            case PortalWanted():
                self.portal.hurry(is_wanted=True)
            case ReconnectPortal(public_key, reason):
                log.info("logging in again", reason=reason)
                self.state.set_portal_reached(False, self.clock.now())
                self.portal.reconnect(public_key)
            case ConnectionChanged(cid, is_up, detail):
                log.info("connection established" if is_up else "connection ended", peer=cid, detail=detail)
            case RelayEnded(relay, reason):
                log.info("relay lost", relay=relay, reason=reason)
            case PathChosen():
                log.info(
                    "path chosen", peer=event.cid, remote=str(event.remote), local_kind=event.local_kind.word,
                    remote_kind=event.remote_kind.word, relay=event.relay,
                )  # fmt: skip
            case _:
                self._spawn(self.on_event(event))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something beside the tunnel; what it raises ends the program."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._stopping.is_set():
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._stopping.set()


def version_text() -> str:
    """The package's version, for --version and logs."""
    return f"firezone {firezone.__version__}"


def _tell_candidates(way: str, message: Any) -> None:
    """Writes at DEBUG which addresses were offered or taken back: with the chosen path this tells why it was chosen."""
    if candidates := getattr(message, "candidates", ()):
        log.debug(f"candidates {way}", message=type(message).__name__, candidates=list(candidates))


def _raise_ceilings() -> None:
    for name, value in (("rmem_max", RECEIVE_CEILING), ("wmem_max", SEND_CEILING)):
        try:
            Path("/proc/sys/net/core", name).write_text(str(value))
        except OSError as error:
            log.info("socket buffer ceiling not raised", name=name, error=error.strerror)
