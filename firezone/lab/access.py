"""What the demo shows of names and policies: who is reached by what, who is not, and how fast a grant ends."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firezone.lab.measure import MeasurementError, fetch_page
from firezone.lab.programs import Program, python
from firezone.lab.topology import (
    GATEWAY_ADDRESS,
    LOCKED_ADDRESS,
    PORTAL_ADDRESS,
    RESOURCE_ADDRESS,
    RESOURCE_ADDRESS_V6,
    RESOURCE_PORT,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from firezone.lab.report import Report
    from firezone.lab.stack import Stack
    from firezone.lab.topology import Topology

WIKI, WILDCARD, APP, LOCKED, ARCHIVE = (
    "wiki.lab.internal", "*.apps.lab.internal", "blog.apps.lab.internal", "locked.lab.internal", "archive.lab.internal",
)  # fmt: skip
CLOSED_PORT = 8022
"""Of the locked resource, whose policy opens the web server's port alone."""
REVOKED_WITHIN_S = 1.0
STOP_TIMEOUT_S = 15.0

SITE_ZONE = f"""
{WIKI} A {RESOURCE_ADDRESS}
{WIKI} AAAA {RESOURCE_ADDRESS_V6}
{WIKI} TXT "spoken in the site"
{WILDCARD} A {RESOURCE_ADDRESS}
{LOCKED} A {LOCKED_ADDRESS}
{ARCHIVE} A {RESOURCE_ADDRESS}
"""
"""What the name server of the site knows."""
PUBLIC_ZONE = f"www.public.example A {PORTAL_ADDRESS}\n"
"""What the one of the client's network knows: nothing of the site."""

POLICY = f"""
[[resource]]
name = "Wiki"
address = "{WIKI}"
sites = ["Lab"]

[[resource]]
name = "Apps"
address = "{WILDCARD}"
sites = ["Lab"]

[[resource]]
name = "Locked"
address = "{LOCKED}"
filters = ["tcp/{RESOURCE_PORT}"]
sites = ["Lab"]

[[resource]]
name = "Archive"
address = "{ARCHIVE}"
sites = ["Lab"]

[[resource]]
name = "Internet"
internet = true
sites = ["Lab"]
""" + "".join(
    f'\n[[policy]]\ngroup = "Everyone"\nresource = "{name}"\n' for name in ("Wiki", "Apps", "Locked", "Archive", "Internet")
)


_SITE_SIDE = ("10.20.0.1", "fd20:20::1")


@dataclass(frozen=True, slots=True)
class Way:
    """One way to a page."""

    title: str
    """As in the report."""
    host: str
    peers: tuple[str, ...]
    """Whom the server may see: the gateway, on that side of it."""


WAYS = (
    Way("by name", WIKI, _SITE_SIDE),
    Way("by wildcard", APP, _SITE_SIDE),
    Way("by name, one port open", LOCKED, _SITE_SIDE),
    Way("through the Internet resource", "www.public.example", (GATEWAY_ADDRESS,)),
)


def show_access(stack: Stack, report: Report, progress: Callable[[str], None]) -> None:
    """Fetches a page by every way, is refused, and lets a grant be revoked under a running transfer."""
    client = stack.topology.client
    for way in WAYS:
        progress(f"fetching a page {way.title}: {way.host}")
        page = fetch_page(client, way.host, RESOURCE_PORT)
        report.reached[way.title] = {"host": way.host, "connect_ms": page["connect_ms"], "page": page["body"]}
        if page["status"] != 200 or not any(f"You came as {peer}," in page["body"] for peer in way.peers):
            report.errors.append(f"The page {way.title} is not what was expected: {page['body']!r}.")
    progress(f"asking for a port that is closed: {LOCKED} port {CLOSED_PORT}")
    report.refused = _refused(stack)
    if report.refused is None or report.refused["meaning"] != "communication administratively prohibited":
        report.errors.append(f"The closed port was not refused as it should be: {report.refused}.")
    progress("revoking a grant under a running transfer")
    report.revoked = _revoke(stack)
    if report.revoked["stopped_after_s"] > REVOKED_WITHIN_S:
        report.errors.append(f"The transfer went on for {report.revoked['stopped_after_s']} s after its grant was revoked.")


def _refused(stack: Stack) -> dict[str, Any] | None:
    command = stack.topology.client.command(*python("firezone.lab.refusal", LOCKED, str(CLOSED_PORT), "5"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"The closed port could not be asked for: {done.stderr.strip()}")
    found: dict[str, Any] | None = json.loads(done.stdout)
    return None if found is None else {"host": LOCKED, "port": CLOSED_PORT, **found}


def _revoke(stack: Stack) -> dict[str, Any]:
    """Disables the policy while the stream runs; the time counts from the moment the policy file is another."""
    stream = Program.start("stream", stack.topology.client, python("firezone.lab.stream", ARCHIVE, str(RESOURCE_PORT)), stack.logs)
    stream.wait_for("receiving")
    policy = stack.logs / "policy.toml"
    command = python("firezone.portal", "policy", "disable", "--config", str(policy), "Everyone:Archive")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MeasurementError(f"The policy could not be disabled: {done.stderr.strip() or done.stdout.strip()}")
    line = stream.wait_for(r'\{"bytes".*\}', timeout=STOP_TIMEOUT_S)
    found = json.loads(line)
    stopped_after = max(0.0, found["last_byte_at"] - policy.stat().st_mtime)
    return {"host": ARCHIVE, "stopped_after_s": round(stopped_after, 3), "bytes": found["bytes"], "ended_by": found["ended_by"]}


def start_surroundings(topology: Topology, logs: Path) -> list[Program]:
    """Starts the name servers of the site and of the client's network, and a web server out there."""
    (logs / "site.zone").write_text(SITE_ZONE)
    (logs / "public.zone").write_text(PUBLIC_ZONE)
    site = python("firezone.lab.name_server", f"{RESOURCE_ADDRESS},{RESOURCE_ADDRESS_V6}", str(logs / "site.zone"))
    public = python("firezone.lab.name_server", PORTAL_ADDRESS, str(logs / "public.zone"))
    programs = [
        Program.start("site-names", topology.resource, site, logs),
        Program.start("public-names", topology.public, public, logs),
        Program.start("public-web", topology.public, python("firezone.lab.web", str(RESOURCE_PORT)), logs),
    ]
    for program in programs:
        program.wait_for("listening")
    return programs
