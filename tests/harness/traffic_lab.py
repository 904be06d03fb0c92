"""Real traffic in the whole lab: `python -m tests.harness.traffic_lab` in fresh namespaces; prints what was found as JSON.

Portal, gateway, client, routers and servers are real, and everything happens in one lab, chapter after chapter. A chapter that
fails leaves its error in place of what it would have found; the others go on.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firezone.lab.access import SITE_ZONE, WIKI
from firezone.lab.namespaces import INSIDE, unshare_command
from firezone.lab.programs import Program, python, wait_until
from firezone.lab.stack import Stack
from firezone.lab.topology import GATEWAY_ADDRESS, RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6, RESOURCE_PORT
from tests.harness import traffic_gateways
from tests.harness import traffic_world as world
from tests.harness.traffic_tools import (
    PORT,
    Talk,
    addresses,
    answered_too_large,
    change_zone,
    counters,
    echoes,
    fits,
    gateways,
    matched,
    once,
    probe,
    restart,
    watched,
    ways_out,
)

if TYPE_CHECKING:
    from collections.abc import Callable


ROOT = Path(__file__).parents[2]
_WATCH = """
table inet watch {
  chain output {
    type filter hook output priority 300;
    oifname "tun-firezone" meta mark 0xfd002021 counter comment "marked into the tunnel"
    oifname "tun-firezone" udp sport 52625 counter comment "datagrams into the tunnel"
    oifname "tun-firezone" tcp dport 8081 counter comment "portal into the tunnel"
    oifname "eth0" meta nfproto ipv4 meta mark 0xfd002021 udp dport 52625 counter comment "v4 datagrams outside"
    oifname "eth0" meta nfproto ipv6 meta mark 0xfd002021 udp dport 52625 counter comment "v6 datagrams outside"
    oifname "eth0" tcp dport 8081 counter comment "portal outside"
  }
}
"""
_ROUGH = """
table ip rough {{
  chain forward {{
    type filter hook forward priority 0;
    udp dport 1-65535 {what}
  }}
}}
"""
_MARKED = """
table inet marked {
  chain input {
    type filter hook input priority 0;
    meta l4proto tcp ip ecn ce counter
  }
}
"""
_NO_IPV4 = """
table ip closed {
  chain forward {
    type filter hook forward priority 0; policy drop;
  }
}
"""


def run(timeout: float = 150.0) -> dict[str, Any]:
    """Runs all chapters and returns what each found. Raises AssertionError when the lab did not come up."""
    done = subprocess.run(
        [*unshare_command(), sys.executable, "-m", "tests.harness.traffic_lab"], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, INSIDE: "1", "PYTHONPATH": str(ROOT)}, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the lab failed:\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# chapters


def internet(stack: Stack) -> dict[str, Any]:
    """Everything goes to the gateway, but what the client itself sends."""
    client = stack.topology.client
    client.load_nft(_WATCH)
    found: dict[str, Any] = {"routes": ways_out(stack)}
    found["pages"] = [once(stack, host) for host in (world.PUBLIC_ADDRESS, world.PUBLIC_ADDRESS_V6)]
    refused = ("10.9.9.9", "172.16.0.9", "192.168.7.7", "169.254.1.1", "100.100.0.1", "fd12::1", "fd00:2021:1111::77")
    with ThreadPoolExecutor() as pool:
        found["refused"] = dict(
            zip(refused, pool.map(lambda host: probe(client, "attempt", "udp", host, "80"), refused), strict=True)
        )
    stack.client.process.send_signal(signal.SIGHUP)  # It logs in and connects anew while the tunnel is the way out.
    found["after a reset"] = wait_until(lambda: once(stack, world.PUBLIC_ADDRESS) == f"{world.PUBLIC_ADDRESS} {GATEWAY_ADDRESS} x",
                                        timeout=10)  # fmt: skip
    found["watched"] = watched(stack)
    return found


def internet_off(stack: Stack) -> dict[str, Any]:
    """Without the option the resource is there and nothing goes to it."""
    stack.client.stop()
    del stack.client.started_with[2]["FIREZONE_ACTIVATE_INTERNET_RESOURCE"]
    restart(stack, "client")
    return {"routes": ways_out(stack), "page": once(stack, world.PUBLIC_ADDRESS)}


def basics(stack: Stack) -> dict[str, Any]:
    """Pages, datagrams, questions and echoes by name and by address."""
    client = stack.topology.client
    found: dict[str, Any] = {}
    for family in ("-4", "-6"):
        words = ("curl", "-sS", family, "-m", "8", "-w", "%{http_code} %{remote_ip}", "-o", "/dev/null", f"http://{WIKI}/")
        found[f"curl {family}"] = client.run(*words).split()
    found["datagrams"] = {
        host: probe(client, "datagrams", host, str(PORT), "1", "1200", "1232", "1252" if v4 else "1232", "1253" if v4 else "1233")
        for host, v4 in ((WIKI, True), (world.V6_ONLY, False), (RESOURCE_ADDRESS, True), (RESOURCE_ADDRESS_V6, False))
    }
    for transport in ("+tcp", "+notcp"):
        for server in (RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6):
            answer = client.run("dig", "+short", "+tries=1", transport, f"@{server}", WIKI, "A")
            found.setdefault("questions", {})[f"{server} {transport}"] = answer.strip()
    for server in gateways(stack):
        for over in (("+notcp",), ("+tcp", "+keepopen")):
            question = ("dig", "+short", "+tries=1", *over, "-p", "53535", f"@{server}", WIKI, "TXT")
            answers = client.run(*question, WIKI, "TXT", WIKI, "TXT")
            found.setdefault("site questions", {})[f"{server} {over[0]}"] = answers.split("\n")[:-1]
    for host in (WIKI, RESOURCE_ADDRESS, RESOURCE_ADDRESS_V6, *gateways(stack), world.FAR, world.FAR_ADDRESS_V6):
        for family in ("-4", "-6"):
            if fits(host, family):
                found.setdefault("echoes", {})[f"{host} {family}"] = echoes(client, family, host)
    return found


def traces(stack: Stack) -> dict[str, Any]:
    """The way to a host behind the gateway and a router of the site, by name and by address."""
    client = stack.topology.client
    by_name = addresses(stack, world.FAR)
    hosts = {"name v4": by_name[0], "name v6": by_name[-1], "v4": world.FAR_ADDRESS, "v6": world.FAR_ADDRESS_V6}
    found: dict[str, Any] = {"proxies": [by_name[0], by_name[-1]]}
    for title, host in hosts.items():
        found[title] = {kind: probe(client, "trace", kind, host, "33434") for kind in ("udp", "icmp")}
    found["gateway"] = gateways(stack)
    return found


def path_mtu(stack: Stack) -> dict[str, Any]:
    """What is too big for the tunnel, for a link of the site, for the gateway's own link; and fragments."""
    client, resource = stack.topology.client, stack.topology.resource
    found: dict[str, Any] = {"mtu": json.loads(client.run("ip", "-json", "link", "show", "tun-firezone"))[0]["mtu"]}
    for title, host in (("v4", RESOURCE_ADDRESS), ("v6", RESOURCE_ADDRESS_V6)):
        found[f"back {title}"] = answered_too_large(client, resource, host)
    found["far by name"] = [
        addresses(stack, world.FAR)[0],
        probe(client, "error", addresses(stack, world.FAR)[0], str(PORT), "1200"),
    ]
    found["far by address"] = probe(client, "error", world.FAR_ADDRESS, str(PORT), "1200")
    narrow = addresses(stack, world.NARROW)[0]
    found["narrow by name"] = [narrow, probe(client, "error", narrow, str(PORT), "1200")]
    found["narrow by address"] = probe(client, "error", world.NARROW_ADDRESS, str(PORT), "1200")
    # Others, whose path nobody has been told of yet: a transfer has to find it out.
    uploads = {"far": addresses(stack, world.FAR)[1], "narrow": addresses(stack, world.NARROW)[1]}
    found["uploads"] = {name: Talk(client, "talk", host).ask("upload 300000") for name, host in uploads.items()}
    before = counters(stack)
    fragmented = client.command("ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-M", "dont", "-s", "2000", RESOURCE_ADDRESS)
    found["fragmented"] = subprocess.run(fragmented, capture_output=True, text=True, check=False).returncode
    after = counters(stack)
    found["fragments"] = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    return found


