"""A relay as a process on loopback, and a TURN client that speaks to it by the codec alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from firezone.base.net import Endpoint
from firezone.base.secret import SecretText
from firezone.proto.relay.auth import Username
from firezone.wire import stun
from firezone.wire.stun import Attribute, Message, MessageClass, Method, Value

ROOT = Path(__file__).parent.parent.parent
SECRET = "stand-alone-secret-of-a-test"
DEADLINE_S = 10.0


def free_port(kind: int = socket.SOCK_DGRAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass
class RelayProgram:
    """A relay process and where it can be reached."""

    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    descriptors: int | None = None
    """Files it may open, if not as many as we."""

    def __post_init__(self) -> None:
        self.port, self.health, self.control = free_port(), free_port(socket.SOCK_STREAM), free_port(socket.SOCK_STREAM)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FIREZONE")}
        self.process = subprocess.Popen(
            [
                *self._limited(),
                sys.executable, "-m", "firezone.relay", "--public-ip4-addr", "127.0.0.1", "--listen-port", str(self.port),
                "--lowest-port", "20000", "--highest-port", "20999", "--health-check-addr", f"127.0.0.1:{self.health}",
                "--control-endpoint", f"127.0.0.1:{self.control}", *self.arguments,
            ],
            cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT), "RUST_LOG": "info"} | self.variables, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _limited(self) -> list[str]:
        """What starts a program that may open so many files and not ask for more, though it be root."""
        if self.descriptors is None:
            return []
        powerless = ["setpriv", "--bounding-set=-sys_resource"] if os.geteuid() == 0 else []
        return ["prlimit", f"--nofile={self.descriptors}", *powerless]

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                if self.ask(self.health, "/healthz")[0] == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(self.end())

    def ask(self, port: int, target: str, method: str = "GET") -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask(self.control, "/metrics")[1])
        return found

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Sends a signal and returns status, stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err


class SocketTurnClient:
    """A TURN client on a real socket."""

    def __init__(self, port: int, secret: str = SECRET, username: str = "1999999999:salt") -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect(("127.0.0.1", port))
        known = Username.from_text(username)
        assert known is not None
        self.username, self.password = username, known.password(SecretText(secret))
        self.nonce: str | None = None
        self._count = 0

    @property
    def key(self) -> bytes:
        return stun.long_term_key(self.username, "firezone", self.password)

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.from_text(*self.socket.getsockname())

    def ask(self, method: Method, *attributes: tuple[int, Value]) -> Message:
        """Sends a request, once more with the nonce when it is challenged, and returns the answer."""
        for _ in range(2):
            self._count += 1
            credentials: list[tuple[int, Value]] = [(Attribute.USERNAME, self.username), (Attribute.REALM, "firezone")]
            credentials += [(Attribute.NONCE, self.nonce)] if self.nonce else []
            message = Message(MessageClass.REQUEST, method, self._count.to_bytes(12, "big"), (*attributes, *credentials))
            self.socket.send(stun.encode(message, key=self.key))
            answer = stun.decode(self.socket.recv(2048)).message
            while answer.transaction_id != message.transaction_id:  # a late one
                answer = stun.decode(self.socket.recv(2048)).message
            if answer.message_class is MessageClass.SUCCESS or answer.get(Attribute.NONCE) is None:
                return answer
            self.nonce = answer.get(Attribute.NONCE)
        return answer

    def allocate(self) -> Endpoint:
        answer = self.ask(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, 17), (Attribute.ADDITIONAL_ADDRESS_FAMILY, 2))
        relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS)
        assert isinstance(relayed, Endpoint), answer
        return relayed
