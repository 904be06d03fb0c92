"""A portal service on a virtual clock with scripted devices that behave as the original's programs do.

A device logs in with the parameters of portal-protocol 2.2, joins, decodes everything it hears with the strict decoders, and a
gateway answers `authorize_flow` with `flow_authorized` followed by its candidates.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any
from zoneinfo import ZoneInfo

from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.proto.portal.config import read_policy
from firezone.proto.portal.login import Upgrade
from firezone.proto.portal.model import Device, Grant, PolicyBook, token_hash
from firezone.proto.portal.outputs import Close, Notice, Send
from firezone.proto.portal.service import PortalService
from firezone.wire.phoenix import ChannelClosed, Disconnected, Push, decode_inbound, encode_frame
from firezone.wire.portal import client, gateway, relay
from firezone.wire.portal.shared import PublicKey
from firezone.wire.portal.v2 import client as client2
from firezone.wire.portal.v2 import gateway as gateway2

MODULES: dict[tuple[str, int], Any] = {
    ("client", 1): client, ("gateway", 1): gateway, ("relay", 1): relay, ("client", 2): client2, ("gateway", 2): gateway2,
}  # fmt: skip
NEWEST = {"client": "Debian/12.0.0 headless-client/1.5.12 (x86_64; 6.12.0)",
          "gateway": "Debian/12.0.0 gateway/1.6.1 (x86_64; 6.12.0)"}  # fmt: skip
AGENTS = {"client": "Debian/12.0.0 connlib/1.5.4 (x86_64; 6.12.0)", "gateway": "Debian/12.0.0 connlib/1.4.17 (x86_64; 6.12.0)",
          "relay": "relay/0.1.0"}  # fmt: skip
UTC = 1_750_000_000 * SECOND
"""Sunday 2025-06-15 15:06:40 UTC."""

POLICY = f"""
[account]
slug = "lab"
[[site]]
name = "Lab"
[[site]]
name = "Annex"
[[gateway_token]]
name = "g"
site = "Lab"
sha256 = "{token_hash("gateway-token")}"
[[gateway_token]]
name = "g2"
site = "Annex"
sha256 = "{token_hash("annex-token")}"
[[user]]
name = "alice"
[[user]]
name = "bob"
[[group]]
name = "Staff"
members = ["alice"]
[[client_token]]
name = "c"
user = "alice"
sha256 = "{token_hash("client-token")}"
expires = 2025-06-22T15:06:40Z
[[client_token]]
name = "b"
user = "bob"
sha256 = "{token_hash("bob-token")}"
[[resource]]
name = "Net"
address = "10.20.0.0/16"
sites = ["Lab"]
[[resource]]
name = "Printer"
address = "10.30.7.9"
sites = ["Lab", "Annex"]
filters = ["tcp/443", "icmp"]
[[policy]]
group = "Staff"
resource = "Net"
[[policy]]
group = "Staff"
resource = "Printer"
"""


class MemoryStore:
    """A store that remembers only what was committed."""

    def __init__(self) -> None:
        self.committed: tuple[dict[str, Device], dict[Any, Grant]] = ({}, {})
        self._devices: dict[str, Device] = {}
        self._grants: dict[Any, Grant] = {}

    def load(self) -> tuple[list[Device], list[Grant]]:
        self._devices, self._grants = dict(self.committed[0]), dict(self.committed[1])
        return list(self._devices.values()), list(self._grants.values())

    def put_device(self, device: Device) -> None:
        self._devices[device.id] = device

    def remove_device(self, device_id: str) -> None:
        del self._devices[device_id]

    def put_grant(self, grant: Grant) -> None:
        self._grants[grant.key] = grant

    def remove_grant(self, grant: Grant) -> None:
        del self._grants[grant.key]

    def commit(self) -> None:
        self.committed = (dict(self._devices), dict(self._grants))


class ScriptedDevice:
    """One program of the original at its WebSocket."""

    def __init__(self, bench: Bench, role: str, number: int, protocol: int = 1) -> None:
        self.bench = bench
        self.role = role
        self.protocol = protocol
        self.is_channel_closed = False
        self.number = number
        self.ref = 0
        self.heard: list[Any] = []
        self.replies: list[dict[str, Any]] = []
        self.closed: int | None = None
        self.is_told_to_stop = False
        self.answers_flows = True

    def say(self, event: str, payload: object, topic: str | None = None) -> dict[str, Any] | None:
        """Sends one frame. Returns the reply, if one came."""
        ref, self.ref = self.ref, self.ref + 1
        text = encode_frame(topic or self.role, event, json.dumps(payload).encode(), ref)
        self.bench.service.handle_text(self.number, text, self.bench.now, self.bench.utc)
        self.bench.deliver()
        return next((reply for reply in self.replies if reply["ref"] == ref), None)

    def join(self) -> Any:
        """Joins. Returns the `init`."""
        reply = self.say("phx_join", None)
        assert reply is not None
        assert reply["payload"] == {"status": "ok", "response": {}}
        return self.take(MODULES[self.role, self.protocol].Init)

    def take(self, kind: type) -> Any:
        """Returns what was heard last, which must be the only thing, and of this kind."""
        (message,) = self.heard
        assert isinstance(message, kind), message
        self.heard.clear()
        return message

    def flow(self, resource_id: str, connected: list[str] | None = None) -> None:
        event = "create_flow" if self.protocol == 1 else "request_authorization"
        self.say(event, {"resource_id": resource_id, "connected_gateway_ids": connected or []})

    def disconnect(self) -> None:
        self.bench.service.handle_disconnected(self.number, self.bench.now)
        self.bench.devices.pop(self.number, None)
        self.bench.deliver()

    def receive(self, text: str) -> None:
        inbound = decode_inbound(text)
        if isinstance(inbound, Disconnected):
            self.is_told_to_stop = True
        elif isinstance(inbound, ChannelClosed):
            self.is_channel_closed = True
        elif isinstance(inbound, Push):
            assert inbound.topic == self.role
            message = MODULES[self.role, self.protocol].FROM_PORTAL.decode(inbound.event, inbound.payload)
            self.heard.append(message)
            if isinstance(message, gateway.AuthorizeFlow) and self.answers_flows:
                self.say("flow_authorized" if self.protocol == 1 else "authorization_created", {"ref": message.ref})
                self.say("broadcast_ice_candidates", {"client_ids": [message.client.id], "candidates": ["candidate:g"]})
        else:
            self.replies.append(json.loads(text))


class Bench:
    """The service, the time, the store, and the devices at their sockets."""

    def __init__(self, policy: str = POLICY, store: MemoryStore | None = None) -> None:
        self.now = 5_000 * SECOND
        self.utc = UTC
        self.store = store or MemoryStore()
        self.devices: dict[int, ScriptedDevice] = {}
        self.notices: list[Notice] = []
        self.next_number = 0
        self.policy = policy
        self.service = self.make_service()

    def make_service(self) -> PortalService:
        return PortalService(book(self.policy), store=self.store, rng=SeededRng(self.next_number), now=self.now, utc=self.utc)

    def restart(self) -> None:
        """Kills the portal and starts it again: only what was committed is left."""
        self.devices.clear()
        self.service = self.make_service()

    def reload(self, *changes: tuple[str, str]) -> None:
        for old, new in changes:
            assert old in self.policy, old
            self.policy = self.policy.replace(old, new, 1)
        self.service.handle_policy(book(self.policy), self.now, self.utc)
        self.deliver()

    def connect(
        self, role: str, token: str = "", *, key: bytes = b"\x01", device_id: str = "dev", agent: str = "", ip: str = "192.0.2.1",
        protocol: int = 1,
    ) -> ScriptedDevice:  # fmt: skip
        upgrade = self.upgrade(role, token or f"{role}-token", key=key, device_id=device_id, agent=agent, ip=ip, protocol=protocol)
        login = self.service.check_login(upgrade, self.utc)
        self.next_number += 1
        device = self.devices[self.next_number] = ScriptedDevice(self, role, self.next_number, protocol)
        self.service.handle_connected(self.next_number, login, self.now, self.utc)
        self.deliver()
        return device

    def upgrade(self, role: str, token: str, *, key: bytes = b"\x01", device_id: str = "dev", agent: str = "",
                ip: str = "192.0.2.1", protocol: int = 1) -> Upgrade:  # fmt: skip
        parameters = {
            "token": token, "external_id": device_id, "name": f"the {role}", "public_key": PublicKey(key * 32).to_text(),
        }  # fmt: skip
        if protocol == 1:
            return Upgrade(f"/{role}/websocket", parameters, agent or AGENTS[role], ip)
        del parameters["token"]
        return Upgrade(f"/{role}/v2/websocket", parameters, agent or NEWEST[role], ip, f"Bearer {token}")

    def relay(self, secret: str, *, token: str = "relay-token", ipv4: str = "203.0.113.50", **parameters: str) -> ScriptedDevice:
        """Returns a relay that has joined with a secret; `parameters` of its login, ipv4="" for none."""
        addresses = {"ipv4": ipv4} if ipv4 else {}
        query = {"token": token, "port": "3478", **addresses, **parameters}
        upgrade = Upgrade("/relay/websocket", query, AGENTS["relay"], "192.0.2.9")
        login = self.service.check_login(upgrade, self.utc)
        self.next_number += 1
        device = self.devices[self.next_number] = ScriptedDevice(self, "relay", self.next_number)
        self.service.handle_connected(self.next_number, login, self.now, self.utc)
        device.say("phx_join", {"stamp_secret": secret})
        return device

    def pair(self) -> tuple[ScriptedDevice, ScriptedDevice]:
        """Returns a joined gateway and a joined client."""
        served, asker = self.connect("gateway", key=b"\x02"), self.connect("client")
        served.join()
        asker.join()
        return served, asker

    def newest_pair(self) -> tuple[ScriptedDevice, ScriptedDevice]:
        """Returns the same of the newest protocol."""
        served, asker = self.connect("gateway", key=b"\x02", protocol=2), self.connect("client", protocol=2)
        served.join()
        asker.join()
        return served, asker

    def advance(self, seconds: float) -> None:
        """Jumps from announced deadline to announced deadline."""
        end = self.now + round(seconds * SECOND)
        while (deadline := self.service.poll_timeout()) is not None and deadline[0] <= end:
            self.move_to(max(self.now, deadline[0]))
            self.service.handle_timeout(self.now, self.utc)
            self.deliver()
        self.move_to(end)

    def move_to(self, now: int) -> None:
        self.utc += now - self.now
        self.now = now

    def deliver(self) -> None:
        while (output := self.service.poll_output()) is not None:
            match output:
                case Send(number, text):
                    if number in self.devices:
                        self.devices[number].receive(text)
                case Close(number, code):
                    if number in self.devices:
                        self.devices.pop(number).closed = code
                case Notice():
                    self.notices.append(output)


def book(policy: str) -> PolicyBook:
    return read_policy(tomllib.loads(policy), ZoneInfo)


def kinds(device: ScriptedDevice) -> list[str]:
    """Returns what a device has heard since the last call, by class."""
    found = [type(message).__name__ for message in device.heard]
    device.heard.clear()
    return found


NET = next(r.id for r in book(Bench().policy).resources.values() if r.name == "Net")
PRINTER = next(r.id for r in book(Bench().policy).resources.values() if r.name == "Printer")
WEEK = 604800
