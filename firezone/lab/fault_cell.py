"""`python -m firezone.lab.fault_cell NAME LOGS`: one fault in one fresh lab, measured by two flows; prints one JSON object."""

from __future__ import annotations

import json
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firezone.base.errors import ConfigError, FirezoneError
from firezone.lab.fault_list import FAULTS, Fault
from firezone.lab.flows import Flows
from firezone.lab.paths import last_end
from firezone.lab.programs import Program, python
from firezone.lab.stack import LOGS, RELAY_NAMES, Stack
from firezone.lab.topology import RESOURCE_ADDRESS

STEADY_S = 1.5
"""How long both flows run before something happens, and after it has passed."""
OTHER_ADDRESS, OTHER_NETWORK = "192.168.50.77", "192.168.50.0/24"
DARK_S = 30.0
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


def restart_portal(cell: Cell) -> float:
    """Kills the portal and starts it again at once."""
    return _kill_and_restart(cell, "portal", 0.0)


def rebind_nat(cell: Cell) -> float:
    """Lets the router forget the mappings of all UDP and give other ports from now on. TCP keeps its own."""
    router = cell.stack.topology.router
    router.run_lines("nft insert rule ip nat postrouting oifname wan meta l4proto udp masquerade to :20000-29999 random")
    since = time.monotonic()
    router.run(*python("firezone.lab.fault_cell", "--flush-mappings"))
    return since


def change_address(cell: Cell) -> float:
    """Gives the client another address in place of its own, as another lease would."""
    client = cell.stack.topology.client
    since = time.monotonic()
    client.run("ip", "-batch", "-", stdin=f"""
        addr flush dev eth0
        addr add {OTHER_ADDRESS}/24 dev eth0
        route replace default via 192.168.50.1
    """)  # fmt: skip
    return since


def restart_gateway(cell: Cell) -> float:
    """Kills the gateway and starts it again after a second."""
    return _kill_and_restart(cell, "gateway", 1.0)


def lose_everything(cell: Cell) -> float:
    """Drops whatever goes through the client's router for a while. Returns when that ends."""
    router = cell.stack.topology.router
    router.load_nft(_DARK)
    time.sleep(DARK_S)
    end = time.monotonic()
    router.run("nft", "delete", "table", "inet", "dark")
    return end


def add_relay(cell: Cell) -> float:
    """Starts a second relay; the portal tells both sides."""
    since = time.monotonic()
    cell.stack.start_spare_relay()
    return since


def restart_other_relay(cell: Cell) -> float:
    """Restarts the relay that the path does not take, though both sides have allocations there.

    The two ends may take a relay each, since they rank pairs differently; then none is idle, and the client starts over until
    one is.
    """
    for _ in range(_MAX_RESETS):
        in_use = _relays_in_use(cell)
        if len(in_use) == 1:
            return _kill_and_restart(cell, "relay" if in_use == {"spare_relay"} else "spare_relay", 0.0)
        cell.stack.client.process.send_signal(signal.SIGHUP)
        time.sleep(STEADY_S)
        cell.flows.wait_for_both(time.monotonic(), timeout=10.0)
        time.sleep(STEADY_S)
    raise ConfigError(f"Both relays are in use after {_MAX_RESETS} resets.")


def kill_relay(cell: Cell) -> float:
    """Kills the relay of the path for good; another one is known to both sides."""
    program: Program = getattr(cell.stack, _relay_in_use(cell))
    since = time.monotonic()
    program.kill()
    return since


def stop_relay(cell: Cell) -> float:
    """Stops the relay of the path without ending it: its host answers, the portal takes it as there, nothing is relayed."""
    program: Program = getattr(cell.stack, _relay_in_use(cell))
    since = time.monotonic()
    program.process.send_signal(signal.SIGSTOP)
    return since


