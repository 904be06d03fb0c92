"""Who answers the machine's DNS while the client runs: systemd-resolved or /etc/resolv.conf told to ask us, or neither.

One object per client: `start`, then `apply` for each configuration of the tunnel, `revert` at the end. `system_resolvers` are the
servers of the machine's network, to which we forward. What a killed client left is put back by `recover` at the next start or by
`python -m firezone.client dns revert`. Crash and file handling are told in `resolv_conf_file`, D-Bus in `resolved`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from firezone.base.errors import ConfigError
from firezone.io.file_watch import FileWatch
from firezone.io.resolv_conf_file import RESOLV_CONF, Owner, ResolvConfFile
from firezone.io.resolved import Resolved, ResolvedError, bus_is_configured, link_index

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

log = structlog.get_logger(__name__)

SYSTEMD_RESOLVED, ETC_RESOLV_CONF, DISABLED = "systemd-resolved", "etc-resolv-conf", "disabled"
METHODS = (SYSTEMD_RESOLVED, ETC_RESOLV_CONF, DISABLED)
DEFAULT_METHOD = SYSTEMD_RESOLVED
TAKE_AGAIN_AFTER_S = 5.0
"""Pause before a resolv.conf that another program rewrote is taken over again: two that insist take turns, not the processor."""
REVERT_TIMEOUT_S = 3.0
"""For telling systemd-resolved at the end: it finds out by itself when the link goes, so the end does not wait for it."""


class DnsControl(Protocol):
    """The machine's DNS in our hands."""

    async def start(self) -> None:
        """Finds the resolvers and begins to watch them. Raises ConfigError when `apply` is bound to fail."""

    async def apply(self, servers: Sequence[str], search_domain: str | None, interface: str) -> None:
        """Makes the machine ask these servers through this interface. No servers: leaves it as it is. Raises ConfigError."""

    async def flush(self) -> None:
        """Drops what the machine has cached of answers."""

    async def revert(self) -> None:
        """Puts the machine's DNS back and ends watching. Never raises: it runs on every error path; failures are logged."""

    def system_resolvers(self) -> list[str]:
        """Returns the addresses of the network's own servers, as last seen, in order; sentinels of ours may be among them."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Calls back soon once, then whenever the system resolvers are others."""


def make_dns_control(method: str, *, path: Path = RESOLV_CONF, bus: str | None = None) -> DnsControl:
    """Makes the control of a method by the name operators use. Raises ValueError for none of `METHODS`."""
    match method:
        case "systemd-resolved":
            return ResolvedControl(bus)
        case "etc-resolv-conf":
            return ResolvConfControl(path)
        case "disabled":
            return DisabledControl(path)
    raise ValueError(f"{method!r} is no DNS method")


def recover(method: str, path: Path = RESOLV_CONF) -> None:
    """Puts back what a killed client left in resolv.conf, before anything resolves a name.

    With any method that controls DNS: the crashed one may have been started with another. `disabled` touches nothing, but says so.
    Raises: ConfigError.
    """
    file = ResolvConfFile(path)
    if method == DISABLED:
        if file.find() is Owner.OURS:
            log.warning("resolv.conf is still set by a Firezone client; if it crashed, run: python -m firezone.client dns revert")
    elif file.give_back():
        log.warning("the DNS configuration that a killed client left was put back", path=str(path))


