"""The real program over real WebSockets on loopback: start, kill, restart, reload, TLS, and every mistake a person makes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import connect

from firezone.base.errors import PortalError
from firezone.base.rng import SeededRng
from firezone.loop.portal_connection import PortalConnection
from firezone.proto.phoenix.login import LoginUrl
from firezone.wire.phoenix import Push, decode_inbound, encode_frame
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import PublicKey
from firezone.wire.portal.v2 import client as v2_client
from firezone.wire.portal.v2 import gateway as v2_gateway

DEADLINE_S = 15.0
COMMAND = [sys.executable, "-m", "firezone.portal"]


class Program:
    """A running portal and what it has printed."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.output = directory / "portal.log"
        with self.output.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "--config", str(directory / "policy.toml"), *options], stdout=log, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.output.read_text())

    async def until(self, part: str, count: int = 1) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.text().count(part) < count:
                assert self.process.poll() is None, self.text()
                await asyncio.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


class Device:
    """Our own device at the program."""

    def __init__(self, port: int, role: str, token: str, key: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.messages: asyncio.Queue[Any] = asyncio.Queue()
        url = f"{'wss' if tls else 'ws'}://localhost:{port}"
        login = getattr(LoginUrl, role)(url, token, device_id=f"{role}-id", name=role)
        words = client if role == "client" else gateway
        self.connection = PortalConnection(
            login, role, user_agent=f"Debian/12 connlib/{'1.5.4' if role == 'client' else '1.4.17'}",
            from_portal=words.FROM_PORTAL, to_portal=words.TO_PORTAL, on_message=self.receive, rng=SeededRng(key),
            public_key=bytes([key]) * 32, tls=tls,
        )  # fmt: skip
        self.task = asyncio.create_task(self.connection.run())

    def receive(self, message: Any) -> None:
        if isinstance(message, gateway.AuthorizeFlow):
            self.connection.send(gateway.FlowAuthorized(ref=message.ref))
        self.messages.put_nowait(message)

    async def next(self, kind: type) -> Any:
        async with asyncio.timeout(DEADLINE_S):
            message = await self.messages.get()
        assert isinstance(message, kind), message
        return message

    async def stop(self) -> None:
        self.connection.close()
        await asyncio.wait({self.task}, timeout=DEADLINE_S)
        if self.task.done() and not self.task.cancelled():
            self.task.exception()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    run("init", "--config", str(tmp_path / "policy.toml"), "--resource", "Web server=10.20.0.5", "--resource", "Net=10.21.0.0/16")
    return tmp_path


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        found: int = sock.getsockname()[1]
        return found


@pytest.fixture
def start(directory: Path, port: int) -> Iterator[Callable[..., Program]]:
    running: list[Program] = []

    def begin(*options: str) -> Program:
        running.append(Program(directory, "--bind", f"127.0.0.1:{port}", *options))
        return running[-1]

    yield begin
    for program in running:
        if program.process.poll() is None:
            program.process.kill()
            program.process.wait(DEADLINE_S)


@pytest.fixture
async def devices() -> AsyncIterator[list[Device]]:
    found: list[Device] = []
    yield found
    for device in found:
        await device.stop()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def token(directory: Path, role: str) -> str:
    return (directory / f"{role}.token").read_text()


async def test_a_flow_through_the_program_and_kill_9_in_between(
    directory: Path, port: int, start: Callable[..., Program], devices: list[Device]
) -> None:
    program = start()
    await program.until("listening")
    served = Device(port, "gateway", token(directory, "gateway"), 2)
    asker = Device(port, "client", token(directory, "client"), 1)
    devices += [served, asker]
    before, seen = await served.next(gateway.Init), await asker.next(client.Init)
    assert [resource.name for resource in seen.resources] == ["Web server", "Net"]
    asker.connection.send(client.CreateFlow(resource_id=seen.resources[0].id, connected_gateway_ids=()))
    order, created = await served.next(gateway.AuthorizeFlow), await asker.next(client.FlowCreated)
    assert order.client.preshared_key == created.preshared_key

    assert program.stop(signal.SIGKILL) == -signal.SIGKILL
    program = start()
    after, again = await served.next(gateway.Init), await asker.next(client.Init)
    assert (after.interface, again.interface) == (before.interface, seen.interface)
    assert [(grant.client_id, grant.resource_id) for grant in after.authorizations] == [(order.client.id, seen.resources[0].id)]
    asker.connection.send(client.CreateFlow(resource_id=seen.resources[0].id, connected_gateway_ids=(created.gateway_id,)))
    assert await asker.next(client.FlowCreated) == created


async def test_the_policy_is_read_again_and_a_wrong_one_is_named_and_left(
    directory: Path, port: int, start: Callable[..., Program], devices: list[Device]
) -> None:
    program = start()
    await program.until("listening")
    asker = Device(port, "client", token(directory, "client"), 1)
    devices.append(asker)
    await asker.next(client.Init)
    policy = directory / "policy.toml"
    good = policy.read_text()

    policy.write_text(good.replace('"10.21.0.0/16"', '"10.21.0.1/16"'))
    await program.until("the old one stays in force")
    line = next(number for number, text in enumerate(good.splitlines(), 1) if "10.21.0.0" in text)
    assert f"policy.toml, line {line}, resource[2].address" in program.text()
    policy.write_text(good + "\n[[")
    await program.until("the old one stays in force", 2)
    assert "not TOML" in program.text()

    policy.write_text(good.replace('"10.21.0.0/16"', '"10.22.0.0/16"'))
    assert str((await asker.next(client.ResourceCreatedOrUpdated)).resource.address) == "10.22.0.0/16"
    program.process.send_signal(signal.SIGHUP)
    await program.until("policy reloaded", 2)
    assert asker.messages.empty()


async def test_a_wrong_token_ends_the_device_and_is_not_logged(
    port: int, start: Callable[..., Program], devices: list[Device]
) -> None:
    program = start()
    await program.until("listening")
    device = Device(port, "client", "wr0ng-secret", 1)
    devices.append(device)
    with pytest.raises(PortalError) as caught:
        await asyncio.wait_for(device.task, DEADLINE_S)
    assert caught.value.is_authentication_error
    await program.until("Invalid token")
    assert "wr0ng" not in program.text()


async def test_no_token_key_or_password_is_ever_printed(
    directory: Path, port: int, start: Callable[..., Program], devices: list[Device]
) -> None:
    program = start()
    await program.until("listening")
    served = Device(port, "gateway", token(directory, "gateway"), 2)
    asker = Device(port, "client", token(directory, "client"), 1)
    devices += [served, asker]
    await served.next(gateway.Init)
    seen = await asker.next(client.Init)
    asker.connection.send(client.CreateFlow(resource_id=seen.resources[0].id, connected_gateway_ids=()))
    created = await asker.next(client.FlowCreated)
    for device in (asker, served):
        await device.stop()
    await program.until("disconnected", 2)
    assert program.stop() == 0
    for secret in (
        token(directory, "gateway").strip(), token(directory, "client").strip(),
        created.client_ice_credentials.password.reveal(), created.gateway_ice_credentials.password.reveal(),
    ):  # fmt: skip
        assert secret not in program.text()
    assert os.stat(directory / "policy.db").st_mode & 0o777 == 0o600


async def test_it_speaks_tls(directory: Path, port: int, start: Callable[..., Program], devices: list[Device]) -> None:
    made = subprocess.run(  # noqa: ASYNC221 - nothing else runs yet
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory, capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip("openssl is not here")
    program = start("--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem"))
    await program.until("wss://")
    trusting = ssl.create_default_context(cafile=str(directory / "cert.pem"))
    good = Device(port, "client", token(directory, "client"), 1, tls=trusting)
    devices.append(good)
    await good.next(client.Init)
    doubtful = Device(port, "gateway", token(directory, "gateway"), 2, tls=ssl.create_default_context())
    devices.append(doubtful)
    await asyncio.sleep(0.5)
    assert doubtful.messages.empty()


def test_a_file_that_is_no_certificate_is_named(directory: Path) -> None:
    policy = str(directory / "policy.toml")
    command = [sys.executable, "-m", "firezone.portal", "--config", policy, "--tls-cert", policy, "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: {policy} is no certificate with its key (PEM).\n"


async def test_it_answers_health_checks_and_plain_requests(port: int, start: Callable[..., Program]) -> None:
    program = start()
    await program.until("listening")
    answers = {
        "/healthz": "200 OK",
        "/healthz?x": "200 OK",
        "/": "404 Not Found",
        "//[": "404 Not Found",
        "/client/websocket": "401 Unauthorized",
    }
    for path, status in answers.items():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.readline(), DEADLINE_S)).decode().strip() == f"HTTP/1.1 {status}"
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x00\xff garbage" * 4000)
    assert not (await asyncio.wait_for(reader.read(), DEADLINE_S)).startswith(b"HTTP/1.1 1")
    writer.close()
    assert "Traceback" not in program.text()


