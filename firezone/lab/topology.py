"""The lab's networks: a client behind a NAT, a gateway in front of a site, and the public segment between them.

    client ── 192.168.50.0/24 ── router (NAT) ──┐                    ┌── gateway ── 10.20.0.0/24 ── resource
                                                ├── 198.51.100.0/24 ─┤              fd20:20::/64
                                                │   2001:db8:51::/64 │
                                                ├──── portal ────────┘
                                                └──── relay (only when it is asked for)

Everything but the portal's side is a namespace of its own. The router lets IPv4 out under its own address and has no IPv6, so the
client's path is the one NATed way there is. With a relay the router drops what goes to the gateway and what comes from it. The
client's host knows a name server beside the portal, the gateway's one in the site; both have an /etc of their own, so that DNS of
the client's host is in the client's hands and that of the machine is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from firezone.lab.namespaces import Namespace, OwnNamespace

PORTAL_ADDRESS, ROUTER_ADDRESS, GATEWAY_ADDRESS = "198.51.100.1", "198.51.100.2", "198.51.100.3"
GATEWAY_ADDRESS_V6 = "2001:db8:51::3"
RELAY_ADDRESSES = ("198.51.100.4", "2001:db8:51::4")
SPARE_RELAY_ADDRESSES = ("198.51.100.5", "2001:db8:51::5")
CLIENT_ADDRESS = "192.168.50.2"
RESOURCE_ADDRESS, RESOURCE_NETWORK = "10.20.0.2", "10.20.0.0/24"
RESOURCE_ADDRESS_V6, RESOURCE_NETWORK_V6 = "fd20:20::2", "fd20:20::/64"
RESOURCE_PORT = 80
LOCKED_ADDRESS = "10.20.0.3"
"""The resource's second address, of which a policy opens the web server alone."""


@dataclass(slots=True)
class Topology:
    """The namespaces by what runs in them."""

    public: Namespace
    client: Namespace
    router: Namespace
    gateway: Namespace
    resource: Namespace
    relay: Namespace | None = None
    spare_relay: Namespace | None = None
    """Where a second relay may run."""

    @classmethod
    def build(cls, *, is_relayed: bool = False, has_spare_relay: bool = False) -> Topology:
        """Makes all namespaces, links and addresses; `is_relayed` leaves no way but over a relay.

        Raises: ConfigError, naming the command that failed.
        """
        public = OwnNamespace("public")
        client = Namespace.create("client", name_server=PORTAL_ADDRESS)
        gateway = Namespace.create("gateway", name_server=RESOURCE_ADDRESS)
        router, resource = Namespace.create("router"), Namespace.create("resource")
        topology = cls(public, client, router, gateway, resource)
        topology._build_public()
        topology._build_client_side()
        build_site(gateway, resource)
        if is_relayed:
            topology.add_relay()
            topology.block_direct()
        if has_spare_relay:
            topology.spare_relay = topology._make_relay("relay-2", SPARE_RELAY_ADDRESSES)
        return topology

    def close(self) -> None:
        for namespace in (self.client, self.router, self.gateway, self.resource, self.relay, self.spare_relay):
            if namespace is not None:
                namespace.close()

    def _build_public(self) -> None:
        self.public.run_lines(f"""
            ip link set lo up
            ip link add segment type bridge
            ip link set segment up
            ip addr add {PORTAL_ADDRESS}/24 dev segment
            ip link add to-router type veth peer name wan netns {self.router.holder.pid}
            ip link add to-gateway type veth peer name eth0 netns {self.gateway.holder.pid}
            ip link set to-router master segment up
            ip link set to-gateway master segment up
        """)
        self.router.run_lines(f"""
            ip addr add {ROUTER_ADDRESS}/24 dev wan
            ip link set wan up
        """)
        self.gateway.run_lines(f"""
            ip addr add {GATEWAY_ADDRESS}/24 dev eth0
            ip addr add {GATEWAY_ADDRESS_V6}/64 dev eth0 nodad
            ip link set eth0 up
        """)

    def _build_client_side(self) -> None:
        self.router.switch_on("net/ipv4/ip_forward")
        self.router.run_lines(f"""
            ip link add lan type veth peer name eth0 netns {self.client.holder.pid}
            ip addr add 192.168.50.1/24 dev lan
            ip link set lan up
            nft add table ip nat
            nft add chain ip nat postrouting {{ type nat hook postrouting priority 100 ; }}
            nft add rule ip nat postrouting oifname wan masquerade
        """)
        self.client.run_lines(f"""
            ip addr add {CLIENT_ADDRESS}/24 dev eth0
            ip link set eth0 up
            ip route add default via 192.168.50.1
        """)

    def add_relay(self) -> None:
        """Makes a namespace for a relay on the public segment."""
        self.relay = self._make_relay("relay", RELAY_ADDRESSES)

    def _make_relay(self, name: str, addresses: tuple[str, str]) -> Namespace:
        relay = Namespace.create(name)
        self.public.run_lines(f"""
            ip link add to-{name} type veth peer name eth0 netns {relay.holder.pid}
            ip link set to-{name} master segment up
        """)
        relay.run_lines(f"""
            ip addr add {addresses[0]}/24 dev eth0
            ip addr add {addresses[1]}/64 dev eth0 nodad
            ip link set eth0 up
            ip route add default dev eth0
            ip -6 route add default dev eth0
        """)
        return relay

    def block_direct(self) -> None:
        """Leaves no way between client and gateway but over a relay."""
        self.router.load_nft(f"""
            table ip direct {{
                chain forward {{
                    type filter hook forward priority filter; policy accept;
                    ip daddr {GATEWAY_ADDRESS} drop
                    ip saddr {GATEWAY_ADDRESS} drop
                }}
            }}
        """)

    def open_direct(self) -> None:
        """Takes `block_direct` back."""
        self.router.run("nft", "delete", "table", "ip", "direct")


def build_site(gateway: Namespace, resource: Namespace) -> None:
    """Puts the resource behind the gateway. Raises ConfigError, naming the command that failed."""
    gateway.run_lines(f"""
        ip link add site type veth peer name eth0 netns {resource.holder.pid}
        ip addr add 10.20.0.1/24 dev site
        ip addr add fd20:20::1/64 dev site nodad
        ip link set site up
    """)
    resource.run_lines(f"""
        ip addr add {RESOURCE_ADDRESS}/24 dev eth0
        ip addr add {LOCKED_ADDRESS}/24 dev eth0
        ip addr add {RESOURCE_ADDRESS_V6}/64 dev eth0 nodad
        ip link set eth0 up
    """)
