"""Puts a host behind the network its kind says: router, NAT processes, addresses, and for double NAT the shared outer one.

    host ── lan ── router (nat0) ── wan ── internet                         every kind but the last
    host ── lan ── router (nat0) ── wan ── carrier (nat0) ── wan ── internet       double-hairpin

In a NAT's router, nftables marks UDP (and ICMP errors that quote UDP), the mark routes it into the TUN device `nat0`, and
`lab.nat_process` gives it back translated. Everything else over IPv4 is masqueraded by the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.timing import SECOND
from firezone.lab.namespaces import Namespace
from firezone.lab.nat.internet import INSIDE_FE80, OUTSIDE_FE80, Internet, make_tun, steer_marked
from firezone.lab.nat.kinds import SURROUNDINGS, Ipv6, Kind
from firezone.lab.programs import Program, python

if TYPE_CHECKING:
    from pathlib import Path

    from firezone.lab.nat.table import Behaviour

CARRIER_ADDRESS, CARRIER_NETWORK = "203.0.113.254", "172.31.0.0/24"
SIDES = {"client": 10, "gateway": 110}
"""Where the numbers of a side's networks begin. The last byte of the public address tells side and kind."""

_NAT_RULES = """
table inet steer {{
    chain to_tun {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "nat0" accept
        meta nfproto ipv4 meta l4proto udp meta mark set 1
        icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} @th,136,8 17 meta mark set 1
    }}
    chain no_conntrack {{
        type filter hook prerouting priority raw; policy accept;
        meta l4proto udp notrack
    }}
    chain others {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "wan" meta nfproto ipv4 meta l4proto != udp snat ip to {outer}
    }}
}}
"""

_NO_IPV6 = """
table ip6 broken {
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
"""


@dataclass(slots=True)
class Place:
    """One host behind its network."""

    kind: Kind
    host: Namespace
    address: str | None
    """The host's own IPv4 address, and the IPv6 one."""
    address_v6: str | None
    router: Namespace
    nats: list[Program] = field(default_factory=list)

    @property
    def own_addresses(self) -> set[str]:
        return {address for address in (self.address, self.address_v6) if address is not None}

    def close(self) -> None:
        for nat in self.nats:
            nat.kill()
        self.host.close()
        self.router.close()


