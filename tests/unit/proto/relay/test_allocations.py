"""Ports lent, prolonged and taken back (rows 24 to 38)."""

from __future__ import annotations

from collections import Counter

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.proto.relay.allocations import RelayLimits
from firezone.wire.stun import Attribute, Method
from tests.harness.relay import PUBLIC4, PUBLIC6, RelayBench, TurnClient, code_of

V4, V6 = 1, 2
PEER = Endpoint.from_text("192.0.2.33", 34567)


def families_of(message: object) -> list[int]:
    return [4 if endpoint.is_ipv4 else 6 for endpoint in message.get_all(Attribute.XOR_RELAYED_ADDRESS)]  # type: ignore[attr-defined]


def test_row_24_sockets_are_open_before_the_answer_names_them() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    message = client.allocate()
    (port,) = bench.ports.open_ports
    assert bench.take_log()[1:] == [("open", port, (4, 6)), ("send", client.endpoint)]
    assert message.get_all(Attribute.XOR_RELAYED_ADDRESS) == [Endpoint(PUBLIC4.ip, port), Endpoint(PUBLIC6.ip, port)]
    assert message.get(Attribute.LIFETIME) == 600
    assert message.get(Attribute.XOR_MAPPED_ADDRESS) == client.endpoint
    assert [kind for kind, _ in message.attributes] == [
        Attribute.SOFTWARE,
        Attribute.XOR_RELAYED_ADDRESS,
        Attribute.XOR_RELAYED_ADDRESS,
        Attribute.XOR_MAPPED_ADDRESS,
        Attribute.LIFETIME,
    ]


@pytest.mark.parametrize(
    ("only", "requested", "additional", "result"),
    [
        (4, None, None, [4]),
        (4, V4, None, [4]),
        (None, None, None, [4]),
        (None, V4, None, [4]),
        (6, V6, None, [6]),
        (None, V6, None, [6]),
        (None, None, V6, [4, 6]),
        (4, None, V6, [4]),
        (6, None, V6, [6]),
        (None, V4, V6, 400),
        (4, V4, V6, 400),
        (6, V6, V6, 400),
        (None, V6, V4, 400),
        (None, None, V4, 400),
        (4, None, V4, 400),
        (6, None, V4, 400),
        (6, None, None, 440),
        (6, V4, None, 440),
        (4, V6, None, 440),
    ],
)
def test_row_25_address_families(only: int | None, requested: int | None, additional: int | None, result: list[int] | int) -> None:
    bench = RelayBench(only=only)
    asked = [(Attribute.REQUESTED_ADDRESS_FAMILY, requested), (Attribute.ADDITIONAL_ADDRESS_FAMILY, additional)]
    attributes = [(kind, value) for kind, value in asked if value is not None]
    message = TurnClient(bench).allocate(*attributes, additional=False)
    if isinstance(result, int):
        assert code_of(message) == result
        assert bench.ports.open_ports == {}
    else:
        assert families_of(message) == result
        assert list(bench.ports.open_ports.values()) == [tuple(result)]


@pytest.mark.parametrize(("asked", "granted"), [(10_000_000, 3600), (2**32 - 1, 3600), (60, 60), (None, 600), (3600, 3600), (1, 1)])
def test_row_26_lifetimes(asked: int | None, granted: int) -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    lifetime = () if asked is None else ((Attribute.LIFETIME, asked),)
    assert client.allocate(*lifetime).get(Attribute.LIFETIME) == granted
    assert bench.next_wake() == granted
    assert client.refresh(asked).get(Attribute.LIFETIME) == granted
    assert bench.next_wake() == granted


def test_a_lifetime_of_nothing_is_over_at_once() -> None:
    bench = RelayBench()
    assert TurnClient(bench).allocate((Attribute.LIFETIME, 0)).get(Attribute.LIFETIME) == 0
    bench.advance(0)
    assert bench.ports.open_ports == {}


