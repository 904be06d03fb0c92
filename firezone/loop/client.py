"""The client's outer loop: what its state asks of the host and of the portal."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import structlog

from firezone.io.dns_control import DISABLED, make_dns_control
from firezone.io.portal_names import PortalNames
from firezone.io.service_manager import notify_ready
from firezone.loop.client_dns import ClientDns
from firezone.loop.ends import Ends, kernel_ends
from firezone.loop.program import TunnelProgram
from firezone.proto.client.dns_outcomes import SiteReachable
from firezone.proto.client.state import AccessRefused, ClientState, MessageIgnored, ResourcesUpdated, TunConfig
from firezone.proto.phoenix.login import COMPATIBLE_CLIENT_VERSION, LoginUrl
from firezone.wire.portal import client as wire
from firezone.wire.portal.v2 import client as wire2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from firezone.loop.config import ClientConfig

log = structlog.get_logger(__name__)


class ClientProgram(TunnelProgram[ClientState]):
    """One running client."""

    topic = wire.TOPIC
    compatible_version = COMPATIBLE_CLIENT_VERSION
    vocabularies = {1: (wire.FROM_PORTAL, wire.TO_PORTAL), 2: (wire2.FROM_PORTAL, wire2.TO_PORTAL)}

    def __init__(self, config: ClientConfig, ends: Ends, *, addresses: list[str] | None = None, owns_process: bool = True) -> None:
        super().__init__(
            config, ends, ClientState, addresses=addresses, owns_process=owns_process, generation=config.portal_generation
        )  # fmt: skip
        self.config: ClientConfig = config
        self.ready = asyncio.Event()
        """Set when the first TUN configuration is applied."""
        self._applying = asyncio.Lock()
        self._newest: TunConfig | None = None
        self.state.set_internet_resource_state(config.is_internet_active, self.clock.now())
        self.dns_method = DISABLED if ends.device is None else config.dns_control
        self.dns = make_dns_control(self.dns_method)
        self.names = ClientDns(self.state, mark=ends.mark, clock=self.clock.now, touch=self._touch)
        self._portal_names = PortalNames(self.dns.system_resolvers, mark=ends.mark)

    def login_url(self) -> LoginUrl:
        return client_login_url(self.config)

    async def prepare(self) -> None:
        await self.dns.start()
        if self.ends.device is not None:
            await self.names.start()
        # Known before the portal says anything, so that the first configuration has sentinels.
        self.state.set_system_resolvers(self.dns.system_resolvers(), self.clock.now())
        if self._owns_process:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.on_hangup)
        self.dns.on_change(self._on_resolvers)  # Called first when the engine stands: nothing is awaited until then.

    async def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Gives the machine its DNS back while the tunnel still answers: between the two no name would resolve."""
        await self.dns.revert()
        await self.names.close()
        await super()._end(loop)

    async def resolve_portal(self, host: str) -> Sequence[str]:
        """Asks the network's own servers once the tunnel is set up: what this machine resolves with may be us, or behind us."""
        if not self.ready.is_set() or self.ends.device is None:
            return [host]
        try:
            return await self._portal_names.resolve(host)
        except OSError as error:
            if self.dns_method != DISABLED:
                raise
            log.debug("left to the system", error=str(error))
            return [host]

    def _touch(self) -> None:
        self.host.tunnel.touch()

    def _on_resolvers(self) -> None:
        self.state.set_system_resolvers(self.dns.system_resolvers(), self.clock.now())
        self.host.tunnel.touch()

    def on_moved(self, addresses: tuple[str, ...]) -> None:
        self.reset("another network", addresses)

    def on_hangup(self) -> None:
        """Starts over because somebody says so."""
        self.reset("SIGHUP", self._offered)
        self._look_again()

    def reset(self, reason: str, addresses: tuple[str, ...]) -> None:
        """Starts over where these are our addresses: new keys, new sockets, new login. The TUN device stays as it is."""
        log.info("resetting", reason=reason)
        self.host.rebind()
        self.state.reset(self.clock.now())
        self._offered = ()  # The ports may be others.
        self._offer(addresses)
        self.host.tunnel.touch()
        self.expect_portal()
        self._restore_device()

    def on_back(self) -> None:
        self._restore_device()

    async def on_event(self, event: object) -> None:
        match event:
            case TunConfig():
                await self._apply(event)
            case ResourcesUpdated(resources):
                log.info("resources", count=len(resources), online=sum(view.status.name == "ONLINE" for view in resources))
                await self.dns.flush()
            case AccessRefused(name, reason):
                log.warning("no access to a resource", resource=name, reason=reason)
            case MessageIgnored(what):
                log.debug("the portal speaks of what this client has no use for", what=what)
            case SiteReachable():
                self.names.on_site(event)
            case _:
                log.debug("event", event=type(event).__name__)

    def _restore_device(self) -> None:
        """Sets the device up again: with a link that goes down, or by who cleans up after it, routes get lost."""
        if self._newest is not None:
            self._spawn(self._set_up_device(self._newest))

    async def _apply(self, config: TunConfig) -> None:
        """Applies a configuration, and tells when the first one is."""
        self._newest = config
        if not await self._set_up_device(config):
            return
        self.names.drop_connections()
        log.info("tunnel configured", ipv4=config.ipv4, ipv6=config.ipv6, routes=len(config.routes))
        if not self.ready.is_set():
            self.ready.set()
            notify_ready()
            if self.config.exit_after_setup:
                self.stop()

    async def _set_up_device(self, config: TunConfig) -> bool:
        """Sets addresses, name servers on the sentinels, DNS, routes: when these attract traffic, the sentinels are asked already.

        Of several configurations that wait only the newest is applied. Returns whether this one was.
        """
        async with self._applying:
            if self._newest is not config:
                return False
            if self.netlink is not None and self.ends.device is not None:
                await self.netlink.set_addresses([config.ipv4, config.ipv6], config.dns_servers)
                if serving := await self.names.listen(config.dns_servers):
                    await self.dns.apply(serving, config.search_domain, self.ends.device)
                await self.netlink.set_routes(config.routes)
            return True


def client_login_url(config: ClientConfig) -> LoginUrl:
    """Returns where a client logs in. Raises ConfigError for a portal URL that is none."""
    return LoginUrl.client(
        config.api_url, config.token.reveal(), device_id=config.device_id, name=config.name,
        device_serial=config.device_serial, device_uuid=config.device_uuid, generation=config.portal_generation,
    )  # fmt: skip


async def run_client(config: ClientConfig) -> None:
    """Runs a client on this host until a signal ends it. Raises what ends it otherwise."""
    await ClientProgram(config, kernel_ends(reader_threads=config.reader_threads)).run()
