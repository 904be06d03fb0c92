"""What `traffic_lab` adds to the lab: a router in the site with a network behind it, addresses of the Internet, resources.

    gateway ── 10.20.0.0/24 ── resource ── 10.21.0.0/24 (MTU 1000) ── far
            │  fd20:20::/64             └─ fd20:21::/64 ─────────────┘
            └─ 10.23.0.0/24 (MTU 900) ── resource

The public segment has IPv6 too, and hosts 203.0.113.7 and 2001:db8:99::7, which stand for the Internet; the client's host gets
IPv6, which the router forwards, with `give_ipv6`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.lab.namespaces import Namespace
from firezone.lab.programs import Program, python
from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6

if TYPE_CHECKING:
    from firezone.lab.stack import Stack

PORT = 7777
OTHER_ADDRESS, NARROW_ADDRESS = "10.20.0.4", "10.23.0.2"
"""More addresses of the resource; to the last one the gateway has a link of its own with an MTU of 900."""
FAR_ADDRESS, FAR_ADDRESS_V6 = "10.21.0.2", "fd20:21::2"
PUBLIC_ADDRESS, PUBLIC_ADDRESS_V6 = "203.0.113.7", "2001:db8:99::7"
PORTAL_ADDRESS_V6 = "2001:db8:51::1"
SITE, FAR, NARROW, MOVING, VANISHING, V6_ONLY, ONE, TWO = (
    f"{name}.lab.internal" for name in ("wiki", "far", "narrow", "moving", "vanishing", "v6only", "one", "two")
)
ZONE = f"""
{FAR} A {FAR_ADDRESS}
{FAR} AAAA {FAR_ADDRESS_V6}
{NARROW} A {NARROW_ADDRESS}
{MOVING} A {RESOURCE_ADDRESS}
{VANISHING} A {RESOURCE_ADDRESS}
{V6_ONLY} AAAA {RESOURCE_ADDRESS_V6}
{ONE} A {RESOURCE_ADDRESS}
{TWO} A {RESOURCE_ADDRESS}
"""
_RESOURCES = {
    "Far": ("10.21.0.0/24", "Lab", ""), "Far v6": ("fd20:21::/64", "Lab", ""),
    "Narrow": ("10.23.0.0/24", "Lab", ""),
    "Filtered": ("10.22.0.0/24", "Lab", "tcp/80"), "Filtered v6": ("fd20:22::/64", "Lab", "tcp/80"),
    "Away": ("10.30.0.0/24", "Away", ""), "Away v6": ("fd20:30::/64", "Away", ""), "Away name": ("away.lab.internal", "Away", ""),
    **{name: (name, "Lab", "") for name in (FAR, NARROW, MOVING, VANISHING, V6_ONLY, ONE, TWO)},
}  # fmt: skip


def policy() -> str:
    """Returns what is added to the policy: a site without a gateway, and the resources."""
    text = '\n[[site]]\nname = "Away"\n'
    for name, (address, site, filters) in _RESOURCES.items():
        listed = f'filters = ["{filters}"]\n' if filters else ""
        text += f'\n[[resource]]\nname = "{name}"\naddress = "{address}"\nsites = ["{site}"]\n{listed}'
        text += f'\n[[policy]]\ngroup = "Everyone"\nresource = "{name}"\n'
    return text


def extend(stack: Stack) -> Namespace:
    """Lays the additional networks and starts what answers there; returns the host behind the router. Raises ConfigError."""
    topology = stack.topology
    far = Namespace.create("far")
    for host in (topology.gateway, topology.resource, far, topology.router, topology.client):
        host.switch_off("net/ipv4/icmp_ratelimit")
        host.switch_off("net/ipv6/icmp/ratelimit")
    topology.client.run("sh", "-c", "echo 0 65535 >/proc/sys/net/ipv4/ping_group_range")
    _lay_site(stack, far)
    _lay_public(stack)
    served = {
        "site-talk": (topology.resource, (RESOURCE_ADDRESS, OTHER_ADDRESS, NARROW_ADDRESS, RESOURCE_ADDRESS_V6)),
        "far-talk": (far, (FAR_ADDRESS, FAR_ADDRESS_V6)),
        "public-talk": (topology.public, (PUBLIC_ADDRESS, PUBLIC_ADDRESS_V6)),
    }
    for name, (host, addresses) in served.items():
        program = Program.start(name, host, python("tests.harness.traffic_servers", str(PORT), *addresses), stack.logs)
        program.wait_for("listening")
        stack.others.append(program)
    return far


def _lay_site(stack: Stack, far: Namespace) -> None:
    resource, gateway = stack.topology.resource, stack.topology.gateway
    resource.switch_on("net/ipv4/ip_forward")
    resource.switch_on("net/ipv6/conf/all/forwarding")
    resource.run_lines(f"""
        ip addr add {OTHER_ADDRESS}/24 dev eth0
        ip link add far type veth peer name eth0 netns {far.holder.pid}
        ip link add far6 type veth peer name eth6 netns {far.holder.pid}
        ip addr add 10.21.0.1/24 dev far
        ip addr add fd20:21::1/64 dev far6 nodad
        ip link set far mtu 1000 up
        ip link set far6 up
        ip route add default via 10.20.0.1
        ip -6 route add default via fd20:20::1
    """)
    far.run_lines(f"""
        ip addr add {FAR_ADDRESS}/24 dev eth0
        ip addr add {FAR_ADDRESS_V6}/64 dev eth6 nodad
        ip link set eth0 mtu 1000 up
        ip link set eth6 up
        ip route add default via 10.21.0.1
        ip -6 route add default via fd20:21::1
    """)
    gateway.run_lines(f"""
        ip link add narrow type veth peer name narrow netns {resource.holder.pid}
        ip addr add 10.23.0.1/24 dev narrow
        ip link set narrow mtu 900 up
        ip route add 10.21.0.0/24 via {RESOURCE_ADDRESS}
        ip -6 route add fd20:21::/64 via {RESOURCE_ADDRESS_V6}
        ip route add {PUBLIC_ADDRESS}/32 via 198.51.100.1
        ip -6 route add {PUBLIC_ADDRESS_V6}/128 via {PORTAL_ADDRESS_V6}
        ip -6 route add 2001:db8:50::/64 via 2001:db8:51::2
    """)
    resource.run_lines(f"""
        ip addr add {NARROW_ADDRESS}/24 dev narrow
        ip link set narrow mtu 900 up
    """)


def _lay_public(stack: Stack) -> None:
    topology = stack.topology
    topology.public.run_lines(f"""
        ip addr add {PORTAL_ADDRESS_V6}/64 dev segment nodad
        ip addr add {PUBLIC_ADDRESS}/32 dev lo
        ip addr add {PUBLIC_ADDRESS_V6}/128 dev lo nodad
        ip -6 route add 2001:db8:50::/64 via 2001:db8:51::2
    """)
    topology.router.switch_on("net/ipv6/conf/all/forwarding")
    topology.router.run_lines("""
        ip addr add 2001:db8:51::2/64 dev wan nodad
        ip addr add 2001:db8:50::1/64 dev lan nodad
    """)


def give_ipv6(stack: Stack) -> None:
    """Gives the client's host a way out by IPv6."""
    stack.topology.client.run_lines("""
        ip addr add 2001:db8:50::2/64 dev eth0 nodad
        ip -6 route add default via 2001:db8:50::1
    """)