def lasting(stack: Stack) -> dict[str, Any]:
    """Connections that stay while everything around them changes."""
    client = stack.topology.client
    by_address, by_name = Talk(client, "talk", RESOURCE_ADDRESS), Talk(client, "talk", world.MOVING)
    datagrams = Talk(client, "exchange", addresses(stack, world.MOVING)[0])
    came_from = datagrams.ask("who")
    found: dict[str, Any] = {"name": [by_name.ask("first").split()[0]]}

    def check(title: str) -> None:
        found[title] = [by_address.ask(title), by_name.ask(title), datagrams.ask("who") == came_from]

    check("begin")
    Talk(client, "talk", world.ONE).ask("x")
    check("another-resource")
    since = stack.gateway.log.stat().st_size
    found["not renewed"] = renew_in_time(stack, renewed=("Site", world.MOVING), left=world.ONE)
    check("policy-renewed")
    stack.portal.kill()
    check("portal-away")
    stack.portal = stack.portal.restart()
    stack.gateway.wait_for("joined the portal", since=since)
    time.sleep(0.5)
    check("portal-back")
    change_zone(stack, f"{world.MOVING} A {RESOURCE_ADDRESS}", f"{world.MOVING} A {world.OTHER_ADDRESS}")
    start = time.monotonic()
    found["moved"] = wait_until(lambda: once(stack, world.MOVING).startswith(world.OTHER_ADDRESS), timeout=15)
    found["moved after"] = time.monotonic() - start
    check("name-moved")
    found["name"].append(Talk(client, "talk", world.MOVING).ask("second").split()[0])
    return found


