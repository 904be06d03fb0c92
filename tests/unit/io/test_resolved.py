"""What we say to systemd-resolved, and what the operator is told when it refuses: a bus of the test with a scripted service."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from dbus_fast import DBusError, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from firezone.io import resolved as module
from firezone.io.dns_control import ResolvedControl, make_dns_control
from firezone.io.resolved import MANAGER, OBJECT, SERVICE, Resolved, ResolvedError
from tests.conftest import LACKS
from tests.harness.dns_host import start_bus
from tests.harness.namespaces import stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LOOPBACK = 1
SENTINELS = ["100.100.111.1", "fd00:2021:1111:8000:100:100:111:0"]
PACKED = [[2, b"\x64\x64\x6f\x01"], [10, bytes.fromhex("fd002021111180000100010001110000")]]


class Script:
    """org.freedesktop.resolve1 as far as we speak to it; keeps the calls, answers errors on demand."""

    def __init__(self, bus: MessageBus) -> None:
        self.calls: list[tuple[str, str, list[Any]]] = []
        self.refusals: dict[str, DBusError] = {}
        self.servers: list[list[Any]] = [[0, 2, b"\xc0\x00\x02\x35"]]
        self.is_mute = False
        self._bus = bus
        bus.add_message_handler(self._on_message)

    def change(self, servers: list[list[Any]]) -> None:
        self.servers = servers
        body = [MANAGER, {}, ["DNS"]]
        self._bus.send(Message.new_signal(OBJECT, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", body))

    def _on_message(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.path != OBJECT:
            return None
        if self.is_mute:
            return True
        self.calls.append((message.member or "", message.signature, _as_lists(message.body)))
        if refusal := self.refusals.get(message.member or ""):
            return Message.new_error(message, refusal.type, refusal.text)
        if message.member == "Get":
            return Message.new_method_return(message, "v", [Variant("a(iiay)", self.servers)])
        return Message.new_method_return(message)


def _as_lists(value: Any) -> Any:
    """Some versions of the library read structures as tuples, some as lists."""
    return [_as_lists(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    if shutil.which("dbus-daemon") is None:
        pytest.skip(f"{LACKS} dbus-daemon")
    bus, address = start_bus(tmp_path)
    yield address
    stop(bus)
    assert bus.stdout is not None
    bus.stdout.close()


@pytest.fixture
async def service(address: str) -> AsyncIterator[Script]:
    bus = await MessageBus(address).connect()
    script = Script(bus)
    await bus.request_name(SERVICE)
    yield script
    bus.disconnect()


@pytest.fixture
async def resolved(address: str, service: Script) -> AsyncIterator[Resolved]:
    resolved = Resolved(address)
    yield resolved
    resolved.close()


async def test_a_link_is_set_with_servers_domains_and_llmnr(resolved: Resolved, service: Script) -> None:
    await resolved.set_link(7, SENTINELS, "corp.example")
    assert service.calls == [
        ("SetLinkDNS", "ia(iay)", [7, PACKED]),
        ("SetLinkDomains", "ia(sb)", [7, [["corp.example", False], [".", True]]]),
        ("SetLinkLLMNR", "is", [7, "yes"]),
    ]


async def test_without_a_search_domain_every_name_still_goes_to_the_link(resolved: Resolved, service: Script) -> None:
    await resolved.set_link(7, SENTINELS, None)
    assert service.calls[1] == ("SetLinkDomains", "ia(sb)", [7, [[".", True]]])


async def test_servers_are_read_without_those_of_our_link_and_without_link_local_ones(resolved: Resolved, service: Script) -> None:
    link_local = [3, 10, b"\xfe\x80" + bytes(14)]
    service.servers = [
        [0, 2, b"\xc0\x00\x02\x35"],
        [7, 2, b"\x64\x64\x6f\x01"],
        link_local,
        [3, 10, b"\x20\x01\x0d\xb8" + bytes(12)],
    ]
    assert await resolved.servers(without_link=7) == ["192.0.2.53", "2001:db8::"]
    assert await resolved.servers() == ["192.0.2.53", "100.100.111.1", "2001:db8::"]


async def test_a_link_that_resolved_does_not_know_is_reverted_already(resolved: Resolved, service: Script) -> None:
    service.refusals["RevertLink"] = DBusError("org.freedesktop.resolve1.NoSuchLink", "Link 7 not known")
    await resolved.revert_link(7)
    service.refusals["RevertLink"] = DBusError("org.freedesktop.resolve1.LinkBusy", "Link 7 is managed")
    with pytest.raises(ResolvedError, match="refuses RevertLink: Link 7 is managed"):
        await resolved.revert_link(7)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("org.freedesktop.DBus.Error.AccessDenied", "Start the client as root"),
        ("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "Start the client as root"),
        ("org.freedesktop.DBus.Error.ServiceUnknown", "systemctl enable --now systemd-resolved"),
        ("org.freedesktop.DBus.Error.InvalidArgs", "refuses SetLinkDNS"),
    ],
)
async def test_a_refusal_says_what_to_do(resolved: Resolved, service: Script, name: str, told: str) -> None:
    service.refusals["SetLinkDNS"] = DBusError(name, "no")
    with pytest.raises(ResolvedError, match=told):
        await resolved.set_link(7, SENTINELS, None)


async def test_a_bus_without_resolved_says_what_to_do(address: str) -> None:
    resolved = Resolved(address)
    with pytest.raises(ResolvedError, match=r"is not running\. Start it .* or use --dns-control etc-resolv-conf or disabled"):
        await resolved.flush()
    resolved.close()


async def test_an_answer_is_not_awaited_for_ever(resolved: Resolved, service: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALL_TIMEOUT_S", 0.2)
    service.is_mute = True
    with pytest.raises(ResolvedError, match="does not answer FlushCaches"):
        await resolved.flush()
    service.is_mute = False
    await resolved.flush()


async def test_changes_are_told_once_at_first_and_then_when_the_servers_are_others(address: str, service: Script) -> None:
    control = make_dns_control("systemd-resolved", bus=address)
    await control.start()
    seen: asyncio.Queue[list[str]] = asyncio.Queue()
    control.on_change(lambda: seen.put_nowait(control.system_resolvers()))
    assert await asyncio.wait_for(seen.get(), 5) == ["192.0.2.53"]
    service.change([[0, 2, b"\xc0\x00\x02\x35"]])  # The same once more.
    service.change([[0, 2, b"\xc6\x33\x64\x35"]])
    assert await asyncio.wait_for(seen.get(), 5) == ["198.51.100.53"]
    await control.revert()


async def test_applied_is_reverted_once_and_nothing_that_was_not(address: str, service: Script) -> None:
    control = ResolvedControl(address)
    await control.start()
    await control.apply([], None, "lo")
    await control.flush()
    await control.revert()
    assert [member for member, *_ in service.calls] == ["Get"]
    await control.start()
    service.calls.clear()
    await control.apply(SENTINELS, None, "lo")
    await control.revert()
    await control.revert()
    await control.apply(SENTINELS, None, "lo")  # Too late.
    assert [member for member, *_ in service.calls] == [
        "SetLinkDNS",
        "SetLinkDomains",
        "SetLinkLLMNR",
        "RevertLink",
        "FlushCaches",
    ]
    assert service.calls[-2][2] == [LOOPBACK]


async def test_a_gone_interface_and_a_gone_bus_are_told_and_do_not_stop_the_end(tmp_path: Path) -> None:
    control = make_dns_control("systemd-resolved", bus=f"unix:path={tmp_path}/none")
    await control.start()  # Only notes that it will not see changes.
    with pytest.raises(ResolvedError, match="none-0 is gone"):
        await control.apply(SENTINELS, None, "none-0")
    with pytest.raises(ResolvedError, match="system bus cannot be reached"):
        await control.apply(SENTINELS, None, "lo")
    with contextlib.suppress(asyncio.CancelledError):
        await control.revert()


async def test_the_bus_is_found_again_after_its_restart(tmp_path: Path) -> None:
    if shutil.which("dbus-daemon") is None:
        pytest.skip(f"{LACKS} dbus-daemon")
    control: ResolvedControl | None = None
    for _ in range(2):
        daemon, address = start_bus(tmp_path)
        bus = await MessageBus(address.split(",")[0]).connect()
        script = Script(bus)
        await bus.request_name(SERVICE)
        control = control or ResolvedControl(address.split(",")[0])
        await control.apply(SENTINELS, None, "lo")
        assert script.calls[0][0] == "SetLinkDNS"
        bus.disconnect()
        stop(daemon)
        assert daemon.stdout is not None
        daemon.stdout.close()
        await asyncio.sleep(0.1)
    assert control is not None
    await control.revert()
