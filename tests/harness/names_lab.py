"""Names in the whole lab: `python -m tests.harness.names_lab CHAPTER` in fresh namespaces; prints what was found as JSON.

Portal, gateway, client, a name server in the site and one of the client's network are real; questions come from `dig`, `getent` and
programs, and the client's host has a resolv.conf that the client takes over.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firezone.lab.access import APP, ARCHIVE, SITE_ZONE, WIKI
from firezone.lab.measure import MeasurementError, fetch_page
from firezone.lab.namespaces import INSIDE, unshare_command
from firezone.lab.programs import Program, python, wait_until
from firezone.lab.stack import PORTAL_PORT, Stack, start_tunnel_in
from firezone.lab.topology import LOCKED_ADDRESS, PORTAL_ADDRESS, RESOURCE_ADDRESS, RESOURCE_PORT

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
V6_ONLY, BIG, SRV, PLAIN = "v6only.lab.internal", "big.apps.lab.internal", "srv.apps.lab.internal", "plain.site.example"
MORE_NAMES = f"""
{V6_ONLY} AAAA fd20:20::2
{SRV} SRV 1 2 80 {WIKI}.
{PLAIN} A 10.20.0.7
big.site.example TXT {" ".join(['"' + "x" * 250 + '"'] * 8)}
{BIG} TXT {" ".join(['"' + "y" * 250 + '"'] * 8)}
"""
V6_RESOURCE = f"""
[[resource]]
name = "V6 only"
address = "{V6_ONLY}"
sites = ["Lab"]

[[policy]]
group = "Everyone"
resource = "V6 only"
"""
DROPPED = "udp dport 53 drop\n tcp dport 53 drop\n"
FLOOD_DATAGRAMS, FLOOD_NAMES = 20_000, 100_000


def run(chapter: str, timeout: float = 150.0) -> dict[str, Any]:
    """Runs a chapter and returns what it found. Raises AssertionError with its output when it failed."""
    done = subprocess.run(
        [*unshare_command(), sys.executable, "-m", "tests.harness.names_lab", chapter], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)}, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{chapter} failed:\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# chapters


def ask(stack: Stack) -> dict[str, Any]:
    """Every kind of question, the first one while no gateway is connected."""
    found: dict[str, Any] = {"txt of an unconnected site": dig(stack, WIKI, "TXT")}
    found["txt over tcp"] = dig(stack, WIKI, "TXT", "+tcp")
    found["srv"], found["srv over tcp"] = dig(stack, SRV, "SRV"), dig(stack, SRV, "SRV", "+tcp")
    found["big"] = len(dig(stack, BIG, "TXT"))
    found["big, datagram only"] = whole(stack, BIG, "TXT", "+ignore")
    found["page"] = as_written(stack, (ROOT / "docs" / "dns.md").read_text())
    first = dig(stack, WIKI, "A")
    found["a"], found["a again"], found["a over tcp"] = first, dig(stack, WIKI, "A"), dig(stack, WIKI.upper(), "A", "+tcp")
    found["aaaa"] = dig(stack, APP, "AAAA")
    found["getent"] = stack.topology.client.run("getent", "ahostsv4", WIKI)
    found["ptr"] = dig(stack, "-x", first.split()[0])
    found["https"], found["mx"] = whole(stack, WIKI, "HTTPS"), whole(stack, WIKI, "MX")
    found["canary"] = whole(stack, "use-application-dns.net", "A")
    found["public"] = dig(stack, "www.public.example", "A")
    found["no such name"] = whole(stack, "nobody.public.example", "A")
    found["whole a"] = whole(stack, WIKI, "A")
    return found


def reach(stack: Stack) -> dict[str, Any]:
    """Pages by name, a name of one family only, and one whose address changes."""
    client = stack.topology.client
    found: dict[str, Any] = {"v6 only": fetch_page(client, V6_ONLY, RESOURCE_PORT)["body"]}
    try:
        fetch_page(client, dig(stack, V6_ONLY, "A").split()[0], RESOURCE_PORT, timeout=5)
    except MeasurementError as error:
        found["v4 of v6 only"] = str(error)
    elsewhere = ["python3", "-m", "http.server", "8081", "--bind", LOCKED_ADDRESS, "--directory", str(stack.logs)]
    web = Program.start("elsewhere", stack.topology.resource, elsewhere, stack.logs)
    found["before the change"] = opens(stack, ARCHIVE, 8081)
    zone = (stack.logs / "site.zone").read_text().replace(f"{ARCHIVE} A {RESOURCE_ADDRESS}", f"{ARCHIVE} A {LOCKED_ADDRESS}")
    (stack.logs / "site.zone").write_text(zone)
    start = time.monotonic()
    found["changed"] = bool(wait_until(lambda: opens(stack, ARCHIVE, 8081), timeout=60))
    found["changed after"] = time.monotonic() - start
    web.stop()
    return found


def upstream(stack: Stack) -> dict[str, Any]:
    """A server of the portal's that stands behind a gateway: asked through the tunnel."""
    found: dict[str, Any] = {"before": whole(stack, PLAIN, "A"), "sentinel before": sentinels(stack)}
    policy = stack.logs / "policy.toml"
    text = policy.read_text()
    line = f'upstream_dns = ["{RESOURCE_ADDRESS}:53"]'
    text, changes = re.subn(r"^#?\s*upstream_dns = .*$", line, text, count=1, flags=re.M)
    policy.write_text(text if changes else text.replace("[account]\n", f"[account]\n{line}\n", 1))
    assert wait_until(lambda: sentinels(stack) != found["sentinel before"], timeout=10), "the client has not been told"
    found["sentinel after"] = sentinels(stack)
    found["udp"], found["tcp"] = dig(stack, PLAIN, "A"), dig(stack, PLAIN, "A", "+tcp")
    found["big"] = len(dig(stack, "big.site.example", "TXT"))
    found["public"] = whole(stack, "www.public.example", "A")
    found["resource"] = dig(stack, WIKI, "A")
    stack.topology.resource.load_nft(f"table ip silent {{\n chain in {{ type filter hook input priority 0;\n {DROPPED} }}\n}}\n")
    start = time.monotonic()
    found["silent"] = whole(stack, "other.site.example", "A", "+time=15")
    found["silent after"] = time.monotonic() - start
    return found


