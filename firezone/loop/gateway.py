"""The gateway's outer loop: addresses and routes of its device, masquerade, names of the site, DNS server, health check."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from firezone.base.net import TUNNEL_V4, TUNNEL_V6
from firezone.io.dns_forwarder import DnsForwarder
from firezone.io.firewall import set_up_forwarding, take_down_forwarding
from firezone.io.health import HealthServer
from firezone.io.nameservers import Nameservers
from firezone.io.service_manager import notify_ready
from firezone.io.site_resolver import SiteResolver
from firezone.loop.ends import Ends, kernel_ends
from firezone.loop.program import TunnelProgram
from firezone.proto.gateway.state import AccessChanged, GatewayState, GatewayTunConfig, ResolveName
from firezone.proto.phoenix.login import COMPATIBLE_GATEWAY_VERSION, LoginUrl
from firezone.wire.portal import gateway as wire
from firezone.wire.portal.v2 import gateway as wire2

if TYPE_CHECKING:
    from firezone.loop.config import GatewayConfig

log = structlog.get_logger(__name__)


class GatewayProgram(TunnelProgram[GatewayState]):
    """One running gateway."""

    topic = wire.TOPIC
    compatible_version = COMPATIBLE_GATEWAY_VERSION
    vocabularies = {1: (wire.FROM_PORTAL, wire.TO_PORTAL), 2: (wire2.FROM_PORTAL, wire2.TO_PORTAL)}

    def __init__(self, config: GatewayConfig, ends: Ends, *, addresses: list[str] | None = None, owns_process: bool = True) -> None:
        super().__init__(config, ends, GatewayState, addresses=addresses, owns_process=owns_process)
        self.config: GatewayConfig = config
        self.ready = asyncio.Event()
        """Set when the first `init` of the portal is applied."""
        self._health = HealthServer(config.health_check_address, lambda: self.portal.is_joined)
        self._configuring = asyncio.Lock()
        self._nameservers = Nameservers(mark=ends.mark)
        self._resolver = SiteResolver(mark=ends.mark, prefer=lambda: self._nameservers.fastest)
        self._dns = DnsForwarder(lambda: self._nameservers.fastest, mark=ends.mark)

    def login_url(self) -> LoginUrl:
        config = self.config
        return LoginUrl.gateway(
            config.api_url, config.token.reveal(), device_id=config.device_id, name=config.name, generation=config.portal_generation
        )  # fmt: skip

    def install_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        super().install_signals(loop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            loop.add_signal_handler(signal.SIGHUP, self.stop)

    async def prepare(self) -> None:
        if self.ends.device is not None and self.config.manage_firewall:
            set_up_forwarding(
                self.ends.device, outgoing=list(self.config.masquerade), is_own_address_open=self.config.is_own_address_open
            )
        await self._health.start()
        self._nameservers.start()

    def on_moved(self, addresses: tuple[str, ...]) -> None:
        """Keeps keys, clients and what they may: a gateway's key lasts as long as its process, and ICE finds the new paths.

        The connection to the portal is of the old network and would die slowly; the next `init` makes us ask our relays, too.
        """
        log.info("logging in again", reason="another network")
        self.state.set_portal_reached(False, self.clock.now())
        self.portal.reconnect()
        self._offer(addresses)

    async def clean_up(self) -> None:
        self._nameservers.stop()
        self._dns.close()
        await self._health.stop()
        self.abandon()

    def abandon(self) -> None:
        if self.ends.device is not None and self.config.manage_firewall:
            take_down_forwarding(self.ends.device)

    async def on_event(self, event: object) -> None:
        match event:
            case GatewayTunConfig(ipv4, ipv6):
                if self.netlink is not None:
                    async with self._configuring:
                        await self.netlink.set_addresses([ipv4, ipv6])
                        await self.netlink.set_routes([TUNNEL_V4, TUNNEL_V6])
                        await self._dns.bind([ipv4, ipv6] if has_ipv6(self.ends.device) else [ipv4])
                log.info("tunnel configured", ipv4=ipv4, ipv6=ipv6)
                if not self.ready.is_set():
                    self.ready.set()
                    notify_ready()
            case ResolveName(domain):
                addresses = await self._resolver.resolve(domain)
                log.debug("name resolved", domain=domain, addresses=[str(address) for address in addresses])
                self.state.handle_resolved(domain, addresses, self.clock.now())
                self.host.tunnel.touch()
            case AccessChanged(client, resource, what):
                log.info(f"access {what}", client=client, resource=resource)
            case _:
                log.debug("event", event=type(event).__name__)


def has_ipv6(device: str | None) -> bool:
    """Tells whether a device can have IPv6 addresses on this host."""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


async def run_gateway(config: GatewayConfig) -> None:
    """Runs a gateway on this host until a signal ends it. Raises what ends it otherwise."""
    await GatewayProgram(config, kernel_ends(reader_threads=config.reader_threads)).run()
