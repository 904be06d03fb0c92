"""What the demo found out, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(slots=True)
class Report:
    """One run of the demo."""

    mode: str
    """namespaces, or memory (rings in place of TUN devices)."""
    logs: str
    path: str = ""
    connect_ms: float | None = None
    """From the first SYN to the connection: intent, flow, ICE and handshake included."""
    first_byte_ms: float | None = None
    page: str = ""
    rtt_ms: dict[str, float] = field(default_factory=dict)
    throughput_gbps: dict[str, float] = field(default_factory=dict)
    cpu_s_per_gb: dict[str, float] = field(default_factory=dict)
    resident_mib: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By the way there: host, page, and milliseconds to the connection, the question for the name included."""
    refused: dict[str, Any] | None = None
    """What came back from a port that no policy opens: the ICMP error."""
    revoked: dict[str, Any] | None = None
    """How long a transfer went on after its grant was revoked."""
    checked_packets: int = 0
    """Memory mode: packets that came out byte for byte as they went in."""
    errors: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.errors

    def to_json(self) -> str:
        """Returns the report as one JSON object on one line."""
        value: dict[str, Any] = {
            "ok": self.ok,
            "mode": self.mode,
            "path": self.path,
            "connect_ms": self.connect_ms,
            "first_byte_ms": self.first_byte_ms,
            "page": self.page,
            "rtt_ms": self.rtt_ms,
            "throughput_gbps": self.throughput_gbps,
            "cpu_s_per_gb": self.cpu_s_per_gb,
            "resident_mib": self.resident_mib,
            "reached": self.reached,
            "refused": self.refused,
            "revoked": self.revoked,
            "checked_packets": self.checked_packets,
            "logs": self.logs,
            "errors": self.errors,
        }
        return json.dumps(value)

    def print_to(self, console: Console) -> None:
        """Prints the report as a table."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Firezone lab: " + ("it works" if self.ok else "it does not work"), show_header=False)
        for name, text in self._rows():
            table.add_row(name, Text(text, overflow="fold"))
        console.print(table)
        # Beside the table, which would break a long path that somebody wants to copy.
        console.print(f"logs: {self.logs}", highlight=False, soft_wrap=True)
        for error in self.errors:
            console.print(f"[red]error:[/red] {error}", highlight=False)

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("mode", self.mode), ("path", self.path)]
        if self.connect_ms is not None:
            if self.page:
                rows.append(("page fetched", self.page.strip()))
            rows.append(("connected after", f"{self.connect_ms:.1f} ms (flow, path and handshake included)"))
            rows.append(("first byte after", f"{self.first_byte_ms:.1f} ms"))
        for title, found in self.reached.items():
            rows.append((f"reached {title}", f"{found['host']}, connected after {found['connect_ms']:.1f} ms"))
        if self.refused is not None:
            refused = self.refused
            words = f"{refused['meaning']} (ICMP type {refused['type']} code {refused['code']} from {refused['from']})"
            rows.append(("refused", f"{refused['host']} port {refused['port']}: {words}"))
        if self.revoked is not None:
            rows.append(
                ("grant revoked", f"the transfer from {self.revoked['host']} stopped {self.revoked['stopped_after_s']:.3f} s later")
            )
        if self.checked_packets:
            rows.append(("packets checked", f"{self.checked_packets} byte for byte, ICMP, UDP and TCP, IPv4 and IPv6"))
        if self.rtt_ms:
            rows.append(("round trip", f"{self.rtt_ms['p50']:.2f} ms median, {self.rtt_ms['p99']:.2f} ms p99"))
        for way in ("up", "down"):
            if way in self.throughput_gbps:
                rows.append((f"TCP {way}", f"{self.throughput_gbps[way]:.2f} Gbit/s"))
        for name in ("client", "gateway", "both"):
            if name in self.cpu_s_per_gb:
                rows.append((f"{name} CPU", f"{self.cpu_s_per_gb[name]:.2f} s per GB"))
            if name in self.resident_mib:
                rows.append((f"{name} memory", f"{self.resident_mib[name]:.0f} MiB resident"))
        return rows