async def test_version_2_is_refused_by_problems_and_asked_to_come_later(
    directory: Path, port: int, start: Callable[..., Program]
) -> None:
    program = start()
    await program.until("listening")

    async def ask(authorization: str) -> tuple[str, dict[str, str], dict[str, Any]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"GET /client/v2/websocket?external_id=x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c9eoqCJpa8sQVHy8zLzpEQ==\r\nUser-Agent: a headless-client/1.5.12\r\n"
            + authorization.encode() + b"\r\n"
        )  # fmt: skip
        head, _, body = (await asyncio.wait_for(reader.read(), DEADLINE_S)).decode().partition("\r\n\r\n")
        writer.close()
        status, *lines = head.split("\r\n")
        return status, {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, json.loads(body)

    status, headers, problem = await ask("")
    assert (status, headers["content-type"]) == ("HTTP/1.1 401 Unauthorized", "application/problem+json")
    assert problem["code"] == "missing_token"
    status, _, problem = await ask(f"X-Authorization: Bearer {token(directory, 'client').strip()}\r\n")
    assert (status, problem["code"]) == ("HTTP/1.1 400 Bad Request", "invalid_connect_params")
    status, headers, problem = await ask(f"X-Authorization: Bearer {token(directory, 'client').strip()}\r\n")
    assert (status, headers["retry-after"], problem["code"]) == ("HTTP/1.1 503 Service Unavailable", "1", "rate_limit")
    assert token(directory, "client").strip() not in program.text()


async def test_a_device_of_version_2_logs_in_and_is_served(directory: Path, port: int, start: Callable[..., Program]) -> None:
    program = start()
    await program.until("listening")
    said: list[Any] = []
    for role, words, key in (("gateway", v2_gateway, b"\x02"), ("client", v2_client, b"\x01")):
        query = urlencode({"external_id": role, "name": role, "public_key": PublicKey(key * 32).to_text()})
        headers = {"X-Authorization": f"Bearer {token(directory, role).strip()}"}
        agent = f"Debian/12 {'headless-client/1.5.12' if role == 'client' else 'gateway/1.6.1'}"
        websocket = await connect(f"ws://127.0.0.1:{port}/{role}/v2/websocket?{query}", additional_headers=headers,
                                  user_agent_header=agent, compression=None)  # fmt: skip
        said.append(websocket)
        await websocket.send(encode_frame(role, "phx_join", b"null", 0))
        assert '"status":"ok"' in await asyncio.wait_for(websocket.recv(), DEADLINE_S)
        frame = decode_inbound(await asyncio.wait_for(websocket.recv(), DEADLINE_S))
        assert isinstance(frame, Push)
        init = words.FROM_PORTAL.decode(frame.event, frame.payload)
    served, asker = said
    await asker.send(encode_frame("client", *v2_client.TO_PORTAL.encode(
        v2_client.RequestAuthorization(resource_id=init.resources[0].id, connected_gateway_ids=())), 1))  # fmt: skip
    order = json.loads(await asyncio.wait_for(served.recv(), DEADLINE_S))
    assert order["event"] == "create_authorization"
    await served.send(encode_frame("gateway", "authorization_created", json.dumps({"ref": order["payload"]["ref"]}).encode(), 1))
    created = json.loads(await asyncio.wait_for(asker.recv(), DEADLINE_S))
    assert created["event"] == "authorization_created"
    assert created["payload"]["site_id"]
    for websocket in said:
        await websocket.close()


async def test_a_port_that_is_taken_is_said(port: int, start: Callable[..., Program]) -> None:
    program = start()
    await program.until("listening")
    second = run("--config", str(program.directory / "policy.toml"), "--bind", f"127.0.0.1:{port}", "--state",
                 str(program.directory / "other.db"))  # fmt: skip
    assert second.returncode == 1
    assert second.stderr == (
        f"Error: Cannot listen on 127.0.0.1 port {port}: another program listens there; choose another address with --bind.\n"
    )


async def test_two_portals_do_not_share_a_state(start: Callable[..., Program]) -> None:
    program = start()
    await program.until("listening")
    second = run("--config", str(program.directory / "policy.toml"), "--bind", "127.0.0.1:0")
    assert second.returncode == 1
    assert "another portal is running on it" in second.stderr


def test_a_state_file_that_is_none_is_said_and_left(directory: Path) -> None:
    state = directory / "policy.db"
    state.write_text("not a database, but somebody's notes" * 100)
    result = run("--config", str(directory / "policy.toml"), "--bind", "127.0.0.1:0")
    assert result.returncode == 1
    assert result.stderr == f"Error: The state file {state} cannot be used: file is not a database.\n"
    assert state.read_text().startswith("not a database")


def test_init_writes_what_check_accepts_and_prints_commands_that_can_be_run(directory: Path) -> None:
    elsewhere = directory / "it's here"
    options = ["--site", 'Büro "1"', "--user", "me\\you", "--relay", "east", "--bind", "127.0.0.1:9"]
    made = run("init", "--config", str(elsewhere / "p.toml"), *options)
    assert made.returncode == 0, made.stderr
    commands = [line for line in made.stdout.splitlines() if " -m firezone." in line]
    assert len(commands) == 4
    checked = subprocess.run(commands[0] + " --check", shell=True, capture_output=True, text=True, check=False)
    assert checked.stdout == f"{elsewhere / 'p.toml'} is fine: 1 site, 1 user, 3 tokens, 0 relays, 1 resource, 1 policy.\n"
    for name, command in zip(("gateway", "relay-east", "client"), commands[1:], strict=True):
        secret = (elsewhere / f"{name}.token").read_text().strip()
        shown = subprocess.run(
            command.split(shlex.quote(sys.executable))[0] + "; printf '%s %s' \"$FIREZONE_API_URL\" \"$FIREZONE_TOKEN\"",
            shell=True, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert shown.stdout == f"ws://127.0.0.1:9 {secret}"
        assert secret not in made.stdout + (elsewhere / "p.toml").read_text()
        assert os.stat(elsewhere / f"{name}.token").st_mode & 0o777 == 0o600


def test_init_replaces_nothing_unless_told(directory: Path) -> None:
    before = token(directory, "client")
    again = run("init", "--config", str(directory / "policy.toml"))
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert token(directory, "client") == before
    assert run("init", "--config", str(directory / "policy.toml"), "--force").returncode == 0
    assert token(directory, "client") != before


def test_a_further_token_can_be_pasted_into_the_policy(directory: Path) -> None:
    made = run("token", "client", "--for", "me", "--name", "phone", "--out", str(directory / "phone.token"))
    with (directory / "policy.toml").open("a") as policy:
        policy.write(made.stdout)
    assert "3 tokens" in run("--config", str(directory / "policy.toml"), "--check").stdout


def test_a_further_token_replaces_none_and_names_no_file_by_its_text(directory: Path) -> None:
    before = token(directory, "client")
    again = run("token", "client", "--for", "me", "--out", str(directory / "client.token"))
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert token(directory, "client") == before
    command = [sys.executable, "-m", "firezone.portal", "token", "client", "--for", "me"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    (made,) = directory.glob("client-*.token")
    assert made.stem.removeprefix("client-") not in made.read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "nowhere.toml"], "The policy nowhere.toml cannot be read: No such file or directory; `init` writes one."),
        (["--bind", "8081"], "is not HOST:PORT"),
        (["--tls-cert", "nowhere.pem"], "cannot be read"),
        (["--tls-key", "nowhere.pem"], "--tls-key needs --tls-cert"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.returncode == 1
    assert says in result.stderr
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_help_is_fast_and_teaches() -> None:
    began = time.monotonic()
    shown = run("--help")
    assert time.monotonic() - began < 2.0
    for word in ("policy.toml", "[[resource]]", "init", "--tls-cert", "hours"):
        assert word in shown.stdout
    heavy = "('websockets', 'msgspec', 'asyncio', 'sqlite3')"
    lean = f"import sys, firezone.portal.__main__; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", lean], capture_output=True, text=True, check=True).stdout == "[]\n"