def test_row_27_a_second_allocation_of_the_same_client_is_a_mismatch() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.allocate()
    bench.take_log()
    bench.now = 10 * SECOND
    assert code_of(client.allocate()) == 437
    assert bench.take_log() == [("send", client.endpoint)]
    assert bench.next_wake() == 600
    assert code_of(TurnClient(bench, "2001:db8::7").allocate()) == 0
    assert len(bench.ports.open_ports) == 2


@pytest.mark.parametrize("transport", [0, 6, 255])
def test_row_28_other_transports_are_bad_requests_signed(transport: int) -> None:
    assert code_of(TurnClient(RelayBench()).allocate(transport=transport)) == 400


def test_row_29_a_range_of_one_port() -> None:
    bench = RelayBench(lowest=50000, highest=50000)
    first, second = TurnClient(bench, "198.51.100.1"), TurnClient(bench, "198.51.100.2")
    assert code_of(first.allocate()) == 0
    assert code_of(second.allocate()) == 508
    first.refresh(0)
    assert code_of(second.allocate()) == 0
    assert bench.ports.open_ports.keys() == {50000}


def test_row_29_capacity_comes_before_transport_and_families() -> None:
    bench = RelayBench(lowest=50000, highest=50000)
    TurnClient(bench, "198.51.100.1").allocate()
    assert code_of(TurnClient(bench).allocate(transport=6)) == 508


def test_row_30_ports_are_in_range_free_and_spread_evenly() -> None:
    picked: Counter[int] = Counter()
    for seed in range(400):
        bench = RelayBench(lowest=60000, highest=60007, rng=SeededRng(seed))
        clients = [TurnClient(bench, f"198.51.100.{number}") for number in range(1, 4)]
        for client in clients:
            client.allocate()
        assert len(bench.ports.open_ports) == 3
        picked.update(list(bench.ports.open_ports))
    assert picked.keys() == set(range(60000, 60008))
    assert max(picked.values()) < 200
    assert min(picked.values()) > 100, "150 each on average, standard deviation below 10"


def test_row_31_an_allocation_ends_when_nobody_refreshes_it() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.allocate()
    (port,) = bench.ports.open_ports
    assert bench.next_wake() == 600
    bench.advance(599.999)
    assert bench.ports.open_ports
    bench.take_log()
    bench.advance(0.001)
    assert bench.take_log() == [("close", port)]
    assert bench.next_wake() is None
    assert code_of(client.refresh()) == 437


def test_row_32_a_refresh_replaces_the_expiry() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.allocate()
    bench.advance(300)
    client.refresh()
    assert bench.next_wake() == 900
    client.refresh(10)
    assert bench.next_wake() == 310
    client.refresh(3600)
    assert bench.next_wake() == 3900


def test_row_33_a_refresh_to_zero_takes_everything_before_it_answers() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.allocate()
    (port,) = bench.ports.open_ports
    client.bind(0x4000, PEER)
    client.bind(0x4001, Endpoint(PUBLIC6.ip, 5))
    bench.take_log()
    assert client.refresh(0).get(Attribute.LIFETIME) == 0
    assert bench.take_log() == [
        ("unbind", client.endpoint, 0x4000),
        ("unbind", client.endpoint, 0x4001),
        ("close", port),
        ("send", client.endpoint),
    ]
    assert bench.next_wake() is None
    assert code_of(client.allocate()) == 0
    assert code_of(client.bind(0x4001, PEER)) == 0, "no cool-down across allocations"
    assert bench.server.counters.channels == 1


@pytest.mark.parametrize("lifetime", [None, 0, 60])
def test_row_34_a_refresh_without_allocation_is_a_mismatch(lifetime: int | None) -> None:
    assert code_of(TurnClient(RelayBench()).refresh(lifetime)) == 437


def test_row_35_another_valid_user_may_refresh() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.allocate()
    other = TurnClient(bench, username="1893456000:other")
    assert code_of(other.refresh(60)) == 0
    assert bench.next_wake() == 60