class _Watched:
    """Resolvers remembered, and whoever wants to know told when they change."""

    def __init__(self) -> None:
        self._resolvers: list[str] = []
        self._callback: Callable[[], None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def system_resolvers(self) -> list[str]:
        return list(self._resolvers)

    def on_change(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        asyncio.get_running_loop().call_soon(callback)

    def _learn(self, resolvers: list[str]) -> None:
        if resolvers == self._resolvers:
            return
        self._resolvers = resolvers
        log.debug("system resolvers", servers=resolvers)
        if self._callback is not None:
            self._callback()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_tasks(self) -> None:
        self._callback = None
        for task in self._tasks:
            task.cancel()


class DisabledControl(_Watched):
    """Leaves the machine's DNS alone; only reads resolv.conf."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        super().__init__()
        self._file = ResolvConfFile(path)
        self._watch: FileWatch | None = None

    async def start(self) -> None:
        self._watch = FileWatch(self._file.path, self._look)
        self._look()

    async def apply(self, servers: Sequence[str], search_domain: str | None, interface: str) -> None:
        pass

    async def flush(self) -> None:
        pass

    async def revert(self) -> None:
        self._stop()

    def _look(self) -> None:
        self._learn(self._file.system_resolvers())

    def _stop(self) -> None:
        self._stop_tasks()
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class ResolvConfControl(DisabledControl):
    """Writes resolv.conf."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        super().__init__(path)
        self._wanted: tuple[list[str], str | None] | None = None
        """What was applied last; None: nothing of ours stands there."""
        self._turn = threading.Lock()
        """Held by the worker thread that writes: one whose awaiter was cancelled goes on, and the end must come after it."""
        self._is_over = False

    async def start(self) -> None:
        self._is_over = False
        await asyncio.to_thread(self._file.check)
        await super().start()

    async def apply(self, servers: Sequence[str], search_domain: str | None, interface: str) -> None:
        if not servers:
            log.warning("no DNS servers to set; resolv.conf stays as it is")
            return
        if await asyncio.to_thread(self._take_over, list(servers), search_domain):
            log.info("DNS set", method=ETC_RESOLV_CONF, servers=len(servers))

    async def revert(self) -> None:
        self._stop()
        self._is_over = True
        try:
            if await asyncio.to_thread(self._give_back):
                log.info("DNS put back", method=ETC_RESOLV_CONF)
        except ConfigError as error:
            log.warning("the machine's DNS could not be put back; run: python -m firezone.client dns revert", error=str(error))

    def _take_over(self, servers: list[str], search_domain: str | None) -> bool:
        with self._turn:
            if self._is_over:  # A configuration that comes after the end.
                return False
            self._file.take_over(servers, search_domain)
            self._wanted = servers, search_domain
            return True

    def _give_back(self) -> bool:
        with self._turn:
            self._wanted = None
            return self._file.is_held and self._file.give_back()

    def _look(self) -> None:
        super()._look()
        with contextlib.suppress(ConfigError):
            if self._wanted is not None and not self._tasks and self._file.find() is Owner.OTHERS:
                self._spawn(self._take_again())

    async def _take_again(self) -> None:
        """Takes over what a DHCP client or the like wrote meanwhile: names of resources must go on to resolve."""
        await asyncio.sleep(TAKE_AGAIN_AFTER_S)
        if self._wanted is None or self._file.find() is Owner.OURS:
            return
        log.warning("another program has rewritten resolv.conf; taking it over again", path=str(self._file.path))
        try:
            await self.apply(*self._wanted, "")
        except ConfigError as error:
            log.warning("resolv.conf cannot be taken over again; names of resources do not resolve", error=str(error))


class ResolvedControl(_Watched):
    """Tells systemd-resolved."""

    def __init__(self, bus: str | None = None) -> None:
        super().__init__()
        self._resolved = Resolved(bus)
        self._link = 0
        """Index of the interface that was set, 0: none."""
        self._is_over = False

    async def start(self) -> None:
        """Goes on without systemd-resolved until there is something to apply, as a portal may not want any DNS."""
        self._is_over = False
        try:
            await self._resolved.watch(self._on_signal)
            await self._look()
        except ResolvedError as error:
            log.info("changes of the machine's DNS are not seen", error=str(error))

    async def apply(self, servers: Sequence[str], search_domain: str | None, interface: str) -> None:
        if not servers:
            log.warning("no DNS servers to set; systemd-resolved stays as it is")
            return
        if self._is_over:  # A configuration that comes after the end.
            return
        index = link_index(interface)
        if not index:
            raise ResolvedError(f"the interface {interface} is gone, so its DNS cannot be set.")
        self._link = index
        await self._resolved.set_link(index, servers, search_domain)
        log.info("DNS set", method=SYSTEMD_RESOLVED, servers=len(servers), interface=interface)

    async def flush(self) -> None:
        if not self._link:
            return
        try:
            await self._resolved.flush()
        except ResolvedError as error:
            log.info("the DNS cache could not be flushed", error=str(error))

    async def revert(self) -> None:
        self._is_over = True
        self._stop_tasks()
        try:
            if self._link:
                async with asyncio.timeout(REVERT_TIMEOUT_S):
                    await self._resolved.revert_link(self._link)
                    await self._resolved.flush()
                log.info("DNS put back", method=SYSTEMD_RESOLVED)
        except (ResolvedError, TimeoutError) as error:
            log.info("systemd-resolved was not told; it forgets the link when it goes", error=str(error))
        finally:
            self._link = 0
            self._resolved.close()

    def _on_signal(self) -> None:
        self._spawn(self._look())

    async def _look(self) -> None:
        with contextlib.suppress(ResolvedError):
            self._learn(await self._resolved.servers(without_link=self._link))


async def revert_all(interface: str, *, path: Path = RESOLV_CONF, bus: str | None = None) -> list[str]:
    """Puts back whatever a client left with whichever method. Returns what was done, in words. Raises ConfigError."""
    done = []
    if ResolvConfFile(path).give_back():
        done.append(f"{path} is the original again.")
    if index := link_index(interface):
        resolved = Resolved(bus)
        try:
            if bus is not None or bus_is_configured():
                await resolved.revert_link(index)
                done.append(f"systemd-resolved has forgotten the servers of {interface}.")
        finally:
            resolved.close()
    return done


async def status(interface: str, *, path: Path = RESOLV_CONF, bus: str | None = None) -> list[str]:
    """Describes the machine's DNS as far as it concerns us, one line per fact. Raises ConfigError."""
    file = ResolvConfFile(path)
    if file.path.is_symlink():
        lines = [f"{path}: a link, managed by another program"]
    else:
        lines = [f"{path}: {'set by Firezone, original in ' + str(file.backup) if file.find() is Owner.OURS else 'not ours'}"]
    lines.append(f"  servers of the network: {', '.join(file.system_resolvers()) or 'none'}")
    index = link_index(interface)
    lines.append(f"{interface}: {'there' if index else 'no such interface'}")
    resolved = Resolved(bus)
    try:
        ours = set(await resolved.servers()) - set(others := await resolved.servers(without_link=index)) if index else set()
        others = others if index else await resolved.servers()
        lines.append(f"systemd-resolved: runs{', asks ' + ', '.join(sorted(ours)) + ' on ' + interface if ours else ''}")
        lines.append(f"  servers of the network: {', '.join(others) or 'none'}")
    except ResolvedError:
        lines.append("systemd-resolved: not reached")
    finally:
        resolved.close()
    return lines