def renew_in_time(stack: Stack, renewed: tuple[str, ...], left: str) -> list[str]:
    """Lets policies end in a few seconds, renews some of them before and waits until they would have ended.

    Returns what a connection to the resource of the policy that was left alone says before and after.
    """
    other = Talk(stack.topology.client, "talk", left)
    policy = stack.logs / "policy.toml"
    text = policy.read_text()

    def ends(resources: tuple[str, ...], when: datetime.datetime, text: str) -> str:
        for resource in resources:
            text = re.sub(rf'(\[\[policy\]\]\n[^\[]*?resource = "{resource}"\n)(expires = .*\n)?',
                          rf"\1expires = {when.isoformat()}\n", text)  # fmt: skip
        return text

    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=4)
    policy.write_text(ends((*renewed, left), end, text))
    time.sleep(1.5)
    said = [other.ask("x")]
    policy.write_text(ends(renewed, end.replace(year=2040), policy.read_text()))
    while datetime.datetime.now(datetime.UTC) < end + datetime.timedelta(seconds=0.7):
        time.sleep(0.05)
    said.append(other.ask("y"))
    policy.write_text(ends((left,), end.replace(year=2040), policy.read_text()))
    return said


def names(stack: Stack) -> dict[str, Any]:
    """Names that vanish, names of one family, two names of one address."""
    client = stack.topology.client
    # One source port for both: outside the gateway they are one client to one server.
    one, two = (Talk(client, "talk", name, "5555") for name in (world.ONE, world.TWO))
    found: dict[str, Any] = {"one": one.ask("1"), "two": two.ask("2"), "peers": [one.peer, two.peer]}
    found["again"] = [one.ask("upload 100000"), two.ask("upload 100000"), one.ask("1")]
    found["v6 only"] = once(stack, world.V6_ONLY)
    v6_only = addresses(stack, world.V6_ONLY)
    found["v4 of v6 only"] = [probe(client, "attempt", kind, v6_only[0], str(PORT)) for kind in ("tcp", "udp")]
    found["v6 of v4 only"] = [probe(client, "attempt", kind, addresses(stack, world.ONE)[-1], str(PORT)) for kind in ("tcp", "udp")]
    open_before = Talk(client, "talk", world.VANISHING)
    found["before"] = open_before.ask("x")
    change_zone(stack, f"{world.VANISHING} A {RESOURCE_ADDRESS}\n", "")

    def is_unreachable() -> str:
        addresses(stack, world.VANISHING)  # The question makes the client announce the name again.
        answer = once(stack, world.VANISHING)
        return answer if answer.isupper() else ""

    found["vanished"] = wait_until(is_unreachable, timeout=15)
    found["open one"] = open_before.ask("y")
    return found


