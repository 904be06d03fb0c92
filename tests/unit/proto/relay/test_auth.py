"""Who is believed, and what the others are told (rows 13 to 23)."""

from __future__ import annotations

import uuid

import pytest

from firezone.base.net import Endpoint
from firezone.base.rng import SeededRng
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND
from firezone.proto.relay.auth import NONCE_USES, NONCE_WINDOW, NonceCheck, Nonces, Username, new_secret
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method
from tests.harness.relay import SALT, SECRET, UTC, RelayBench, TurnClient, code_of

TRANSPORT = (Attribute.REQUESTED_TRANSPORT, 17)


@pytest.fixture
def bench() -> RelayBench:
    return RelayBench()


@pytest.fixture
def client(bench: RelayBench) -> TurnClient:
    return TurnClient(bench)


def nonce_of(received: stun.Received) -> str:
    nonce = received.message.get(Attribute.NONCE)
    assert isinstance(nonce, str)
    return nonce


@pytest.mark.parametrize(
    ("secret", "expiry", "salt", "password"),
    [
        ("1cab293a-4032-46f4-862a-40e5d174b0d2", 1685984278, "uvdgKvS9GXYZ_vmv", "6xUIoZ+QvxKhRasLifwfRkMXl+ETLJUsFkHlXjlHAkg"),
        (
            "4c98bf59c99b3e467ecd7cf9d6b3e5279645fca59be67bc5bb4af3cf653761ab",
            1892160000,
            "n23JJ2wKKtt30oXi",
            "00hqldgk5xLeKKOB+xls9mHMVtgqzie9DulfgQwMv68",
        ),
    ],
)
def test_row_13_passwords(secret: str, expiry: int, salt: str, password: str) -> None:
    username = Username.from_text(f"{expiry}:{salt}")
    assert username is not None
    assert username.password(SecretText(secret)) == password


def test_a_secret_is_64_hex_digits() -> None:
    secret = new_secret(SeededRng(0)).reveal()
    assert len(secret) == 64
    assert bytes.fromhex(secret).hex() == secret
    assert secret != new_secret(SeededRng(1)).reveal()


def test_row_14_without_credentials_a_challenge_without_signature(client: TurnClient) -> None:
    received = client.raw(client.build(Method.ALLOCATE, TRANSPORT, sign=False))
    assert received is not None
    assert code_of(received) == 401
    assert received.message.get(Attribute.REALM) == "firezone"
    assert str(uuid.UUID(nonce_of(received))) == nonce_of(received)
    assert received.integrity is None
    kinds = [kind for kind, _ in received.message.attributes]
    assert kinds == [Attribute.SOFTWARE, Attribute.ERROR_CODE, Attribute.REALM, Attribute.NONCE]


@pytest.mark.parametrize("method", [Method.ALLOCATE, Method.REFRESH, Method.CREATE_PERMISSION])
def test_row_15_a_known_username_gets_its_challenge_signed(client: TurnClient, method: Method) -> None:
    received = client.ask(method, TRANSPORT)
    assert code_of(received) == 401
    assert received.verify_integrity(client.key)


def test_a_username_without_integrity_gets_its_challenge_signed(client: TurnClient) -> None:
    attributes = (TRANSPORT, (Attribute.USERNAME, client.username))
    received = client.raw(stun.encode(Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), attributes)))
    assert code_of(received) == 401
    assert received is not None
    assert received.verify_integrity(client.key)


def test_row_16_nonces_good_malformed_and_unknown(client: TurnClient) -> None:
    client.nonce = "abc"
    received = client.ask(Method.ALLOCATE, TRANSPORT)
    assert code_of(received) == 401
    assert received.verify_integrity(client.key)
    client.nonce = str(uuid.UUID(int=12345))
    received = client.ask(Method.ALLOCATE, TRANSPORT)
    assert code_of(received) == 438
    assert received.verify_integrity(client.key)
    assert received.message.get(Attribute.REALM) == "firezone"
    client.nonce = nonce_of(received)
    assert code_of(client.ask(Method.ALLOCATE, TRANSPORT)) == 0


