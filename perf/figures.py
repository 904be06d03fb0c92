"""What is measured: every figure with its unit and which way is better, in groups that are measured together."""

from __future__ import annotations

from dataclasses import dataclass

UDP_RATE = 40_000
"""Datagrams per second of the UDP transfer at a fixed rate, 384 Mbit/s: little enough for every contender on a machine of two
cores, so what is lost is lost to queues."""
STREAMS = 8
DATAGRAM_SIZE, SMALL_SIZE = 1200, 64
"""Bytes of UDP payload."""
HIGHER, LOWER = True, False


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    key: str
    """Its name in files and for `--rows`."""
    title: str
    unit: str
    group: str
    """What is measured at the same time."""
    is_higher_better: bool
    places: int = 2


GROUPS = {
    "first": "the first packet of a new flow: access, path and handshake included",
    "idle": "round trips with nothing else on the way, and the CPU they take",
    "tcp": "one TCP stream each way; CPU, context switches and memory meanwhile",
    "tcp8": f"{STREAMS} TCP streams each way",
    "loaded": "round trips beside one TCP stream each way",
    "syscalls": "system calls of the tunnel's processes, in short transfers of their own since counting slows them",
    "udp": f"UDP of {DATAGRAM_SIZE} bytes: lost at {UDP_RATE // 1000} 000/s, and the highest rate without loss",
    "small": f"UDP of {SMALL_SIZE} bytes: datagrams per CPU second",
    "relay": f"datagrams of {DATAGRAM_SIZE} bytes per CPU second of the relay",
    "connections": "new connections per CPU second of a gateway, without traffic",
}

FIGURES = (
    Figure("first_packet_ms", "first packet of a new flow answered", "ms", "first", LOWER, 1),
    Figure("rtt_p50_ms", "RTT idle, p50", "ms", "idle", LOWER, 3),
    Figure("rtt_p99_ms", "RTT idle, p99", "ms", "idle", LOWER, 3),
    Figure("echo_cpu_us", "CPU for each lone echo, all processes", "µs", "idle", LOWER, 0),
    Figure("up_gbps", "TCP, 1 stream, up", "Gbit/s", "tcp", HIGHER),
    Figure("down_gbps", "TCP, 1 stream, down", "Gbit/s", "tcp", HIGHER),
    Figure("resent_percent", "TCP segments sent again", "%", "tcp", LOWER, 3),
    Figure("cpu_s_per_gb", "CPU, all processes", "s/GB", "tcp", LOWER, 3),
    Figure("cpu_client_s_per_gb", "CPU, client", "s/GB", "tcp", LOWER, 3),
    Figure("cpu_gateway_s_per_gb", "CPU, gateway", "s/GB", "tcp", LOWER, 3),
    Figure("cpu_relay_s_per_gb", "CPU, relay", "s/GB", "tcp", LOWER, 3),
    Figure("switches_per_gb", "context switches, all processes", "1000/GB", "tcp", LOWER, 1),
    Figure("client_mib", "resident memory, client under load", "MiB", "tcp", LOWER, 1),
    Figure("datagrams_per_send", "datagrams per send", "", "tcp", HIGHER, 1),
    Figure("up8_gbps", f"TCP, {STREAMS} streams, up", "Gbit/s", "tcp8", HIGHER),
    Figure("down8_gbps", f"TCP, {STREAMS} streams, down", "Gbit/s", "tcp8", HIGHER),
    Figure("loaded_up_p50_ms", "RTT beside an upload, p50", "ms", "loaded", LOWER),
    Figure("loaded_up_p99_ms", "RTT beside an upload, p99", "ms", "loaded", LOWER),
    Figure("loaded_down_p50_ms", "RTT beside a download, p50", "ms", "loaded", LOWER),
    Figure("loaded_down_p99_ms", "RTT beside a download, p99", "ms", "loaded", LOWER),
    Figure("syscalls_per_gb", "system calls, all processes", "1000/GB", "syscalls", LOWER, 1),
    Figure("udp_lost_percent", f"UDP {DATAGRAM_SIZE} B, lost at {UDP_RATE // 1000} 000/s", "%", "udp", LOWER, 3),
    Figure("udp_up_kpps", f"UDP {DATAGRAM_SIZE} B without loss, up", "1000/s", "udp", HIGHER, 0),
    Figure("udp_down_kpps", f"UDP {DATAGRAM_SIZE} B without loss, down", "1000/s", "udp", HIGHER, 0),
    Figure("small_up_per_cpu", f"UDP {SMALL_SIZE} B per CPU second, up", "1000", "small", HIGHER, 0),
    Figure("small_down_per_cpu", f"UDP {SMALL_SIZE} B per CPU second, down", "1000", "small", HIGHER, 0),
    Figure("relay_up_per_cpu", f"relay, {DATAGRAM_SIZE} B per CPU second, up", "1000", "relay", HIGHER, 0),
    Figure("relay_down_per_cpu", f"relay, {DATAGRAM_SIZE} B per CPU second, down", "1000", "relay", HIGHER, 0),
    Figure("connections_per_cpu", "new clients per CPU second of the gateway", "", "connections", HIGHER, 0),
    Figure("connections_per_s", "new clients per second, all programs on this machine", "", "connections", HIGHER, 0),
    Figure("handshakes_per_cpu", "handshakes alone per CPU second", "", "connections", HIGHER, 0),
)
BY_KEY = {figure.key: figure for figure in FIGURES}


def choose(words: tuple[str, ...]) -> list[str]:
    """Returns the groups to measure: those named, and those with a figure whose name has one of the words; all without a word.

    Raises: ValueError for a word that is in none.
    """
    chosen = set()
    for word in words:
        found = {word} if word in GROUPS else {one.group for one in FIGURES if word in one.key or word in one.title}
        if not found:
            raise ValueError(f"{word!r} is in no row. Groups of rows are: {', '.join(GROUPS)}.")
        chosen |= found
    return [group for group in GROUPS if group in chosen or not words]