def refusals(stack: Stack) -> dict[str, Any]:
    """What policy denies, and what is nowhere."""
    client = stack.topology.client
    denied = {"name": "locked.lab.internal", "v4": "10.22.0.9", "v6": "fd20:22::9"}
    found = {title: [probe(client, "attempt", kind, host, "8022") for kind in ("tcp", "udp")] for title, host in denied.items()}
    for title, host in {"away v4": "10.30.0.9", "away v6": "fd20:30::9", "away name": "away.lab.internal"}.items():
        found[title] = [probe(client, "attempt", kind, host, "80") for kind in ("tcp", "udp")]
    return found


def rough(stack: Stack) -> dict[str, Any]:
    """Transfers while the network loses packets, and while it marks them instead."""
    client, resource, router = stack.topology.client, stack.topology.resource, stack.topology.router
    for host in (client, stack.topology.gateway):
        host.run("ip", "link", "set", "eth0", "gso_max_segs", "1")  # Every packet meets its own fate.
    router.load_nft(_ROUGH.format(what="numgen inc mod 20 == 0 counter drop"))
    found: dict[str, Any] = {"lossy": probe(client, "transfer", addresses(stack, world.TWO)[0], str(PORT), "5000000")}
    found["lost"] = matched(router, "ip", "rough")
    router.run("nft", "delete", "table", "ip", "rough")
    client.switch_on("net/ipv4/tcp_ecn")
    router.load_nft(_ROUGH.format(what="ip ecn ect0 numgen inc mod 20 == 0 counter ip ecn set ce"))
    for host in (client, resource):
        host.load_nft(_MARKED)
    found["marking"] = probe(client, "transfer", addresses(stack, world.TWO)[0], str(PORT), "2000000")
    router.run("nft", "delete", "table", "ip", "rough")
    for name, host in (("client", client), ("resource", resource)):
        found[f"marked at the {name}"] = matched(host, "inet", "marked")
        found[f"bad at the {name}"] = host.run("nstat", "-asz", "TcpInCsumErrors").split()[-2]
    for host in (client, stack.topology.gateway):
        host.run("ip", "link", "set", "eth0", "gso_max_segs", "65535")
    return found