def test_row_17_a_nonce_serves_ten_thousand_requests(client: TurnClient) -> None:
    client.allocate()
    refresh = client.build(Method.REFRESH)
    for _ in range(NONCE_USES - 1):
        received = client.raw(refresh)
        assert received is not None
        assert received.message.message_class is MessageClass.SUCCESS
    received = client.ask(Method.REFRESH)
    assert code_of(received) == 438
    assert nonce_of(received) != client.nonce
    client.nonce = nonce_of(received)
    assert code_of(client.ask(Method.REFRESH)) == 0


def test_row_18_wrong_signatures_use_a_nonce_up(client: TurnClient) -> None:
    client.nonce = nonce_of(client.ask(Method.REFRESH))
    good, password = client.password, "wrong"
    client.password = password
    refresh = client.build(Method.REFRESH)
    for _ in range(NONCE_USES):
        assert code_of(client.raw(refresh)) == 401
    client.password = good
    assert code_of(client.ask(Method.REFRESH)) == 438


@pytest.mark.parametrize(
    "username", ["foobar", "1:2:3", "x:y", ":", "", "-1:s", "+1:s", "1 :s", "\u0663:s", "0x10:s", f"{'9' * 400}:s"]
)
@pytest.mark.parametrize("with_nonce", [False, True])
def test_row_19_usernames_of_another_form_get_silence(bench: RelayBench, username: str, with_nonce: bool) -> None:
    client = TurnClient(bench, username=username)
    client.nonce = bench.server._nonces.current(client.endpoint, bench.now) if with_nonce else None
    assert client.raw(client.build(Method.ALLOCATE, TRANSPORT)) is None
    assert bench.server.counters.allocations == 0


@pytest.mark.parametrize("expiry", [2**63, 2**64 - 1, 2**64])
def test_row_19_expiries_beyond_the_clock_get_silence(bench: RelayBench, expiry: int) -> None:
    client = TurnClient(bench, username=f"{expiry}:s")
    client.nonce = bench.server._nonces.current(client.endpoint, bench.now)
    assert client.raw(client.build(Method.ALLOCATE, TRANSPORT)) is None
    assert TurnClient(bench).allocate().message_class is MessageClass.SUCCESS


def test_row_19_the_last_expiry_of_the_clock_is_refused_without_its_password(bench: RelayBench) -> None:
    client = TurnClient(bench, username=f"{2**63 - 1}:s")
    client.password = "guess"
    client.nonce = bench.server._nonces.current(client.endpoint, bench.now)
    assert code_of(client.ask(Method.ALLOCATE, TRANSPORT)) == 401


def test_row_20_credentials_die_with_the_second_they_name(bench: RelayBench) -> None:
    seconds = UTC // SECOND
    dead = TurnClient(bench, username=f"{seconds - 1}:{SALT}")
    dead.nonce = nonce_of(dead.ask(Method.ALLOCATE, TRANSPORT))
    received = dead.ask(Method.ALLOCATE, TRANSPORT)
    assert code_of(received) == 401
    assert received.verify_integrity(dead.key)
    alive = TurnClient(bench, port=1, username=f"{seconds}:{SALT}")
    assert alive.allocate().message_class is MessageClass.SUCCESS
    bench.now += 1
    assert code_of(alive.ask(Method.REFRESH)) == 401


def test_row_20_the_password_of_another_secret_is_refused(client: TurnClient) -> None:
    username = Username.from_text(client.username)
    assert username is not None
    client.password = username.password(SecretText("another"))
    client.nonce = nonce_of(client.ask(Method.ALLOCATE, TRANSPORT))
    received = client.ask(Method.ALLOCATE, TRANSPORT)
    assert code_of(received) == 401
    assert received.verify_integrity(username.key(SECRET)), "signed with what the password should have been"


def test_the_wall_clock_may_be_set_while_we_run(bench: RelayBench) -> None:
    client = TurnClient(bench, username=f"{UTC // SECOND + 60}:{SALT}")
    client.allocate()
    bench.server.set_clock(bench.now, UTC + 61 * SECOND)
    assert code_of(client.ask(Method.REFRESH)) == 401
    bench.server.set_clock(bench.now, UTC)
    assert code_of(client.ask(Method.REFRESH)) == 0


