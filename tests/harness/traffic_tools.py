"""What the chapters of `traffic_lab` look with: probes, connections that stay, names, counters."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from firezone.lab.programs import python, wait_until
from tests.harness import traffic_world as world

if TYPE_CHECKING:
    from firezone.lab.namespaces import Namespace
    from firezone.lab.stack import Stack

PORT = world.PORT


def probe(host: Namespace, *words: str) -> Any:
    """Runs a probe on a host and returns what it found."""
    return json.loads(host.run(*python("tests.harness.traffic_probe", *words)).splitlines()[-1])


class Talk:
    """A connection, or a datagram socket, that a program on the client's host holds."""

    def __init__(self, host: Namespace, kind: str, *words: str) -> None:
        command = host.command(*python("tests.harness.traffic_probe", kind, words[0], str(PORT), *words[1:]))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peer = self._next()["peer"]

    def ask(self, line: str) -> str:
        """Sends a line and returns what came back, or the name of the error."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return str(self._next())

    def _next(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def once(stack: Stack, host: str) -> str:
    """Connects to a host and returns its answer to `x`, or the name of the error."""
    return str(probe(stack.topology.client, "ask", host, str(PORT), "x"))


def fits(host: str, family: str) -> bool:
    """Whether a host may have an address of the family: names have both."""
    return not (":" in host and family == "-4") and not (host[0].isdigit() and family == "-6")


def echoes(client: Namespace, family: str, host: str) -> bool:
    """Whether three echo requests of 1000 bytes are answered."""
    command = client.command("ping", family, "-n", "-c", "3", "-i", "0.1", "-W", "2", "-s", "900", host)
    return "3 received" in subprocess.run(command, capture_output=True, text=True, check=False).stdout


def answered_too_large(client: Namespace, resource: Namespace, host: str) -> Any:
    """Lets the resource answer a datagram with 1400 bytes; returns the ICMP error that it gets."""
    command = resource.command(*python("tests.harness.traffic_probe", "large", "7778", "1400", host))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        probe(client, "attempt", "udp", host, "7778")
        return json.loads(server.stdout.readline())


def addresses(stack: Stack, name: str) -> list[str]:
    """Returns what a name resolves to, IPv4 first."""
    answers = [stack.topology.client.run("dig", "+short", "+tries=1", "+time=5", name, kind) for kind in ("A", "AAAA")]
    return " ".join(answers).split()


def gateways(stack: Stack) -> list[str]:
    """Returns the gateway's tunnel addresses."""
    links = json.loads(stack.topology.gateway.run("ip", "-json", "addr", "show", "dev", "tun-firezone"))
    return [address["local"] for address in links[0]["addr_info"] if address["scope"] == "global"]


def change_zone(stack: Stack, before: str, after: str) -> None:
    zone = stack.logs / "site.zone"
    text = zone.read_text()
    assert before in text
    zone.write_text(text.replace(before, after))


def ways_out(stack: Stack) -> list[str]:
    """Returns the devices by which hosts of the Internet are reached, or `none`."""
    found = []
    for host in (world.PUBLIC_ADDRESS, world.PUBLIC_ADDRESS_V6):
        way = subprocess.run(stack.topology.client.command("ip", "route", "get", host), capture_output=True, text=True, check=False)
        found.append("none" if way.returncode else way.stdout.split("dev ")[1].split()[0])
    return found


def watched(stack: Stack) -> dict[str, int]:
    """Returns how many packets of its own the client has sent which way."""
    text = stack.topology.client.run("nft", "list", "table", "inet", "watch")
    return {title: int(packets) for packets, title in re.findall(r'packets (\d+) .*comment "(.*)"', text)}


def matched(host: Namespace, family: str, table: str) -> int:
    """Returns how many packets the counter of a table has seen."""
    return int(re.findall(r"packets (\d+)", host.run("nft", "list", "table", family, table))[0])


def counters(stack: Stack) -> dict[str, int]:
    """Returns the running client's counters, flat."""
    file = stack.logs / "client.counters.json"
    file.unlink(missing_ok=True)
    stack.client.process.send_signal(signal.SIGUSR2)
    text = wait_until(lambda: file.exists() and file.read_text(), timeout=5)
    return dict(flatten("", json.loads(text)))


def flatten(prefix: str, value: Any) -> list[tuple[str, int]]:
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in flatten(f"{prefix}.{key}".strip("."), part)]
    return [(prefix, value)] if isinstance(value, int) else []


def restart(stack: Stack, name: str) -> None:
    since = getattr(stack, name).log.stat().st_size
    program = getattr(stack, name).restart()
    program.wait_for("tunnel configured", since=since)
    setattr(stack, name, program)
