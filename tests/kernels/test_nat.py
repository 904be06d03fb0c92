"""The NAT of named resources against its twin, the vectors of the original, timers, and what is bounded."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firezone.kernels.ip import parse_batch
from firezone.kernels.nat import NatTable, is_proxy
from firezone.kernels.types import FIRST_PUNT, Reason, Verdict
from tests.harness import packets
from tests.harness.rows import batch_of, outcome, raw_bytes
from tests.harness.twins import ip as ip_twin
from tests.harness.twins import nat as twin
from tests.harness.twins.checksum import checksum, transport_checksum

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED = bytes(range(48))
SECOND = 1_000_000_000
CLIENTS = {0: ("100.64.0.1", "fd00:2021:1111::1"), 1: ("100.64.0.3", "fd00:2021:1111::3")}
PROXIES = ("100.96.0.1", "100.96.0.2", "100.127.255.255", "fd00:2021:1111:8000::", "fd00:2021:1111:8000::1")
REALS = ("10.0.0.8", "10.0.0.9", "fd12::8", "fd12::9")
OWN = ("100.64.0.2", "fd00:2021:1111::2")
OTHER = ("10.0.0.77", "fd12::77")
FIN, SYN, RST, ACK = 1, 2, 4, 16


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


class Bench:
    """One table, one packet at a time, on a clock of its own. Client n is on peer row n."""

    def __init__(self, **options: Any) -> None:
        self.table = NatTable(SEED, **options)
        self.now = 1000 * SECOND
        self.table.set_own(packed(OWN[0]), packed(OWN[1]))
        for client in CLIENTS:
            self.table.attach(client, client)

    def translate(self, proxy: str, real: str | None, client: int = 0) -> None:
        self.table.set_translation(client, packed(proxy), None if real is None else packed(real))

    def out(self, packet: bytes, peer: int = 0) -> bytes | Reason:
        return self.run([(packet, peer)], from_tunnel=True)[0]

    def back(self, packet: bytes, peer: int = 0) -> bytes | Reason:
        return self.run([(packet, peer)], from_tunnel=False)[0]

    def run(self, rows: Sequence[tuple[bytes, int]], *, from_tunnel: bool) -> list[bytes | Reason]:
        batch = batch_of([packet for packet, _ in rows], gap=3)
        parse_batch(batch, False)
        batch.peer[: len(rows)] = [peer for _, peer in rows]
        stage = self.table.translate_from_tunnel if from_tunnel else self.table.translate_to_tunnel
        assert stage(batch, self.now) == len(batch.rows(Verdict.FORWARD))
        results: list[bytes | Reason] = []
        for row in range(batch.n):
            verdict, reason = outcome(batch, row)
            assert verdict == (Verdict.FORWARD if not reason else Verdict.PUNT if reason >= FIRST_PUNT else Verdict.DROP)
            if not reason:
                columns_are_those_of_the_packet(batch, row)
            results.append(reason or raw_bytes(batch, row))
        return results


def columns_are_those_of_the_packet(batch: Any, row: int) -> None:
    """Later stages trust the columns: they are what parsing the rewritten packet again would give."""
    parsed = ip_twin.parse(raw_bytes(batch, row), False)
    assert parsed.verdict == Verdict.FORWARD
    for name in ("protocol", "transport", "flags", "source_port", "destination_port"):
        assert int(getattr(batch, name)[row]) == getattr(parsed, name), name
    assert int(batch.ip_version[row]) == parsed.version
    assert int(batch.ecn[row]) == parsed.ecn


def verifies(packet: bytes) -> bool:
    """Whether all checksums are right; a UDP checksum of zero is none."""
    is_v4 = packet[0] >> 4 == 4
    _, protocol, transport = ip_twin.walk(packet)
    if is_v4 and checksum(packet[:20]) not in (0, 0xFFFF):
        return False
    segment = packet[transport:]
    start, size = (12, 4) if is_v4 else (8, 16)
    if protocol == packets.UDP and segment[6:8] == bytes(2):
        return True
    if protocol == packets.ICMP:
        return checksum(segment) in (0, 0xFFFF)
    source, destination = packet[start : start + size], packet[start + size : start + 2 * size]
    return transport_checksum(source, destination, protocol, segment) in (0, 0xFFFF)


# --- vectors ------------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_replaced_as_in_the_recorded_translation() -> None:
    bench = Bench()
    bench.translate("100.96.0.1", "10.0.0.9")
    bench.translate("100.96.0.2", "10.0.0.9")
    bench.out(packets.udp("100.64.0.1", "100.96.0.2", b"q", ports=(5555, 53)))
    sent = bytes.fromhex("4500001d00004000 4011722e 64400001 64600001 15b3003500 09b05171")
    written = bytes.fromhex("4500001d00004000 4011cc86 64400001 0a000009 15b4003500 090aa971")
    assert bench.out(sent) == written


def test_an_error_of_a_router_is_rebuilt_as_in_the_recorded_translation() -> None:
    bench = Bench()
    bench.translate("100.96.0.1", "10.0.0.9")
    bench.translate("100.96.0.2", "10.0.0.9")
    bench.out(packets.udp("100.64.0.1", "100.96.0.2", b"q", ports=(5555, 53)))
    bench.out(packets.udp("100.64.0.1", "100.96.0.1", b"q", ports=(5555, 53)))
    router = bytes.fromhex(
        "45000038000040003f01cd7b0a000009644000010303dc61000000004500001d000040004011cc86644000010a00000915b4003500090aa9"
    )
    to_client = bytes.fromhex(
        "450000380000400014019e236460000164400001 0303820a 00000000 4500001d000040004011cc86644000016460000115b3003500090aa9"
    )
    assert bench.back(router) == to_client


# --- equivalence --------------------------------------------------------------------------------------------------------


KEYS = st.sampled_from([0, 1, 2, 65534, 65535])
FLAGS = st.sampled_from([ACK, SYN, SYN | ACK, FIN | ACK, RST, RST | ACK])


@st.composite
def flows(draw: st.DrawFn, sources: Sequence[str], destinations: Sequence[str]) -> bytes:
    source = draw(st.sampled_from(sources))
    alike = [text for text in destinations if (":" in text) == (":" in source)]
    destination, ports = draw(st.sampled_from(alike)), (draw(KEYS), draw(KEYS))
    kind = draw(st.sampled_from(["tcp", "udp", "no checksum", "echo", "code", "other"]))
    if kind == "tcp":
        return packets.tcp(source, destination, draw(st.binary(max_size=9)), ports=ports, tcp_flags=draw(FLAGS))
    if kind in ("udp", "no checksum"):
        packet = packets.udp(source, destination, draw(st.binary(max_size=9)), ports=ports)
        at = 46 if ":" in source else 26
        return packet if kind == "udp" else packet[:at] + bytes(2) + packet[at + 2 :]
    if kind == "echo":
        return packets.echo(source, destination, ports[0], reply=draw(st.booleans()))
    if kind == "code":
        body = bytes([128 if ":" in source else 8, 1]) + bytes(6)
        return packets.ip(source, destination, packets.ICMPV6 if ":" in source else packets.ICMP, body)
    return packets.ip(source, destination, 47, b"gre")


@st.composite
def errors(draw: st.DrawFn, client: tuple[str, str]) -> bytes:
    """An ICMP error of a router about a packet that may have been sent to a real address."""
    about = draw(flows(client, REALS))
    is_v6 = about[0] >> 4 == 6
    cut = draw(st.sampled_from([len(about), (40 if is_v6 else 20) + 8, 12]))
    kinds = [1, 2, 3] if is_v6 else [3, 11]
    head = bytes([draw(st.sampled_from(kinds)), draw(st.sampled_from([0, 1, 4, 13])), 7, 7]) + draw(
        st.binary(min_size=4, max_size=4)
    )
    source = draw(st.sampled_from(("2001:db8::1", "fd12::8", OWN[1]) if is_v6 else ("192.0.2.1", "10.0.0.8", OWN[0])))
    return packets.ip(source, client[is_v6], packets.ICMPV6 if is_v6 else packets.ICMP, head + about[:cut])


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, Any]:
    client = draw(st.sampled_from(sorted(CLIENTS)))
    kind = draw(st.sampled_from(["translate", "forget", "clear", "wait", "out", "out", "out", "back", "back", "error"]))
    proxy = draw(st.sampled_from(PROXIES))
    if kind == "translate":
        alike = [None, *(text for text in REALS if (":" in text) == (":" in proxy))]
        return kind, (client, proxy, draw(st.sampled_from(alike)))
    if kind == "wait":
        return kind, draw(st.sampled_from([1, SECOND, 4 * SECOND, 5 * SECOND, 60 * SECOND, 119 * SECOND, 7440 * SECOND]))
    if kind == "out":
        rows = flows(CLIENTS[client], [*PROXIES, *REALS])
    elif kind == "back":
        rows = flows([*REALS, *OWN], CLIENTS[client])
    else:
        rows = errors(CLIENTS[client])
    return kind, (client, proxy, draw(st.lists(rows, min_size=1, max_size=6)))


@settings(deadline=None)
@given(st.lists(steps(), max_size=40))
def test_every_packet_is_treated_as_the_twin_does(story: list[tuple[str, Any]]) -> None:
    bench, model = Bench(), twin.Nat({packed(text) for text in OWN})
    for client in CLIENTS:  # most stories begin where something can happen
        for place, proxy in enumerate(PROXIES[:2] + PROXIES[3:4]):
            play(bench, model, "translate", (client, proxy, REALS[2] if ":" in proxy else REALS[place % 2]))
    for kind, what in story:
        play(bench, model, kind, what)
    live = sum(bench.now < session.deadline for session in model.inside.values())
    bench.table.translate_to_tunnel(batch_of([]), bench.now + SECOND)
    dead = sum(bench.now + SECOND >= session.deadline for session in model.inside.values())
    assert sum(bench.table.counts(client)[0] for client in CLIENTS) == len(model.inside) - dead <= live


def play(bench: Bench, model: twin.Nat, kind: str, what: Any) -> None:
    if kind == "wait":
        bench.now += what
        return
    client, proxy, rest = (*what, None)[:3]
    if kind == "translate":
        bench.translate(proxy, rest, client)
        model.translations[client, packed(proxy)] = None if rest is None else packed(rest)
    elif kind == "forget":
        bench.table.remove_translation(client, packed(proxy))
        model.forget(client, packed(proxy))
    elif kind == "clear":
        bench.table.remove_client(client)
        bench.table.attach(client, client)
        model.clear(client)
    else:
        decide = model.from_tunnel if kind == "out" else model.to_tunnel
        expected = [decide(client, ip_twin.parse(packet, False), bench.now) for packet in rest]
        assert bench.run([(packet, client) for packet in rest], from_tunnel=kind == "out") == expected


# --- properties of the original's tests -----------------------------------------------------------------------------------


@given(st.data())
def test_a_reply_comes_back_from_the_proxy_to_the_key_that_was_used(data: st.DataObject) -> None:
    bench = Bench()
    for proxy, real in zip(PROXIES, ("10.0.0.8", "10.0.0.8", "10.0.0.9", "fd12::8", "fd12::8"), strict=True):
        bench.translate(proxy, real)
    outsides: dict[Any, Any] = {}
    for packet in data.draw(st.lists(flows(CLIENTS[0], PROXIES), max_size=8)):
        parsed = ip_twin.parse(packet, False)
        sent = bench.out(packet)
        if isinstance(sent, Reason):
            assert sent == Reason.UNSUPPORTED_PROTOCOL
            continue
        there = ip_twin.parse(sent, False)
        source, destination = twin._addresses(packet)
        there_at = twin._addresses(sent)[1]
        inside = (parsed.protocol, parsed.source_port, destination)
        assert outsides.setdefault((there.protocol, there.source_port, there_at), inside) == inside  # nobody shares an outside
        texts = [str(ipaddress.ip_address(address)) for address in (there_at, source)]
        if parsed.flags & ip_twin.ICMP:
            reply = packets.echo(texts[0], texts[1], there.source_port, reply=True)
        else:
            build = packets.tcp if parsed.protocol == packets.TCP else packets.udp
            reply = build(texts[0], texts[1], b"odd", ports=(there.destination_port, there.source_port))
            assert verifies(sent)
        back = bench.back(reply)
        assert not isinstance(back, Reason)
        assert twin._addresses(back) == (destination, source)
        assert ip_twin.parse(back, False).destination_port == parsed.source_port
        assert parsed.flags & ip_twin.ICMP or verifies(back)


def test_port_search_goes_on_at_one_behind_65535() -> None:
    bench = Bench()
    for proxy in PROXIES[:3]:
        bench.translate(proxy, "10.0.0.9")
    ports = [source_port(bench.out(packets.udp("100.64.0.1", proxy, ports=(65535, 53)))) for proxy in PROXIES[:3]]
    assert ports == [65535, 1, 2]


def test_when_all_ports_are_taken_packets_are_dropped_and_the_search_is_bounded() -> None:
    bench = Bench()
    for proxy in PROXIES[:2]:
        bench.translate(proxy, "10.0.0.9")
    rows = [(packets.udp("100.64.0.1", PROXIES[0], ports=(port, 53)), 0) for port in range(1, 65536)]
    assert not any(isinstance(result, Reason) for result in bench.run(rows, from_tunnel=True))
    late = packets.udp("100.64.0.1", PROXIES[1], ports=(7, 53))
    assert bench.out(late) == Reason.NAT_EXHAUSTED
    flood = [(packets.udp("100.64.0.1", PROXIES[1], ports=(port, 53)), 0) for port in range(1, 3000)]
    assert set(bench.run(flood, from_tunnel=True)) == {Reason.NAT_EXHAUSTED}  # 3000 full searches would take seconds
    assert source_port(bench.out(packets.tcp("100.64.0.1", PROXIES[1], ports=(7, 53)))) == 7
    bench.now += 60 * SECOND
    assert source_port(bench.out(late)) == 7


def source_port(packet: bytes | Reason) -> int:
    assert not isinstance(packet, Reason)
    return ip_twin.parse(packet, False).source_port


# --- timers ---------------------------------------------------------------------------------------------------------------


def udp_out(bench: Bench) -> bytes | Reason:
    return bench.out(packets.udp("100.64.0.1", PROXIES[0], ports=(5000, 53)))


def udp_back(bench: Bench) -> bytes | Reason:
    return bench.back(packets.udp("10.0.0.9", "100.64.0.1", ports=(53, 5000)))


def tcp_out(bench: Bench, flags: int) -> bytes | Reason:
    return bench.out(packets.tcp("100.64.0.1", PROXIES[0], ports=(5000, 80), tcp_flags=flags))


def tcp_back(bench: Bench, flags: int) -> bytes | Reason:
    return bench.back(packets.tcp("10.0.0.9", "100.64.0.1", ports=(80, 5000), tcp_flags=flags))


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.translate(PROXIES[0], "10.0.0.9")
    return bench


def test_an_answered_udp_session_ends_after_two_idle_minutes(bench: Bench) -> None:
    udp_out(bench)
    udp_back(bench)
    bench.now += 120 * SECOND - 1
    assert not isinstance(udp_back(bench), Reason)
    bench.now += 120 * SECOND
    assert udp_back(bench) == Reason.EXPIRED_NAT_SESSION


def test_packets_from_the_resource_alone_keep_a_session(bench: Bench) -> None:
    udp_out(bench)
    for _ in range(10):
        assert not isinstance(udp_back(bench), Reason)
        bench.now += 30 * SECOND


def test_what_is_never_answered_is_gone_after_a_minute(bench: Bench) -> None:
    tcp_out(bench, SYN)
    bench.now += 60 * SECOND
    assert tcp_back(bench, SYN | ACK) == Reason.EXPIRED_NAT_SESSION


def test_an_error_counts_as_an_answer(bench: Bench) -> None:
    sent = udp_out(bench)
    assert isinstance(sent, bytes)
    error = packets.ip("192.0.2.1", "100.64.0.1", packets.ICMP, b"\x03\x01\0\0\0\0\0\0" + sent)
    assert not isinstance(bench.back(error), Reason)
    bench.now += 119 * SECOND
    assert not isinstance(udp_back(bench), Reason)


def test_an_idle_tcp_session_lives_for_two_hours_and_four_minutes(bench: Bench) -> None:
    tcp_out(bench, SYN)
    tcp_back(bench, SYN | ACK)
    bench.now += 7440 * SECOND - 1
    assert not isinstance(tcp_back(bench, ACK), Reason)
    bench.now += 7440 * SECOND
    assert tcp_back(bench, ACK) == Reason.EXPIRED_NAT_SESSION


def test_five_seconds_after_both_sides_have_finished_a_session_is_gone(bench: Bench) -> None:
    tcp_out(bench, SYN)
    tcp_back(bench, FIN | ACK)
    bench.now += 30 * SECOND
    tcp_out(bench, FIN | ACK)
    bench.now += 4 * SECOND
    assert not isinstance(tcp_back(bench, ACK), Reason)
    bench.now += 5 * SECOND
    assert tcp_back(bench, ACK) == Reason.EXPIRED_NAT_SESSION


@pytest.mark.parametrize("from_client", [True, False])
def test_a_reset_ends_the_session_and_a_new_attempt_begins_another(bench: Bench, from_client: bool) -> None:
    tcp_out(bench, SYN)
    tcp_back(bench, SYN | ACK)
    bench.translate(PROXIES[0], "10.0.0.8")
    assert not isinstance(tcp_out(bench, RST) if from_client else tcp_back(bench, RST), Reason)
    bench.now += SECOND
    assert tcp_back(bench, ACK) == Reason.EXPIRED_NAT_SESSION
    sent = tcp_out(bench, SYN)
    assert isinstance(sent, bytes)
    assert twin._addresses(sent)[1] == packed("10.0.0.8")


def test_an_attempt_right_behind_a_reset_goes_where_new_flows_go(bench: Bench) -> None:
    tcp_out(bench, SYN)
    tcp_back(bench, RST | ACK)
    bench.translate(PROXIES[0], "10.0.0.8")
    sent = tcp_out(bench, SYN)
    assert isinstance(sent, bytes)
    assert twin._addresses(sent)[1] == packed("10.0.0.8")
    bench.now += 59 * SECOND
    reply = packets.tcp("10.0.0.8", "100.64.0.1", ports=(80, 5000), tcp_flags=SYN | ACK)
    assert not isinstance(bench.back(reply), Reason)


def test_open_flows_keep_their_address_when_the_name_gets_another_or_none(bench: Bench) -> None:
    udp_out(bench)
    for real in ("10.0.0.8", None):
        bench.translate(PROXIES[0], real)
        sent = udp_out(bench)
        assert isinstance(sent, bytes)
        assert twin._addresses(sent)[1] == packed("10.0.0.9")
    assert bench.out(packets.udp("100.64.0.1", PROXIES[0], ports=(5001, 53))) == Reason.NO_TRANSLATION


# --- what is bounded --------------------------------------------------------------------------------------------------------


def test_ended_sessions_are_remembered_up_to_a_bound_and_the_oldest_goes_first(bench: Bench) -> None:
    rows = [(packets.udp("100.64.0.1", PROXIES[0], ports=(port, 53)), 0) for port in range(1, 6001)]
    bench.run(rows, from_tunnel=True)
    bench.now += 60 * SECOND
    oldest, newest = (packets.udp("10.0.0.9", "100.64.0.1", ports=(53, port)) for port in (1, 6000))
    assert bench.back(newest) == Reason.EXPIRED_NAT_SESSION
    assert bench.back(oldest) == oldest
    assert bench.table.counts(0) == (0, 4096, 1)
    assert len(bench.table) == 4096


def test_a_full_table_refuses_new_sessions_only(bench: Bench) -> None:
    small = Bench(most_sessions=300)
    small.translate(PROXIES[0], "10.0.0.9")
    rows = [(packets.udp("100.64.0.1", PROXIES[0], ports=(port, 53)), 0) for port in range(1, 400)]
    results = small.run(rows, from_tunnel=True)
    assert [isinstance(result, Reason) for result in results] == [False] * 300 + [True] * 99
    assert not any(isinstance(result, Reason) for result in small.run(rows[:300], from_tunnel=True))
    small.now += 60 * SECOND
    assert not any(isinstance(result, Reason) for result in small.run(rows[250:], from_tunnel=True))


def test_a_hundred_thousand_flows_live_side_by_side() -> None:
    bench = Bench()
    bench.translate(PROXIES[0], "10.0.0.8")
    bench.translate(PROXIES[1], "10.0.0.9")
    for start in range(0, 50_000, 5000):
        rows = [
            (packets.udp("100.64.0.1", proxy, ports=(port, 53)), 0)
            for port in range(start + 1, start + 5001)
            for proxy in PROXIES[:2]
        ]
        assert not any(isinstance(result, Reason) for result in bench.run(rows, from_tunnel=True))
    assert bench.table.counts(0)[0] == 100_000
    reply = packets.udp("10.0.0.9", "100.64.0.1", ports=(53, 777))
    back = bench.back(reply)
    assert isinstance(back, bytes)
    assert twin._addresses(back)[0] == packed(PROXIES[1])


# --- clients and rows -------------------------------------------------------------------------------------------------------


def test_sessions_outlive_the_peer_row_of_their_client(bench: Bench) -> None:
    udp_out(bench)
    bench.table.detach(0)
    reply = packets.udp("10.0.0.9", "100.64.0.1", ports=(53, 5000))
    assert bench.back(reply) == reply
    bench.table.attach(40, 0)
    back = bench.back(reply, peer=40)
    assert isinstance(back, bytes)
    assert twin._addresses(back)[0] == packed(PROXIES[0])


@pytest.mark.parametrize(("proxy", "real"), [(PROXIES[0], REALS[0]), (PROXIES[3], REALS[2])])
def test_errors_of_the_gateways_own_kernel_are_translated_and_its_answers_are_not(proxy: str, real: str) -> None:
    """A hop limit that ends at the gateway, a link of its own that is too small: the program asked for the proxy IP."""
    bench, is_v6 = Bench(), ":" in proxy
    client, own, protocol = CLIENTS[0][is_v6], OWN[is_v6], packets.ICMPV6 if is_v6 else packets.ICMP
    bench.translate(proxy, real)
    sent = packets.udp(client, proxy, b"large", ports=(5000, 53))
    too_big = bytes([2, 0] if is_v6 else [3, 4]) + bytes(4) + (900).to_bytes(2, "big")
    about = bench.out(sent)
    assert isinstance(about, bytes)
    told = bench.back(packets.ip(own, client, protocol, too_big + about))
    assert isinstance(told, bytes)
    head = 40 if is_v6 else 20
    assert twin._addresses(told) == (packed(proxy), packed(client))
    assert twin._addresses(told[head + 8 :]) == (packed(client), packed(proxy))
    assert told[head : head + 2] == too_big[:2]
    assert told[head + 6 : head + 8] == too_big[6:]
    assert verifies(told)
    foreign = packets.ip(own, client, protocol, too_big + packets.udp(client, OTHER[is_v6], b"x", ports=(5000, 53)))
    answer = packets.udp(own, client, b"answer", ports=(53535, 5000))
    assert [bench.back(packet) for packet in (foreign, answer)] == [foreign, answer]


def test_clients_do_not_see_each_others_sessions(bench: Bench) -> None:
    udp_out(bench)
    assert bench.out(packets.udp("100.64.0.3", PROXIES[0], ports=(5000, 53)), peer=1) == Reason.NO_TRANSLATION
    bench.translate(PROXIES[0], "10.0.0.9", client=1)
    assert source_port(bench.out(packets.udp("100.64.0.3", PROXIES[0], ports=(5000, 53)), peer=1)) == 5000
    bench.table.remove_client(0)
    assert bench.table.counts(0) == (0, 0, 0)
    assert bench.table.counts(1) == (1, 0, 1)
    reply = packets.udp("10.0.0.9", "100.64.0.1", ports=(53, 5000))
    assert bench.back(reply) == reply


def test_only_proxy_ips_are_translated() -> None:
    assert [is_proxy(packed(text)) for text in ("100.95.255.255", "100.96.0.0", "100.127.255.255", "100.128.0.0")] == [
        False, True, True, False,
    ]  # fmt: skip
    assert [is_proxy(packed(text)) for text in ("fd00:2021:1111:8000::", "fd00:2021:1111::", "fd00:2021:1112:8000::")] == [
        True, False, False,
    ]  # fmt: skip
    assert is_proxy(packed("fd00:2021:1111:8000:0:0:1f:ffff"))
    assert not is_proxy(packed("fd00:2021:1111:8000:0:0:20:0"))
    with pytest.raises(ValueError, match="no proxy IP"):
        Bench().translate("8.8.8.8", "10.0.0.9")
    with pytest.raises(ValueError, match="not of one family"):
        Bench().translate("100.96.0.1", "fd12::8")
    with pytest.raises(ValueError, match="48 bytes"):
        NatTable(bytes(47))