@pytest.mark.parametrize("realm", [None, "example.org"])
def test_row_21_the_realm_is_not_looked_at(client: TurnClient, realm: str | None) -> None:
    nonce = nonce_of(client.ask(Method.ALLOCATE, TRANSPORT))
    credentials = ((Attribute.USERNAME, client.username), (Attribute.NONCE, nonce))
    named = ((Attribute.REALM, realm),) if realm else ()
    request = Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), (TRANSPORT, *credentials, *named))
    assert code_of(client.raw(stun.encode(request, key=client.key))) == 0


@pytest.mark.parametrize(
    ("method", "attributes"),
    [
        (Method.ALLOCATE, ()),
        (Method.CHANNEL_BIND, ((Attribute.CHANNEL_NUMBER, 0x4000),)),
        (Method.CHANNEL_BIND, ((Attribute.XOR_PEER_ADDRESS, Endpoint.from_text("192.0.2.1", 1)),)),
    ],
)
@pytest.mark.parametrize("sign", [False, True])
def test_row_22_what_is_missing_is_told_before_credentials_are_asked(
    client: TurnClient, method: Method, attributes: tuple[tuple[int, object], ...], sign: bool
) -> None:
    received = client.raw(client.build(method, *attributes, sign=sign))
    assert code_of(received) == 400
    assert received is not None
    assert received.integrity is None


def test_row_23_a_nonce_belongs_to_one_client(bench: RelayBench) -> None:
    a, b = TurnClient(bench, "198.51.100.1"), TurnClient(bench, "198.51.100.2")
    first = nonce_of(a.ask(Method.ALLOCATE, TRANSPORT))
    assert nonce_of(a.ask(Method.ALLOCATE, TRANSPORT)) == first
    other = nonce_of(b.ask(Method.ALLOCATE, TRANSPORT))
    assert other != first
    b.nonce = first
    received = b.ask(Method.ALLOCATE, TRANSPORT)
    assert code_of(received) == 438
    assert nonce_of(received) == other
    a.nonce, b.nonce = first, other
    assert code_of(a.ask(Method.ALLOCATE, TRANSPORT)) == code_of(b.ask(Method.ALLOCATE, TRANSPORT)) == 0


def test_challenges_alone_cost_no_memory() -> None:
    nonces = Nonces(SeededRng(0))
    for port in range(1, 2000):
        client = Endpoint.from_text("192.0.2.1", port)
        nonces.current(client, 0)
        assert nonces.use(client, str(uuid.UUID(int=port)), 0) is NonceCheck.STALE
    assert len(nonces) == 0


def test_counted_clients_are_bounded_and_the_longest_unused_goes() -> None:
    nonces = Nonces(SeededRng(0), limit=3)
    clients = [Endpoint.from_text("192.0.2.1", port) for port in range(1, 6)]
    for client in clients[:3]:
        assert nonces.use(client, nonces.current(client, 0), 0) is NonceCheck.GOOD
    assert nonces.use(clients[0], nonces.current(clients[0], 0), 0) is NonceCheck.GOOD
    for client in clients[3:]:
        assert nonces.use(client, nonces.current(client, 0), 0) is NonceCheck.GOOD
    assert len(nonces) == 3
    assert list(nonces._uses) == [clients[0], *clients[3:]]


@pytest.mark.parametrize("used_before", [False, True])
def test_nonces_die_with_the_window_after_theirs(used_before: bool) -> None:
    nonces = Nonces(SeededRng(0))
    client = Endpoint.from_text("192.0.2.1", 1)
    nonce = nonces.current(client, 0)
    if used_before:
        assert nonces.use(client, nonce, 0) is NonceCheck.GOOD
    assert nonces.use(client, nonce, 2 * NONCE_WINDOW - 1) is NonceCheck.GOOD
    assert nonces.use(client, nonce, 2 * NONCE_WINDOW) is NonceCheck.STALE
    assert nonces.use(client, nonces.current(client, 2 * NONCE_WINDOW), 2 * NONCE_WINDOW) is NonceCheck.GOOD
