"""Two gateways of one site, and none: the chapter of `traffic_lab` in which gateways end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from firezone.lab.namespaces import Namespace
from firezone.lab.programs import Program
from firezone.lab.topology import RESOURCE_ADDRESS
from tests.harness import traffic_world as world
from tests.harness.traffic_tools import PORT, once, probe, restart

if TYPE_CHECKING:
    from firezone.lab.stack import Stack

SECOND_GATEWAY = "10.24.0.2"
"""Whom the resource sees when the second gateway serves."""


def failover(stack: Stack) -> dict[str, Any]:
    """A gateway says goodbye, another is killed; then there is none, and one again."""
    host, second = start_second(stack)
    found: dict[str, Any] = {"at first": once(stack, RESOURCE_ADDRESS)}
    stack.gateway.stop()
    found["after the goodbye"] = timed(stack, RESOURCE_ADDRESS)
    found["by name"] = timed(stack, world.TWO)
    restart(stack, "gateway")
    second.kill()
    found["after the kill"] = timed(stack, RESOURCE_ADDRESS, timeout=40)
    stack.gateway.stop()
    found["none is left"] = [probe(stack.topology.client, "attempt", kind, RESOURCE_ADDRESS, str(PORT)) for kind in ("tcp", "udp")]
    restart(stack, "gateway")
    found["one again"] = timed(stack, RESOURCE_ADDRESS)
    host.close()
    return found


def timed(stack: Stack, host: str, timeout: float = 10) -> tuple[str, float]:
    """Asks until there is an answer; returns it and the seconds that took."""
    start = time.monotonic()
    answer = ""
    while not answer.endswith(" x") and time.monotonic() < start + timeout:
        answer = once(stack, host)
    return answer, time.monotonic() - start


def start_second(stack: Stack) -> tuple[Namespace, Program]:
    """Puts another gateway, on a host without IPv6, between the public segment and the resource. Raises ConfigError."""
    public, resource = stack.topology.public, stack.topology.resource
    host = Namespace.create("gateway-2", name_server=RESOURCE_ADDRESS)
    public.run_lines(f"""
        ip link add to-gateway-2 type veth peer name eth0 netns {host.holder.pid}
        ip link set to-gateway-2 master segment up
    """)
    resource.run_lines(f"""
        ip link add second type veth peer name site netns {host.holder.pid}
        ip addr add 10.24.0.1/24 dev second
        ip link set second up
    """)
    for where in ("all", "default"):
        host.switch_on(f"net/ipv6/conf/{where}/disable_ipv6")
    host.run_lines(f"""
        ip addr add 198.51.100.6/24 dev eth0
        ip link set eth0 up
        ip addr add {SECOND_GATEWAY}/24 dev site
        ip link set site up
        ip route add 10.20.0.0/24 via 10.24.0.1
    """)
    _, command, environment = stack.gateway.started_with
    own = {"FIREZONE_ID": "lab-gateway-2", "FIREZONE_NAME": "lab gateway 2", "LOG_DIR": str(stack.logs / "second"),
           "FIREZONE_COUNTERS_FILE": ""}  # fmt: skip
    program = Program.start("gateway-2", host, command, stack.logs, {**environment, **own})
    program.wait_for("tunnel configured")
    stack.others.append(program)
    return host, program