def test_row_36_a_user_that_comes_back_from_another_port_gets_a_new_allocation() -> None:
    bench = RelayBench()
    old, new = TurnClient(bench, port=1111), TurnClient(bench, port=2222)
    old.allocate()
    (port,) = bench.ports.open_ports
    old.bind(0x4000, PEER)
    bench.take_log()
    assert code_of(new.allocate()) == 0
    log = bench.take_log()
    assert log[:4] == [
        ("send", new.endpoint),
        ("unbind", old.endpoint, 0x4000),
        ("close", port),
        ("open", *next(iter(bench.ports.open_ports.items()))),
    ]
    assert code_of(old.refresh()) == 437
    assert code_of(new.bind(0x4001, PEER)) == 0
    assert bench.server.counters.allocations == 1


def test_row_36_nothing_is_deleted_for_an_allocation_that_fails() -> None:
    bench = RelayBench()
    old, new = TurnClient(bench, port=1111), TurnClient(bench, port=2222)
    old.allocate()
    assert code_of(new.allocate(transport=6)) == 400
    assert code_of(old.refresh()) == 0


def test_row_37_a_port_of_another_program_is_passed_over() -> None:
    bench = RelayBench(lowest=60000, highest=60003)
    bench.ports.held_by_others = {60000, 60001, 60002}
    assert code_of(TurnClient(bench, "198.51.100.1").allocate()) == 0
    assert bench.ports.open_ports.keys() == {60003}
    assert code_of(TurnClient(bench, "198.51.100.2").allocate()) == 508
    bench.ports.held_by_others = set()
    assert code_of(TurnClient(bench, "198.51.100.2").allocate()) == 0, "they are tried again"


def test_row_38_allocating_and_freeing_leaves_nothing_behind() -> None:
    bench = RelayBench(lowest=60000, highest=60009)
    client = TurnClient(bench)
    for _ in range(1000):
        assert code_of(client.allocate()) == 0
        assert code_of(client.refresh(0)) == 0
    assert bench.ports.open_ports == {}
    assert len(bench.server._timers._heap) < 100
    assert bench.server.counters.allocations == 0


def test_allocations_of_one_address_are_limited() -> None:
    bench = RelayBench(limits=RelayLimits(allocations_per_address=2))
    clients = [TurnClient(bench, "198.51.100.7", port, username=f"1893456000:{port}") for port in (1, 2, 3)]
    assert [code_of(client.allocate()) for client in clients] == [0, 0, 508]
    assert code_of(TurnClient(bench, "198.51.100.8").allocate()) == 0
    clients[0].refresh(0)
    assert code_of(clients[2].allocate()) == 0


def test_allocations_in_all_are_limited() -> None:
    bench = RelayBench(limits=RelayLimits(allocations=1))
    assert code_of(TurnClient(bench, "198.51.100.1").allocate()) == 0
    assert code_of(TurnClient(bench, "198.51.100.2").allocate()) == 508


@pytest.mark.parametrize(("lowest", "highest"), [(2, 1), (0, 10), (1, 65536)])
def test_a_range_that_is_none_is_refused_at_the_start(lowest: int, highest: int) -> None:
    with pytest.raises(ValueError, match="no range of ports"):
        RelayBench(lowest=lowest, highest=highest)


def test_the_whole_range_of_ports_can_be_lent() -> None:
    assert code_of(TurnClient(RelayBench(lowest=1, highest=65535)).allocate()) == 0


def test_a_clock_that_runs_behind_the_deadline_changes_nothing() -> None:
    bench = RelayBench()
    TurnClient(bench).allocate()
    bench.server.handle_timeout(599 * SECOND)
    assert bench.ports.open_ports
    bench.server.handle_timeout(10**6 * SECOND)
    assert not bench.ports.open_ports
    assert bench.server.poll_timeout() is None


def test_responses_are_counted_by_method_and_code() -> None:
    bench = RelayBench()
    client = TurnClient(bench)
    client.raw(client.build(Method.BINDING))
    client.allocate()
    client.allocate()
    assert bench.server.counters.responses == {("binding", 0): 1, ("allocate", 401): 1, ("allocate", 0): 1, ("allocate", 437): 1}
    listed = bench.server.counters.as_dict()["responses"]
    assert {"message_type": "allocate", "response_class": "error", "error_code": 437, "count": 1} in listed  # type: ignore[operator]