def revoked(stack: Stack) -> dict[str, Any]:
    """A grant that ends takes its running transfers along, and nobody else's."""
    kept = Talk(stack.topology.client, "talk", world.FAR)
    kept.ask("x")
    found: dict[str, Any] = {}
    streams: dict[str, Program] = {}
    for resource, host in (("Site", RESOURCE_ADDRESS), ("Site v6", RESOURCE_ADDRESS_V6), ("Wiki", WIKI)):
        name = f"stream-{resource.replace(' ', '-')}"
        command = python("firezone.lab.stream", host, str(RESOURCE_PORT))
        streams[resource] = Program.start(name, stack.topology.client, command, stack.logs)
        streams[resource].wait_for("receiving")
    policy = stack.logs / "policy.toml"
    changed = {}
    for resource in streams:
        edit = python("firezone.portal", "policy", "disable", "--config", str(policy), f"Everyone:{resource}")
        subprocess.run(edit, check=True, capture_output=True)
        changed[resource] = policy.stat().st_mtime
    for resource, stream in streams.items():
        ended = json.loads(stream.wait_for(r'\{"bytes".*\}', timeout=15))
        found[resource] = {"after": ended["last_byte_at"] - changed[resource], "bytes": ended["bytes"], "by": ended["ended_by"]}
    found["kept"] = kept.ask("y")
    edit = python("firezone.portal", "policy", "enable", "--config", str(policy), "Everyone:Site")
    subprocess.run(edit, check=True, capture_output=True)
    found["granted again"] = wait_until(lambda: once(stack, RESOURCE_ADDRESS).endswith(" x"), timeout=5)
    return found


def internet_by_v6(stack: Stack) -> dict[str, Any]:
    """The Internet resource once more, with portal and gateway reached by IPv6 alone."""
    world.give_ipv6(stack)
    stack.topology.router.load_nft(_NO_IPV4)
    for name in ("client", "gateway", "portal"):
        getattr(stack, name).stop()
    command = stack.portal.started_with[1]
    command[command.index("--bind") + 1] = f"[{world.PORTAL_ADDRESS_V6}]:8081"
    url = f"ws://[{world.PORTAL_ADDRESS_V6}]:8081"
    stack.portal = stack.portal.restart()
    stack.portal.wait_for("listening")
    for name in ("gateway", "client"):
        getattr(stack, name).started_with[2].update({"FIREZONE_API_URL": url, "FIREZONE_ACTIVATE_INTERNET_RESOURCE": "true"})
        restart(stack, name)
    before = watched(stack)
    found: dict[str, Any] = {"routes": ways_out(stack)}
    found["pages"] = [once(stack, host) for host in (world.PUBLIC_ADDRESS, world.PUBLIC_ADDRESS_V6)]
    stack.client.process.send_signal(signal.SIGHUP)
    found["after a reset"] = wait_until(lambda: once(stack, world.PUBLIC_ADDRESS).endswith(" x"), timeout=10)
    found["watched"] = {key: count - before[key] for key, count in watched(stack).items()}
    return found


CHAPTERS: tuple[Callable[[Stack], dict[str, Any]], ...] = (
    internet, internet_off, basics, traces, path_mtu, lasting, names, rough, refusals, revoked,
    traffic_gateways.failover, internet_by_v6,
)  # fmt: skip


def main() -> None:
    logs = Path(tempfile.mkdtemp(prefix="firezone-traffic-"))
    stack = Stack.start(logs, lambda step: print(step, file=sys.stderr), has_names=True)
    wanted = sys.argv[1:]
    try:
        far = world.extend(stack)
        (logs / "site.zone").write_text(SITE_ZONE + world.ZONE)
        with (logs / "policy.toml").open("a") as policy:
            policy.write(world.policy())
        stack.client.wait_for(r"resources .*count=21", timeout=10)
        found: dict[str, Any] = {}
        for chapter in CHAPTERS:
            if wanted and chapter.__name__ not in wanted:
                continue
            start = time.monotonic()
            try:
                found[chapter.__name__] = chapter(stack)
            except Exception:
                found[chapter.__name__] = {"failed": traceback.format_exc()}
            print(f"{chapter.__name__}: {time.monotonic() - start:.1f} s", file=sys.stderr)
        found["complaints"] = stack.complaints()
        print(json.dumps(found))
        far.close()
    except BaseException:
        for name in ("client", "gateway", "portal"):
            print(getattr(stack, name).quote(30), file=sys.stderr)
        raise
    finally:
        stack.close()
        shutil.rmtree(logs, ignore_errors=True)


if __name__ == "__main__":
    main()
