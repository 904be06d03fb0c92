"""The demo: starts everything, fetches the page through the tunnel, measures, and tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firezone.base.errors import FirezoneError
from firezone.lab.access import show_access
from firezone.lab.measure import fetch_page, ping, start_iperf, throughput
from firezone.lab.report import Report
from firezone.lab.stack import Stack
from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6, RESOURCE_PORT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def run_demo(logs: Path, seconds: float, progress: Callable[[str], None], *, is_relayed: bool = False) -> Report:
    """Runs the whole demo inside the lab's namespaces, without any direct path if so asked. What goes wrong is in the report."""
    report = Report("namespaces, real TUN devices", str(logs))
    stack: Stack | None = None
    try:
        stack = Stack.start(logs, progress, is_relayed=is_relayed, has_names=True)
        _measure(stack, report, seconds, progress)
        if is_relayed != report.path.startswith("relayed"):
            report.errors.append(f"The path is not what was asked for: {report.path}.")
        report.errors += stack.complaints()
    except FirezoneError as error:
        report.errors.append(str(error))
    finally:
        if stack is not None:
            progress("ending")
            stack.close()
    return report


def _measure(stack: Stack, report: Report, seconds: float, progress: Callable[[str], None]) -> None:
    client = stack.topology.client
    progress("fetching the page through the tunnel")
    page = fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)
    report.page = str(page["body"])
    report.connect_ms, report.first_byte_ms = page["connect_ms"], page["first_byte_ms"]
    if page["status"] != 200 or "Hello" not in report.page:
        report.errors.append(f"The page came back wrong: status {page['status']}.")
    fetch_page(client, RESOURCE_ADDRESS_V6, RESOURCE_PORT)
    report.path = stack.path()
    progress("round trips")
    report.rtt_ms = {name: value for name, value in ping(client, RESOURCE_ADDRESS).items() if name != "lost"}
    iperf = start_iperf(stack.topology.resource, stack.logs)
    programs = {"client": stack.client, "gateway": stack.gateway}
    before = {name: program.cpu_seconds() for name, program in programs.items()}
    moved = 0
    for way, reverse in (("up", False), ("down", True)):
        progress(f"throughput {way}, {seconds:.0f} s")
        result = throughput(client, RESOURCE_ADDRESS, seconds, reverse=reverse)
        report.throughput_gbps[way] = round(result["gbps"], 3)
        moved += result["bytes"]
    for name, program in programs.items():
        report.cpu_s_per_gb[name] = round((program.cpu_seconds() - before[name]) / (moved / 1e9), 3)
        report.resident_mib[name] = round(program.resident_mib(), 1)
    iperf.stop()
    show_access(stack, report, progress)