def restart_relay(cell: Cell) -> float:
    """Kills the only relay and starts it again at once: its secret is drawn anew, and its allocations are gone."""
    return _kill_and_restart(cell, "relay", 0.0)


INJECTIONS: dict[str, Callable[[Cell], float]] = {
    "portal-restart": restart_portal,
    "nat-rebinding": rebind_nat,
    "address-change": change_address,
    "relay-appears": add_relay,
    "relay-of-peer": restart_other_relay,
    "relay-killed": kill_relay,
    "relay-silent": stop_relay,
    "relay-restart": restart_relay,
    "gateway-restart": restart_gateway,
    "total-loss": lose_everything,
}

TWO_RELAYS = {"relay-of-peer", "relay-killed", "relay-silent"}
"""Where both relays are there from the beginning."""


def run_cell(fault: Fault, logs: Path) -> dict[str, Any]:
    """Starts a lab, lets both flows run, does it, and waits until both run again. Raises FirezoneError without a lab."""
    stack = Stack.start(logs, lambda step: None, is_relayed=fault.is_relayed, has_spare_relay=fault.is_relayed)
    if fault.name in TWO_RELAYS:
        stack.start_spare_relay()
        time.sleep(STEADY_S)  # Both sides hear of it and get their allocations.
    flows = Flows.start(stack.topology.client, stack.topology.resource, RESOURCE_ADDRESS, logs)
    try:
        time.sleep(STEADY_S)
        path = stack.path()
        since = INJECTIONS[fault.name](Cell(stack, flows))
        is_back = flows.wait_for_both(max(since, time.monotonic()) + 0.5, timeout=fault.patience_s)
        time.sleep(STEADY_S)
        found = {
            "is_back": is_back,
            "flow_gap_s": flows.echo.longest_gap(since),
            "flow_after_s": flows.echo.first_after(since),
            "path_before": path,
            "path_after": stack.path(),
            "complaints": stack.complaints(),
        }
        result = flows.echo.result()
        found |= {"lost": result["sent"] - result["received"]}
        # Read after its end, so that a gap that never ended counts.
        result = flows.download.result()
        found |= {
            "download_gap_s": flows.download.longest_gap(since),
            **{key: result[key] for key in ("size", "breaks", "is_intact")},
        }
    finally:
        flows.close()
        stack.close()
    return found


def flush_mappings() -> None:
    """Deletes every entry of connection tracking in this network namespace, as `conntrack -F` does."""
    import socket

    delete, request_and_ack = 0x102, 0x5  # IPCTNL_MSG_CT_DELETE of ctnetlink
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(struct.pack("=IHHIIBBH", 20, delete, request_and_ack, 1, 0, 0, 0, 0))
        (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
    if error:
        sys.exit(f"connection tracking could not be flushed: errno {-error}")


def _relays_in_use(cell: Cell) -> set[str]:
    """Returns the names by which the stack knows the relays that either end sends to: whoever sends by its own, the other tells.

    Raises: ConfigError when there is none.
    """
    ends = (last_end(cell.stack.logs / log) for log in LOGS.values())
    names = {RELAY_NAMES[end.remote] for end in ends if end is not None and end.remote in RELAY_NAMES}
    if not names:
        raise ConfigError(f"The path takes no relay: {cell.stack.path()}.")
    return {"spare_relay" if name == "relay-2" else "relay" for name in names}


def _relay_in_use(cell: Cell) -> str:
    return min(_relays_in_use(cell))


def _kill_and_restart(cell: Cell, name: str, pause: float) -> float:
    program: Program = getattr(cell.stack, name)
    since = time.monotonic()
    program.kill()
    time.sleep(pause)
    setattr(cell.stack, name, program.restart())
    return since


def main() -> None:
    if sys.argv[1:] == ["--flush-mappings"]:
        flush_mappings()
        return
    name, logs = sys.argv[1:]
    try:
        print(json.dumps(run_cell(FAULTS[name], Path(logs))))
    except FirezoneError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    main()