class Places:
    """Builds places on an internet, and the carrier's router when somebody needs it first."""

    def __init__(self, internet: Internet, logs: Path) -> None:
        self._internet = internet
        self._logs = logs
        self._carrier: Namespace | None = None
        self._carrier_nat: Program | None = None

    def build(self, side: str, kind: Kind) -> Place:
        """Returns a host of this side behind this kind of network. Raises ConfigError, naming what failed."""
        number = SIDES[side] + list(Kind).index(kind)
        around = SURROUNDINGS[kind]
        host, router = Namespace.create(f"{side}-{kind}"), Namespace.create(f"{side}-{kind}-router")
        router.run_lines(f"""
            ip link add lan type veth peer name eth0 netns {host.holder.pid}
            ip link set lan up
        """)
        host.run("ip", "link", "set", "eth0", "up")
        place = Place(kind, host, None, None, router)
        for sysctl in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            router.switch_on(sysctl)
        outer = f"203.0.113.{number}"
        networks = []
        if len(around.nats) > 1:
            outer = self._attach_to_carrier(router, side)
        else:
            networks.append(f"{outer}/32")
        if around.ipv6 is not Ipv6.NONE:
            networks.append(f"2001:db8:{number}::/64")
        if networks:
            self._internet.attach(router, f"{side[0]}{number}", *networks)
        if around.has_ipv4:
            self._give_ipv4(place, outer, number)
        if around.ipv6 is not Ipv6.NONE:
            self._give_ipv6(place, number)
        return place

    def close(self) -> None:
        if self._carrier_nat is not None:
            self._carrier_nat.kill()
        if self._carrier is not None:
            self._carrier.close()

    def _give_ipv4(self, place: Place, outer: str, number: int) -> None:
        nats = SURROUNDINGS[place.kind].nats
        if not nats:
            place.address = outer
            place.router.run_lines(f"""
                ip addr add 169.254.1.1/32 dev lan
                ip route add {outer}/32 dev lan
            """)
            place.host.run_lines(f"""
                ip addr add {outer}/32 dev eth0
                ip route add default via 169.254.1.1 dev eth0 onlink
            """)
            return
        place.address = f"192.168.{number}.2"
        place.router.run("ip", "addr", "add", f"192.168.{number}.1/24", "dev", "lan")
        if len(nats) == 1:
            place.router.run("ip", "addr", "add", f"{outer}/32", "dev", "wan")
        place.host.run_lines(f"""
            ip addr add {place.address}/24 dev eth0
            ip route add default via 192.168.{number}.1
        """)
        name = f"nat-{place.host.name}"
        place.nats.append(start_nat(place.router, name, nats[0], outer, f"192.168.{number}.0/24", self._logs))

    def _give_ipv6(self, place: Place, number: int) -> None:
        place.address_v6 = f"2001:db8:{number}::2"
        place.router.run_lines(f"""
            ip -6 addr add {OUTSIDE_FE80}/64 dev lan nodad
            ip -6 route add 2001:db8:{number}::/64 dev lan
        """)
        place.host.run_lines(f"""
            ip -6 addr add {place.address_v6}/64 dev eth0 nodad
            ip -6 addr add {INSIDE_FE80}/64 dev eth0 nodad
            ip -6 route add default via {OUTSIDE_FE80} dev eth0
        """)
        if SURROUNDINGS[place.kind].ipv6 is Ipv6.SILENT:
            place.router.load_nft(_NO_IPV6)

    def _attach_to_carrier(self, router: Namespace, side: str) -> str:
        """Links a router to the carrier's network and returns its address there."""
        if self._carrier is None:
            self._start_carrier()
        assert self._carrier is not None
        address = f"172.31.0.{SIDES[side]}"
        self._carrier.run_lines(f"""
            ip link add to-{side} type veth peer name wan netns {router.holder.pid}
            ip link set to-{side} master lan up
        """)
        router.run_lines(f"""
            ip addr add {address}/24 dev wan
            ip link set wan up
            ip route add default via 172.31.0.1
        """)
        return address

    def _start_carrier(self) -> None:
        self._carrier = Namespace.create("carrier")
        self._carrier.switch_on("net/ipv4/ip_forward")
        self._internet.attach(self._carrier, "carrier", f"{CARRIER_ADDRESS}/32")
        self._carrier.run_lines(f"""
            ip addr add {CARRIER_ADDRESS}/32 dev wan
            ip link add lan type bridge
            ip addr add 172.31.0.1/24 dev lan
            ip link set lan up
        """)
        behaviour = SURROUNDINGS[Kind.DOUBLE_HAIRPIN].nats[-1]
        self._carrier_nat = start_nat(self._carrier, "nat-carrier", behaviour, CARRIER_ADDRESS, CARRIER_NETWORK, self._logs)


def start_nat(router: Namespace, name: str, behaviour: Behaviour, outer: str, inside: str, logs: Path) -> Program:
    """Makes a router with interfaces `lan` and `wan` a NAT. Raises ConfigError when something of it is refused."""
    make_tun(router, "nat0")
    router.load_nft(_NAT_RULES.format(outer=outer))
    steer_marked(router, "nat0")
    options = ["--outer", outer, "--inside", inside, "--mapping", str(behaviour.mapping), "--filtering", str(behaviour.filtering)]
    options += ["--preserve" if behaviour.is_preserving else "--no-preserve", "--timeout", str(behaviour.timeout / SECOND)]
    if behaviour.is_hairpinning:
        options.append("--hairpin")
    if behaviour.only_port is not None:
        options += ["--only-port", str(behaviour.only_port)]
    program = Program.start(name, router, python("firezone.lab.nat.process", *options), logs)
    program.wait_for("translating")
    return program
