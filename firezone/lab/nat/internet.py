"""The matrix's internet: one namespace that routes between all others and holds every packet back by the distance of its ends.

    site ── wan fe80::2 ──── fe80::1 to-<site> ── internet ── to-<other> ── ...
                                          └─► TUN delay0 ─► delay_process ─┘

Links have no IPv4 addresses of their own: routes go by the IPv6 link-local addresses at their ends, so a site has exactly the
addresses it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.lab.namespaces import Namespace
from firezone.lab.programs import Program, python

if TYPE_CHECKING:
    from pathlib import Path

INSIDE_FE80, OUTSIDE_FE80 = "fe80::2", "fe80::1"
_FROM_TUN = "delay0"
_TABLE = "100"


@dataclass(slots=True)
class Internet:
    """The namespace in the middle. Everything attached must have an address in one of its regions."""

    core: Namespace
    delayer: Program | None = None
    _devices: list[str] = field(default_factory=list)

    @classmethod
    def build(cls) -> Internet:
        core = Namespace.create("internet")
        for sysctl in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            core.switch_on(sysctl)
        return cls(core)

    def attach(self, namespace: Namespace, code: str, *networks: str, device: str = "wan") -> None:
        """Gives a namespace its link to the internet, as `wan`, with routes of these networks towards it and a default route out.

        Raises: ConfigError, naming the command that failed.
        """
        link = f"to-{code}"
        self.core.run_lines(f"""
            ip link add {link} type veth peer name {device} netns {namespace.holder.pid}
            ip -6 addr add {OUTSIDE_FE80}/64 dev {link} nodad
            ip link set {link} up
        """)
        namespace.run_lines(f"""
            ip -6 addr add {INSIDE_FE80}/64 dev {device} nodad
            ip link set {device} up
            ip -4 route add default via inet6 {OUTSIDE_FE80} dev {device}
            ip -6 route add default via {OUTSIDE_FE80} dev {device}
        """)
        for network in networks:
            via = INSIDE_FE80 if ":" in network else f"inet6 {INSIDE_FE80}"
            self.core.run(*f"ip route add {network} via {via} dev {link}".split())
        self._devices.append(link)

    def start_delays(self, logs: Path, regions: dict[str, list[str]], *options: str) -> None:
        """From now on packets take as long as the distance between the regions of their ends. Raises ConfigError."""
        make_tun(self.core, _FROM_TUN)
        # Neighbour discovery stays on its link, whatever the distance.
        self.core.load_nft("""
            table inet delay {
                chain steer {
                    type filter hook prerouting priority mangle; policy accept;
                    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept
                    ip6 daddr { fe80::/10, ff00::/8 } accept
                    iifname "to-*" meta mark set 1
                }
            }
        """)
        steer_marked(self.core, _FROM_TUN, families=("-4", "-6"))
        words = [f"{region}={network}" for region, networks in regions.items() for network in networks]
        self.delayer = Program.start("internet", self.core, python("firezone.lab.nat.delay_process", *words, *options), logs)
        self.delayer.wait_for("delaying")

    def close(self) -> None:
        if self.delayer is not None:
            self.delayer.kill()
        self.core.close()


def make_tun(namespace: Namespace, name: str) -> None:
    """Makes a TUN device whose packets may have any source, our own addresses included: it stands for a stage inside the router."""
    namespace.run_lines(f"""
        ip tuntap add {name} mode tun
        ip link set {name} txqueuelen 2000 up
    """)
    namespace.switch_on(f"net/ipv4/conf/{name}/accept_local")
    for device in ("all", name):
        namespace.switch_off(f"net/ipv4/conf/{device}/rp_filter")


def steer_marked(namespace: Namespace, name: str, families: tuple[str, ...] = ("-4",)) -> None:
    """Routes packets with mark 1 into the device, those for our own addresses too: the local table moves behind the mark."""
    for family in families:
        namespace.run_lines(f"""
            ip {family} rule add pref 10 fwmark 1 lookup {_TABLE}
            ip {family} rule add pref 100 lookup local
            ip {family} rule del pref 0
            ip {family} route add default dev {name} table {_TABLE}
        """)
