"""Everything the client and the gateway can be told, as plain values. The programs' options end here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.secret import SecretText

if TYPE_CHECKING:
    from pathlib import Path

    from firezone.base.timing import Instant

DEFAULT_API_URL = "wss://api.firezone.dev"


@dataclass(frozen=True, slots=True)
class TunnelConfig:
    """What client and gateway share."""

    api_url: str
    token: SecretText
    device_id: str
    name: str
    max_partition: Instant | None = None
    """Nanoseconds without a portal connection before giving up; None: never."""
    raise_buffers: bool = False
    """Raise the kernel's ceilings for socket buffers."""
    reader_threads: str = "auto"
    """auto, on or off: whether threads of their own read the devices."""
    portal_generation: int = 1
    """Of the portal's protocol, 1 or 2: what is asked for and how messages are called."""
    ca_file: str | None = None
    """Certificates to trust for the portal beside the system's; None: the system's only."""
    counters_file: Path | None = None
    """Where snapshots go, at the end too; None: see `loop.snapshot`."""


@dataclass(frozen=True, slots=True)
class ClientConfig(TunnelConfig):
    """The headless client."""

    exit_after_setup: bool = False
    """End with success once the first TUN configuration is applied."""
    dns_control: str = "disabled"
    """How the machine's DNS is set: systemd-resolved, etc-resolv-conf or disabled."""
    is_internet_active: bool = False
    """Send what no other resource covers through the Internet resource."""
    device_serial: str | None = None
    device_uuid: str | None = None


@dataclass(frozen=True, slots=True)
class GatewayConfig(TunnelConfig):
    """The gateway."""

    health_check_address: tuple[str, int] | None = None
    masquerade: tuple[str, ...] = field(default=())
    """Patterns of the interfaces whose traffic is masqueraded; empty: every interface but the tunnel's."""
    manage_firewall: bool = True
    is_own_address_open: bool = False
    """Clients reach every service of the host at its tunnel address, not only DNS and echo."""
