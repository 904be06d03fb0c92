"""Names at a gateway against a model, in any order of grants, revocations, announcements, resolutions and packets."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from firezone.wire.domain_pattern import matches
from tests.harness import packets
from tests.unit.proto.gateway.bench import PROHIBITED_V4, PROHIBITED_V6, UNREACHABLE_V4, UNREACHABLE_V6, tcp_filter, udp_filter
from tests.unit.proto.gateway.names_bench import NamesBench

NUMBERS, PATTERNS = (20, 21), ("*.corp.test", "**.test", "x.corp.test", "*.other.test")
DOMAINS = ("x.corp.test", "y.corp.test", "z.other.test")
PROXIES = ("100.96.0.1", "100.96.0.2", "100.96.0.3", "fd00:2021:1111:8000::1", "fd00:2021:1111:8000::2")
REALS = ("10.9.0.1", "10.9.0.2", "fd12::1")
FILTERS = ((), (udp_filter(80),), (udp_filter(443), tcp_filter(1, 9)), (tcp_filter(80),))
SETS = st.sets(st.sampled_from(PROXIES), min_size=1, max_size=3)


def order(texts: Any, version: int) -> list[str]:
    return [str(ip) for ip in sorted(ip for ip in map(ipaddress.ip_address, texts) if ip.version == version)]


class NamesModel(RuleBasedStateMachine):
    """What is granted, which name each proxy IP stands for, where it leads, and which flows are open."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = NamesBench()
        self.bench.revoke(20)
        self.grants: dict[int, tuple[str, Any]] = {}
        self.announced: dict[str, set[int]] = {}
        self.owner: dict[str, str] = {}
        self.real: dict[str, str | None] = {}
        self.flows: dict[tuple[str, int], str] = {}

    @rule(number=st.sampled_from(NUMBERS), pattern=st.sampled_from(PATTERNS), filters=st.sampled_from(FILTERS))
    def grant(self, number: int, pattern: str, filters: Any) -> None:
        self.bench.grant_name(number, pattern, *filters)
        self.grants[number] = pattern, filters

    @rule(number=st.sampled_from(NUMBERS))
    def revoke(self, number: int) -> None:
        self.bench.revoke(number)
        self.grants.pop(number, None)

    @rule(number=st.sampled_from(NUMBERS), domain=st.sampled_from(DOMAINS), proxies=SETS, found=st.sets(st.sampled_from(REALS)))
    def announce(self, number: int, domain: str, proxies: set[str], found: set[str]) -> None:
        is_allowed = number in self.grants and matches(self.grants[number][0], domain)
        assert self.bench.announce(number, domain, tuple(sorted(proxies))) == (domain if is_allowed else None)
        if is_allowed:
            self.bench.resolve(*found, domain=domain)
        assert self.bench.statuses[-1] == ("Active" if is_allowed else "Inactive")
        if not is_allowed:
            return
        for proxy in [proxy for proxy in proxies if self.owner.get(proxy, domain) != domain]:
            former = self.owner.pop(proxy)
            del self.real[proxy]
            self.flows = {flow: real for flow, real in self.flows.items() if flow[0] != proxy}
            if former not in self.owner.values():
                del self.announced[former]
        self.announced.setdefault(domain, set()).add(number)
        for version in (4, 6):
            reals = order(found, version)
            for place, proxy in enumerate(order(proxies, version)):
                self.owner[proxy] = domain
                self.real[proxy] = reals[place % len(reals)] if reals else None

    def admits(self, proxy: str, port: int) -> bool:
        domain = self.owner.get(proxy)
        lists = [
            filters
            for number, (pattern, filters) in self.grants.items()
            if domain is not None and number in self.announced[domain] and matches(pattern, domain)
        ]
        return any(
            not filters or any(f.protocol == "udp" and f.port_range_start <= port <= f.port_range_end for f in filters)
            for filters in lists
        )

    @rule(proxy=st.sampled_from(PROXIES), source=st.sampled_from([5000, 5001]), port=st.sampled_from([80, 443]))
    def send(self, proxy: str, source: int, port: int) -> None:
        is_v6 = ":" in proxy
        own = str(self.bench.client.ipv6 if is_v6 else self.bench.client.ipv4)
        outcome = self.bench.through(packets.udp(own, proxy, b"x", ports=(source, port)))
        if not self.admits(proxy, port):
            assert outcome == (PROHIBITED_V6 if is_v6 else PROHIBITED_V4)
            return
        wanted = self.flows.get((proxy, source)) or self.real[proxy]
        if wanted is None:
            assert outcome == (UNREACHABLE_V6 if is_v6 else UNREACHABLE_V4)
            return
        assert outcome is not None
        assert outcome[0] == wanted
        self.flows[proxy, source] = wanted
        answer = packets.udp(wanted, own, b"y", ports=(port, int(outcome[1] or 0)))
        assert self.bench.back(answer) == proxy

    @invariant()
    def the_nat_knows_exactly_the_open_flows(self) -> None:
        number = self.bench.gateway.machine._nat._numbers.get(self.bench.client.cid)
        live, _, translations = self.bench.gateway.tables.nat.counts(0 if number is None else number)
        assert (live, translations) == (len(self.flows), len(self.real))


TestNames = NamesModel.TestCase
TestNames.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
