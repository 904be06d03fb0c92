"""Scripts inside a network namespace that open the real TUN device, netlink and the firewall, which act where their process is."""

from __future__ import annotations

import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.harness.namespaces import Namespace

PRELUDE = """
import asyncio, contextlib, ipaddress, os, subprocess, sys, time
from firezone.base.errors import ConfigError, TunClosed
from firezone.io.netlink import Netlink
from firezone.io.network_changes import NetworkChanges
from firezone.io.reader_thread import ReaderThread
from firezone.io.tun_device import TunDevice

NAME = "tun-firezone"
NETWORKS = [ipaddress.ip_network(text) for text in ("10.20.0.0/16", "fd20:20::/64")]
net = ipaddress.ip_network

def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout

def rules():
    return {family: sum(line.count("0xfd002021") for line in ip(family, "rule").splitlines()) for family in ("-4", "-6")}

def routes(table):
    # A table that nobody has used is an error of `ip`, not an empty list.
    shown = [
        subprocess.run(["ip", family, "route", "show", "table", table], capture_output=True, text=True).stdout
        for family in ("-4", "-6")
    ]
    return sorted(line.split()[0] for text in shown for line in text.splitlines())

def until(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
"""


def script(namespace: Namespace, body: str) -> str:
    """Runs Python inside the namespace and returns what it printed."""
    return namespace.run(sys.executable, "-c", PRELUDE + textwrap.dedent(body)).stdout


def plug_in(namespace: Namespace) -> None:
    """Gives the host a network: `lan`, whose other end is in the same namespace."""
    namespace.run("ip", "link", "add", "lan", "type", "veth", "peer", "name", "other")
    namespace.run("ip", "addr", "add", "192.0.2.7/24", "dev", "lan")
    namespace.run("ip", "link", "set", "lan", "up")
    namespace.run("ip", "link", "set", "other", "up")
