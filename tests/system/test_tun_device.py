"""The real TUN device in a namespace of its own, and the thread that reads it."""

from __future__ import annotations

import textwrap

import pytest

from tests.harness.host import script
from tests.harness.namespaces import Namespace

pytestmark = pytest.mark.root


def test_a_second_program_is_told_and_a_successor_waits_for_its_predecessor() -> None:
    with Namespace() as here:
        script(
            here,
            """
            first = TunDevice.open(NAME)
            try:
                TunDevice.open(NAME)
            except ConfigError as error:
                assert "already running" in str(error), error
            else:
                raise AssertionError("two programs share a device")
            # The predecessor lingers for a moment: its descriptor closes while we try.
            import threading
            threading.Timer(0.3, first.close).start()
            second = TunDevice.open(NAME)
            second.close()
            for _ in range(50):
                TunDevice.open(NAME).close()
            assert len(os.listdir("/proc/self/fd")) < 20
            """,
        )


def test_an_interface_of_another_kind_is_not_taken() -> None:
    with Namespace() as here:
        here.run("ip", "link", "add", "tun-firezone", "type", "dummy", check=False)
        if "tun-firezone" not in here.run("ip", "link").stdout:
            here.run("ip", "link", "add", "tun-firezone", "type", "veth", "peer", "name", "other")
        script(
            here,
            """
            try:
                TunDevice.open(NAME)
            except ConfigError as error:
                assert NAME in str(error)
            else:
                raise AssertionError("took over an interface of somebody else")
            """,
        )
        assert "tun-firezone" in here.run("ip", "link").stdout


@pytest.mark.parametrize("threaded", [False, True])
def test_a_deleted_device_ends_its_reader_and_one_that_is_down_does_not(threaded: bool) -> None:
    with Namespace() as here:
        script(
            here,
            f"threaded = {threaded}\n"
            + textwrap.dedent("""
            device = TunDevice.open(NAME)
            ip("link", "set", NAME, "up")
            reader = ReaderThread("tun reader", device.ring, [device.port]) if threaded else None
            source = reader or device
            ip("link", "set", NAME, "down")
            for _ in range(20):
                source.fill(8)
                time.sleep(0.01)
            assert not source.take_errors()
            ip("link", "set", NAME, "up")
            ip("link", "del", NAME)
            if reader is not None:
                found = []
                until(lambda: found.extend(reader.take_errors()) or found)
                assert [type(error).__name__ for error in found] == ["ReaderStopped"], found
                reader.stop()
            else:
                source.fill(8)
                assert [type(error).__name__ for error in source.take_errors()] == ["TunClosed"]
            device.close()
            """),
        )


def test_an_idle_reader_lets_go_of_the_device_at_once() -> None:
    """T15."""
    with Namespace() as here:
        script(
            here,
            """
            device = TunDevice.open(NAME)
            ip("link", "set", NAME, "up")
            reader = ReaderThread("tun reader", device.ring, [device.port])
            before = time.monotonic()
            reader.stop()
            device.close()
            assert time.monotonic() - before < 1
            assert NAME not in ip("link")
            """,
        )


def test_a_device_without_offload_works_and_says_so() -> None:
    with Namespace() as here:
        script(
            here,
            """
            device = TunDevice.open(NAME, offload=False)
            assert (device.offload, device.coalesce) == ("none", False)
            ip("addr", "add", "10.9.0.1/24", "dev", NAME)
            ip("link", "set", NAME, "up")
            subprocess.Popen(["ping", "-c", "1", "-W", "1", "10.9.0.2"], stdout=subprocess.DEVNULL)
            until(lambda: device.fill(8) or device.ring.ready())
            assert int(device.ring.slab[device.ring.tail(), 10]) >> 4 in (4, 6)
            """,
        )
