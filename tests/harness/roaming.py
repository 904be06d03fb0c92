"""Scenarios in which the client or the gateway of the lab gets another network, under a flow of 50 packets a second."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from firezone.lab.measure import fetch_page, wait_for_page
from firezone.lab.programs import Program, python
from firezone.lab.stack import Stack
from firezone.lab.topology import CLIENT_ADDRESS, GATEWAY_ADDRESS, PORTAL_ADDRESS, RESOURCE_ADDRESS, RESOURCE_PORT

INTERVAL_S = 0.02
BEFORE_S = 1.0
RETRY_LIMIT_S = 40.0


class Flow:
    """Echo requests at a steady 50 a second, through the tunnel."""

    def __init__(self, stack: Stack, seconds: float) -> None:
        command = ["ping", "-n", "-D", "-i", str(INTERVAL_S), "-w", str(int(seconds)), RESOURCE_ADDRESS]
        self._process = subprocess.Popen(
            stack.topology.client.command(*command), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def longest_gap(self) -> float:
        """Waits for the end and returns the longest time without an answer; the time to the end of the flow counts as well."""
        text, _ = self._process.communicate()
        ended = time.time()
        times = [float(match) for match in re.findall(r"^\[([0-9.]+)\] .* bytes from", text, re.MULTILINE)]
        assert len(times) > 1, text[-500:]
        return round(max(after - before for before, after in zip(times, [*times[1:], ended], strict=True)), 2)


def _under_flow(stack: Stack, seconds: float, change: Callable[[], None]) -> dict[str, Any]:
    """Makes a change under a running flow; returns its longest gap and whether and how often the client started over."""
    fetch_page(stack.topology.client, RESOURCE_ADDRESS, RESOURCE_PORT)
    began = said(stack.client, "resetting")
    flow = Flow(stack, seconds)
    time.sleep(BEFORE_S)
    change()
    return {
        "gap_s": flow.longest_gap(), "resets": said(stack.client, "resetting") - began, "path": stack.path(),
        "is_running": stack.client.process.poll() is None and stack.gateway.process.poll() is None,
        "complaints": stack.complaints(),
    }  # fmt: skip


def said(program: Program, words: str) -> int:
    return program.log.read_text().count(words)


def new_address(stack: Stack) -> dict[str, Any]:
    """Another address in the same network, as from a new lease."""

    def change() -> None:
        stack.topology.client.run_lines(f"""
            ip addr del {CLIENT_ADDRESS}/24 dev eth0
            ip addr add 192.168.50.77/24 dev eth0
            ip route replace default via 192.168.50.1
        """)

    return _under_flow(stack, 8, change)


def carrier_lost(stack: Stack, seconds: str) -> dict[str, Any]:
    """The cable is out for a while; addresses and routes stay configured."""

    def change() -> None:
        stack.topology.router.run_lines("ip link set lan down")
        time.sleep(float(seconds))
        stack.topology.router.run_lines("ip link set lan up")

    return _under_flow(stack, float(seconds) + 8, change)


def link_down(stack: Stack, seconds: str) -> dict[str, Any]:
    """The device is taken down and set up anew, as a network manager does."""

    def change() -> None:
        stack.topology.client.run_lines("ip link set eth0 down")
        time.sleep(float(seconds))
        stack.topology.client.run_lines("""
            ip link set eth0 up
            ip route replace default via 192.168.50.1
        """)

    return _under_flow(stack, float(seconds) + 8, change)


def to_open_network(stack: Stack) -> dict[str, Any]:
    """From behind the NAT into the public network, over another device."""
    client = stack.topology.client
    stack.topology.public.run_lines(f"""
        ip link add to-client type veth peer name eth1 netns {client.holder.pid}
        ip link set to-client master segment up
    """)

    def change() -> None:
        client.run_lines(f"""
            ip addr add 198.51.100.77/24 dev eth1
            ip link set eth1 up
            ip route replace default via {PORTAL_ADDRESS} dev eth1
            ip link set eth0 down
        """)

    return _under_flow(stack, 10, change)


def unrelated_changes(stack: Stack) -> dict[str, Any]:
    """What does not concern us: container bridges, a second network without a way out, a further address, our own device."""

    def change() -> None:
        client = stack.topology.client
        client.run_lines("""
            ip link add docker0 type bridge
            ip addr add 172.17.0.1/16 dev docker0
            ip link set docker0 up
            ip link add closed type veth peer name closed-end
            ip addr add 10.99.0.1/24 dev closed
            ip link set closed up
            ip link set closed-end up
            ip addr add 192.168.50.88/24 dev eth0
        """)
        time.sleep(3)
        client.run_lines("""
            ip link del closed
            ip link del docker0
            ip link set tun-firezone mtu 1270
        """)
        time.sleep(2)

    return _under_flow(stack, 8, change)


def reset_without_portal(stack: Stack) -> dict[str, Any]:
    """The address changes while the portal is away: nothing can come back before it does, then everything by itself."""
    client = stack.topology.client
    fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT)
    stack.portal.kill()
    client.run_lines(f"""
        ip addr del {CLIENT_ADDRESS}/24 dev eth0
        ip addr add 192.168.50.77/24 dev eth0
        ip route replace default via 192.168.50.1
    """)
    stack.client.wait_for("no resource can be reached")
    is_reached = True
    try:
        fetch_page(client, RESOURCE_ADDRESS, RESOURCE_PORT, timeout=2.0)
    except Exception:
        is_reached = False
    stack.portal = stack.portal.restart()
    seconds = wait_for_page(client, RESOURCE_ADDRESS, RESOURCE_PORT, RETRY_LIMIT_S)
    return {
        "is_reached_without": is_reached, "back_after_s": round(seconds, 2),
        "says_so": said(stack.client, "no resource can be reached"), "says_back": said(stack.client, "the portal is back"),
        "is_running": stack.client.process.poll() is None,
    }  # fmt: skip


def sleep_an_hour(stack: Stack) -> dict[str, Any]:
    """The host is suspended, and nothing but the clocks tells: the process stands still, and the NAT forgets meanwhile."""
    namespace, _, environment = stack.client.started_with
    stack.client.stop()
    said_before = stack.client.log.stat().st_size
    stack.client = Program.start("client", namespace, python("tests.harness.sleepy_client"), stack.logs, environment)
    stack.client.wait_for("tunnel configured", since=said_before)

    def change() -> None:
        stack.client.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        stack.topology.router.run(*python("firezone.lab.faults.injections", "--flush-mappings"))
        stack.client.process.send_signal(signal.SIGUSR1)
        stack.client.process.send_signal(signal.SIGCONT)

    found = _under_flow(stack, 8, change)
    return {**found, "woke_up": said(stack.client, "woke up")}


def gateway_restarted(stack: Stack) -> dict[str, Any]:
    """The gateway dies and is back after a second."""

    def change() -> None:
        stack.gateway.kill()
        time.sleep(1)
        stack.gateway = stack.gateway.restart()

    return _under_flow(stack, 30, change)


def gateway_renumbered(stack: Stack) -> dict[str, Any]:
    """The gateway gets another address: it keeps key and connections, and tells its clients by the portal."""
    began = said(stack.gateway, "resetting")

    def change() -> None:
        stack.topology.gateway.run_lines(f"""
            ip addr add 198.51.100.33/24 dev eth0
            ip addr del {GATEWAY_ADDRESS}/24 dev eth0
            ip addr replace 198.51.100.33/24 dev eth0
        """)

    found = _under_flow(stack, 30, change)
    return {**found, "gateway_resets": said(stack.gateway, "resetting") - began, "logins": said(stack.gateway, "logging in again")}


SCENARIOS = {
    "new_address": new_address,
    "carrier_lost": carrier_lost,
    "link_down": link_down,
    "to_open_network": to_open_network,
    "unrelated_changes": unrelated_changes,
    "reset_without_portal": reset_without_portal,
    "sleep_an_hour": sleep_an_hour,
    "gateway_restarted": gateway_restarted,
    "gateway_renumbered": gateway_renumbered,
}
