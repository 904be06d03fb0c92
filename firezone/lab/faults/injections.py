"""The faults themselves: what each does to a running lab, and the sign by which one knows that it has happened.

A fault that nobody notices is a good row of the table, and one that was never applied looks the same. So each has a sign, outside
of what is measured, which must show before its row counts.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firezone.base.errors import ConfigError, FirezoneError
from firezone.lab.faults.flows import Flows
from firezone.lab.measure import fetch_page
from firezone.lab.paths import last_end
from firezone.lab.programs import Program, python
from firezone.lab.stack import LOGS, RELAY_NAMES, Stack

STEADY_S = 1.5
"""How long both flows run before something happens, and after it has passed."""
OTHER_ADDRESS = "192.168.50.77"
DARK_S, LINK_LOST_S = 30.0, 60.0
CONTROL_PORT = 9999
"""Where a relay tells its metrics."""
_MAX_RESETS = 8

_DARK = """
table inet dark {
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
"""


@dataclass(slots=True)
class Cell:
    """One lab with its flows."""

    stack: Stack
    flows: Flows


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was made."""

    since: float
    """CLOCK_MONOTONIC from which gaps count: its beginning, or its end for those that are judged from there."""
    sign: str
    """What shows that it has happened, in words."""
    is_seen: Callable[[], bool]
    """Whether that shows by now."""


def restart_portal(cell: Cell) -> Injected:
    """Kills the portal and starts it again at once."""
    said = _Said(cell.stack.client, cell.stack.gateway)
    since = _kill_and_restart(cell, "portal", 0.0)
    return Injected(since, "client and gateway have logged in again", lambda: said.all("joined the portal"))


def rebind_nat(cell: Cell) -> Injected:
    """Lets the router forget the mappings of all UDP and give other ports from now on. TCP keeps its own."""
    router, log = cell.stack.topology.router, cell.stack.logs / LOGS["gateway"]
    before = last_end(log)
    router.run_lines("nft insert rule ip nat postrouting oifname wan meta l4proto udp masquerade to :20000-29999 random")
    since = time.monotonic()
    router.run(*python("firezone.lab.faults.injections", "--flush-mappings"))
    return Injected(since, "the gateway sends to another port", lambda: last_end(log) != before)


def change_address(cell: Cell) -> Injected:
    """Gives the client another address in place of its own, as another lease would."""
    client, said = cell.stack.topology.client, _Said(cell.stack.client)
    since = time.monotonic()
    client.run("ip", "-batch", "-", stdin=f"""
        addr flush dev eth0
        addr add {OTHER_ADDRESS}/24 dev eth0
        route replace default via 192.168.50.1
    """)  # fmt: skip
    return Injected(since, "the client has started over", lambda: said.all("resetting"))


def lose_link(cell: Cell) -> Injected:
    """Takes the client's link down for a minute, with its routes, and sets it up again as a network manager does."""
    client, said = cell.stack.topology.client, _Said(cell.stack.client)
    client.run("ip", "link", "set", "eth0", "down")
    down = time.monotonic()
    time.sleep(LINK_LOST_S)
    client.run("ip", "link", "set", "eth0", "up")
    client.run("ip", "route", "replace", "default", "via", "192.168.50.1")
    sign = "nothing came meanwhile, and the client has started over"
    return Injected(time.monotonic(), sign, lambda: _was_dark(cell, down, LINK_LOST_S) and said.all("resetting"))


def restart_gateway(cell: Cell) -> Injected:
    """Kills the gateway and starts it again after a second."""
    said = _Said(cell.stack.client)
    since = _kill_and_restart(cell, "gateway", 1.0)
    return Injected(since, "the client has found a path anew", lambda: said.all("connection established"))


def lose_everything(cell: Cell) -> Injected:
    """Drops whatever goes through the client's router for a while."""
    router = cell.stack.topology.router
    router.load_nft(_DARK)
    dark = time.monotonic()
    time.sleep(DARK_S)
    router.run("nft", "delete", "table", "inet", "dark")
    return Injected(time.monotonic(), "nothing came meanwhile", lambda: _was_dark(cell, dark, DARK_S))


def add_relay(cell: Cell) -> Injected:
    """Starts a second relay; the portal tells both sides."""
    since = time.monotonic()
    cell.stack.start_spare_relay()
    return Injected(since, "both sides have an allocation there", lambda: allocations(cell, "spare_relay") == 2)


def restart_other_relay(cell: Cell) -> Injected:
    """Restarts the relay that the path does not take, though both sides have allocations there.

    News of two nominations may overtake each other, and the two ends then take a relay each for a while: none is idle, and the
    client starts over until one is.
    """
    for _ in range(_MAX_RESETS):
        in_use = _relays_in_use(cell)
        if len(in_use) == 1:
            return _restart_relay(cell, "relay" if in_use == {"spare_relay"} else "spare_relay")
        cell.stack.client.process.send_signal(signal.SIGHUP)
        time.sleep(STEADY_S)
        cell.flows.wait_for_all(time.monotonic(), timeout=10.0)
        time.sleep(STEADY_S)
    raise ConfigError(f"Both relays are in use after {_MAX_RESETS} resets.")


def kill_relay(cell: Cell) -> Injected:
    """Kills the relay of the path for good; another one is known to both sides."""
    name = _relay_in_use(cell)
    program: Program = getattr(cell.stack, name)
    since = time.monotonic()
    program.kill()
    return Injected(since, "the path takes the other relay", lambda: _takes_another(cell, name))


def stop_relay(cell: Cell) -> Injected:
    """Stops the relay of the path without ending it: its host answers, the portal takes it as there, nothing is relayed."""
    name = _relay_in_use(cell)
    program: Program = getattr(cell.stack, name)
    since = time.monotonic()
    program.process.send_signal(signal.SIGSTOP)
    return Injected(since, "the path takes the other relay", lambda: _takes_another(cell, name))


def restart_relay(cell: Cell) -> Injected:
    """Kills the only relay and starts it again at once: its secret is drawn anew, and its allocations are gone."""
    return _restart_relay(cell, "relay")


INJECTIONS: dict[str, Callable[[Cell], Injected]] = {
    "portal-restart": restart_portal,
    "nat-rebinding": rebind_nat,
    "address-change": change_address,
    "link-lost": lose_link,
    "relay-appears": add_relay,
    "relay-of-peer": restart_other_relay,
    "relay-killed": kill_relay,
    "relay-silent": stop_relay,
    "relay-restart": restart_relay,
    "gateway-restart": restart_gateway,
    "total-loss": lose_everything,
}


def allocations(cell: Cell, name: str) -> int:
    """Returns how many allocations a relay has, as it says itself; 0 while it does not answer."""
    program: Program | None = getattr(cell.stack, name)
    if program is None:
        return 0
    try:
        page: dict[str, Any] = fetch_page(program.started_with[0], "127.0.0.1", CONTROL_PORT, timeout=2.0, path="/metrics")
        return int(json.loads(page["body"])["relay.active_allocations"])
    except (FirezoneError, ValueError, KeyError):
        return 0


def flush_mappings() -> None:
    """Deletes every entry of connection tracking in this network namespace, as `conntrack -F` does."""
    delete, request_and_ack = 0x102, 0x5  # IPCTNL_MSG_CT_DELETE of ctnetlink
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(struct.pack("=IHHIIBBH", 20, delete, request_and_ack, 1, 0, 0, 0, 0))
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        sys.exit(f"connection tracking could not be flushed: errno {-error}")


class _Said:
    """What has come into the logs of programs since this was made."""

    def __init__(self, *programs: Program) -> None:
        self._logs = [(program.log, program.log.stat().st_size) for program in programs]

    def all(self, words: str) -> bool:
        """Whether every one has said these words."""
        return all(words.encode() in log.read_bytes()[since:] for log, since in self._logs)


def _was_dark(cell: Cell, start: float, seconds: float) -> bool:
    """Whether no echo came for about as long as nothing could. Where the flow itself was not let run is no part of a gap."""
    return cell.flows.echo.longest_gap(start) >= 0.8 * seconds


def _relays_in_use(cell: Cell) -> set[str]:
    """Returns the names by which the stack knows the relays that either end sends to: whoever sends by its own, the other tells."""
    ends = (last_end(cell.stack.logs / log) for log in LOGS.values())
    names = {RELAY_NAMES[end.remote] for end in ends if end is not None and end.remote in RELAY_NAMES}
    return {"spare_relay" if name == "relay-2" else "relay" for name in names}


def _takes_another(cell: Cell, name: str) -> bool:
    return bool(in_use := _relays_in_use(cell)) and name not in in_use


def _relay_in_use(cell: Cell) -> str:
    """Raises ConfigError when there is none."""
    if not (names := _relays_in_use(cell)):
        raise ConfigError(f"The path takes no relay: {cell.stack.path()}.")
    return min(names)


def _restart_relay(cell: Cell, name: str) -> Injected:
    said = _Said(getattr(cell.stack, name))
    since = _kill_and_restart(cell, name, 0.0)
    sign = "it has joined the portal anew, and both sides have allocated there"
    return Injected(since, sign, lambda: said.all("joined the portal") and allocations(cell, name) == 2)


def _kill_and_restart(cell: Cell, name: str, pause: float) -> float:
    program: Program = getattr(cell.stack, name)
    since = time.monotonic()
    program.kill()
    time.sleep(pause)
    setattr(cell.stack, name, program.restart())
    return since


if __name__ == "__main__":
    if sys.argv[1:] != ["--flush-mappings"]:
        sys.exit("usage: python -m firezone.lab.faults.injections --flush-mappings")
    flush_mappings()