def endure(stack: Stack) -> dict[str, Any]:
    """Garbage and a multitude of names, a kill, and a login by name while the machine's DNS is the client's."""
    client = stack.topology.client
    fetch_page(client, WIKI, RESOURCE_PORT)
    found: dict[str, Any] = {"resident before": stack.client.resident_mib()}
    flood = client.command(*python("tests.harness.names_lab", "flood", sentinels(stack)[0]))
    subprocess.run(flood, check=True, cwd=ROOT)
    found["resident after"] = stack.client.resident_mib()
    found["after the flood"] = dig(stack, WIKI, "A")
    found["page after the flood"] = fetch_page(client, WIKI, RESOURCE_PORT)["status"]
    stack.client.kill()
    found["file of a killed client"] = resolv_conf(stack)
    since = stack.client.log.stat().st_size
    stack.client = stack.client.restart()
    stack.client.wait_for("tunnel configured", since=since)
    found["page after the kill"] = fetch_page(client, APP, RESOURCE_PORT)["status"]
    stack.client.stop()
    found["file after the end"] = resolv_conf(stack)
    url = f"ws://portal.public.example:{PORTAL_PORT}"
    since = stack.client.log.stat().st_size
    stack.client = start_tunnel_in(client, "client", stack.logs, stack.tokens["client"], url, is_internet_active=True)
    stack.client.wait_for("tunnel configured", since=since)
    fetch_page(client, "www.public.example", RESOURCE_PORT)  # The way out is the gateway's now.
    since = stack.client.log.stat().st_size
    stack.gateway.kill()  # Nothing is reached through the tunnel any more.
    stack.portal.kill()
    stack.portal = stack.portal.restart()
    found["joined again"] = stack.client.wait_for("joined the portal", timeout=30, since=since)
    return found


CHAPTERS: dict[str, Callable[[Stack], dict[str, Any]]] = {
    "ask": ask, "reach": reach, "upstream": upstream, "endure": endure,
}  # fmt: skip


# what they are told with


def as_written(stack: Stack, page: str) -> list[tuple[str, str, str]]:
    """Runs the commands of a page's console blocks; returns each with the output that the page says and the one that came."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        for example in block.split("$ ")[1:]:
            command, _, expected = example.partition("\n")
            found.append((command, expected.strip(), stack.topology.client.run("sh", "-c", command).strip()))
    return found


def dig(stack: Stack, *words: str) -> str:
    """Returns what `dig +short` says."""
    return stack.topology.client.run("dig", "+short", "+tries=1", "+time=12", *words).strip()


def whole(stack: Stack, *words: str) -> str:
    """Returns all that dig says."""
    return stack.topology.client.run("dig", "+tries=1", "+time=12", *words)


def opens(stack: Stack, name: str, port: int) -> bool:
    """Asks for a name anew and tells whether its port takes a connection."""
    try:
        return bool(fetch_page(stack.topology.client, name, port, timeout=3)["status"] == 200)
    except MeasurementError:
        time.sleep(1)
        return False


def resolv_conf(stack: Stack) -> str:
    return stack.topology.client.run("cat", "/etc/resolv.conf")


def sentinels(stack: Stack) -> list[str]:
    return re.findall(r"^nameserver (\S+)", resolv_conf(stack), flags=re.M)


def flood(sentinel: str) -> None:
    """Sends garbage, then questions for different names below a resource, without waiting for answers."""
    import dns.message

    dice = random.Random(5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((sentinel, 53))
        sock.setblocking(False)
        for number in range(FLOOD_DATAGRAMS + FLOOD_NAMES):
            if number < FLOOD_DATAGRAMS:
                message = dice.randbytes(dice.randrange(1, 600))
            else:
                message = dns.message.make_query(f"n{number}.apps.lab.internal", "A").to_wire()
            try:
                sock.send(message)
            except BlockingIOError:
                time.sleep(0.001)
            if number % 20 == 0:
                time.sleep(0.002)
    time.sleep(1)


def main(chapter: str) -> None:
    logs = Path(tempfile.mkdtemp(prefix="firezone-names-"))
    stack = Stack.start(logs, lambda step: print(step, file=sys.stderr), has_names=True)
    try:
        (logs / "site.zone").write_text(SITE_ZONE + MORE_NAMES)
        (logs / "public.zone").write_text(f"www.public.example A {PORTAL_ADDRESS}\nportal.public.example A {PORTAL_ADDRESS}\n")
        with (logs / "policy.toml").open("a") as policy:
            policy.write(V6_RESOURCE)
        if chapter == "reach":
            stack.client.wait_for(r"resources .*count=8", timeout=10)
        found = CHAPTERS[chapter](stack)
        assert not stack.complaints() or chapter == "endure", stack.complaints()
        print(json.dumps(found))
    except BaseException:
        for name in ("client", "gateway", "portal"):
            print(getattr(stack, name).quote(30), file=sys.stderr)
        raise
    finally:
        stack.close()
        shutil.rmtree(logs, ignore_errors=True)


if __name__ == "__main__":
    if sys.argv[1] == "flood":
        flood(sys.argv[2])
    else:
        main(sys.argv[1])
