"""Finds out what a network does to UDP, from behind it, by talking to two public addresses with two ports each.

`python -m firezone.lab.nat.probe serve ADDRESS ADDRESS [--ipv6 ADDRESS]` answers in the open, `... classify` with the same
arguments asks from behind and prints one JSON object. All questions go out at once, are repeated until answered, and what is not
answered within `PATIENCE_S` counts as stopped:

- mapping: one socket asks all four; do they see one endpoint, one per address, or one per port?
- filtering: a fresh socket asks the first one alone to have its three neighbours answer; whose answers arrive?
- hairpinning: two sockets send to each other's outer endpoint.
- IPv6: is there an address, and does anybody answer?

Source: RFC 5780 sections 4.3, 4.4 and 4.6 in JSON, for STUN's CHANGE-REQUEST would be known to this program alone.
"""

from __future__ import annotations

import json
import select
import socket
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from firezone.lab.nat.kinds import RELAY_PORT
from firezone.lab.nat.table import Dependence

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTS = (RELAY_PORT, RELAY_PORT + 1)
PATIENCE_S = 1.2
_REPEAT_S = 0.2
"""Six questions within the patience: a scheduler's hiccup or a lost packet of an overflowing queue is not taken for a filter."""
_MAX_MESSAGE = 512

Where = tuple[int, int]
"""Index of the server's address and of its port."""
_ALL: tuple[Where, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe has seen."""

    ipv4: str
    """none: no address or route; silent: nobody answers; works."""
    ipv6: str
    is_translated: bool | None = None
    """Whether the outside sees another address than we have. This and what follows is about IPv4; None where nothing is known."""
    mapping: str | None = None
    filtering: str | None = None
    is_preserving: bool | None = None
    is_hairpinning: bool | None = None
    answers_other_port: bool | None = None
    """Whether anything is heard from the second port, which is not a relay's."""


class _Question:
    """One datagram that is repeated until its answer has come."""

    def __init__(self, sock: socket.socket, to: tuple[str, int], **content: object) -> None:
        self._sock, self._to, self._content = sock, to, content

    def send(self, number: int) -> None:
        try:
            self._sock.sendto(json.dumps({**self._content, "number": number}).encode(), self._to)
        except OSError:
            return  # unreachable now, or an ICMP error of the one before: no answer says enough


def serve(addresses: tuple[str, str], ipv6: str | None) -> None:
    """Answers until the process is killed, from the socket the question names."""
    sockets = {(a, p): _bound(addresses[a], PORTS[p]) for a, p in _ALL}
    if ipv6 is not None:
        sockets[0, 2] = _bound(ipv6, PORTS[0])
    print(f"listening on {len(sockets)} sockets", flush=True)
    while True:
        for sock in select.select(list(sockets.values()), [], [])[0]:
            data, source = sock.recvfrom(_MAX_MESSAGE)
            try:
                question = json.loads(data)
                via = question.get("via")
                answer = sock if via is None else sockets[via[0], via[1]]
                number = int(question["number"])
            except (ValueError, TypeError, KeyError, IndexError, AttributeError):
                continue
            answer.sendto(json.dumps({"number": number, "seen": source[:2]}).encode(), source)


def classify(addresses: tuple[str, str], ipv6: str | None) -> Finding:
    """Asks everything there is to ask and returns what the answers mean."""
    ipv4_source = _source_address(addresses[0])
    ipv6_source = None if ipv6 is None else _source_address(ipv6)
    sockets: list[socket.socket] = []
    questions: dict[str, _Question] = {}
    if ipv4_source is not None:
        mapping, filtering, first, second = (_bound(ipv4_source, 0) for _ in range(4))
        sockets += [mapping, filtering, first, second]
        for where in _ALL:
            questions[f"map {where}"] = _Question(mapping, (addresses[where[0]], PORTS[where[1]]))
            questions[f"filter {where}"] = _Question(filtering, (addresses[0], PORTS[0]), via=where)
        questions["first"] = _Question(first, (addresses[0], PORTS[0]))
        questions["second"] = _Question(second, (addresses[0], PORTS[0]))
    if ipv6_source is not None:
        assert ipv6 is not None
        sockets.append(_bound(ipv6_source, 0))
        questions["ipv6"] = _Question(sockets[-1], (ipv6, PORTS[0]))
    answers = _ask(sockets, questions)
    works6 = "none" if ipv6_source is None else "works" if "ipv6" in answers else "silent"
    if ipv4_source is None:
        return Finding("none", works6)
    seen = {where: answers[f"map {where}"] for where in _ALL if f"map {where}" in answers}
    heard = {where for where in _ALL if f"filter {where}" in answers}
    if not seen or not heard:
        return Finding("silent", works6)
    own = mapping.getsockname()
    return Finding(
        "works",
        works6,
        is_translated=next(iter(seen.values()))[0] != own[0],
        mapping=str(judge_mapping(seen)),
        filtering=str(judge_filtering(heard)),
        is_preserving=all(port == own[1] for _, port in seen.values()),
        is_hairpinning=_hairpins(first, second, answers),
        answers_other_port=any(where[1] == 1 for where in seen),
    )


def judge_mapping(seen: dict[Where, tuple[str, int]]) -> Dependence:
    """Returns how a NAT maps, from the endpoints that the servers have seen one socket come from."""
    if len(set(seen.values())) <= 1:
        return Dependence.ENDPOINT_INDEPENDENT
    by_address = [{endpoint for where, endpoint in seen.items() if where[0] == address} for address in (0, 1)]
    if all(len(endpoints) <= 1 for endpoints in by_address):
        return Dependence.ADDRESS_DEPENDENT
    return Dependence.ADDRESS_AND_PORT_DEPENDENT


def judge_filtering(heard: set[Where]) -> Dependence:
    """Returns how a NAT filters, from the servers whose answers came although only (0, 0) was asked."""
    if (1, 0) in heard or (1, 1) in heard:
        return Dependence.ENDPOINT_INDEPENDENT
    return Dependence.ADDRESS_DEPENDENT if (0, 1) in heard else Dependence.ADDRESS_AND_PORT_DEPENDENT


def _ask(sockets: list[socket.socket], questions: dict[str, _Question]) -> dict[str, tuple[str, int]]:
    """Sends every question until it is answered or the patience is over; returns the endpoints that were seen, by question."""
    names = list(questions)
    answers: dict[str, tuple[str, int]] = {}
    end = time.monotonic() + PATIENCE_S
    while len(answers) < len(names) and time.monotonic() < end:
        for number, name in enumerate(names):
            if name not in answers:
                questions[name].send(number)
        for _, message in _receive(sockets, min(end, time.monotonic() + _REPEAT_S)):
            answers[names[message["number"]]] = (message["seen"][0], message["seen"][1])
            if len(answers) == len(names):
                break
    return answers


def _hairpins(first: socket.socket, second: socket.socket, answers: dict[str, tuple[str, int]]) -> bool | None:
    """Whether two sockets behind the NAT hear each other at their outer endpoints, both sending so that a filter opens."""
    if "first" not in answers or "second" not in answers:
        return None
    end = time.monotonic() + PATIENCE_S
    ways = {first: answers["second"], second: answers["first"]}
    while time.monotonic() < end:
        for number, (sock, to) in enumerate(ways.items()):
            _Question(sock, to, hairpin=True).send(number)
        for sock, message in _receive(list(ways), min(end, time.monotonic() + _REPEAT_S)):
            if message.get("hairpin") and message["number"] != list(ways).index(sock):
                return True
    return False


def _receive(sockets: list[socket.socket], until: float) -> Iterator[tuple[socket.socket, dict[str, Any]]]:
    """Yields (socket, message) of what arrives before `until`."""
    while (left := until - time.monotonic()) > 0:
        for sock in select.select(sockets, [], [], left)[0]:
            try:
                yield sock, json.loads(sock.recv(_MAX_MESSAGE))
            except OSError:
                continue  # an ICMP error about what was sent


def _bound(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    return sock


def _source_address(server: str) -> str | None:
    """Returns our address towards a server; None when there is no way."""
    with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((server, PORTS[0]))
        except OSError:
            return None
        return str(sock.getsockname()[0])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("role", type=click.Choice(["serve", "classify"]))
@click.argument("first")
@click.argument("second")
@click.option("--ipv6", help="An IPv6 address of the server.")
def main(role: str, first: str, second: str, ipv6: str | None) -> None:
    """Answers in the open, or asks from behind a NAT."""
    if role == "serve":
        serve((first, second), ipv6)
    click.echo(json.dumps(asdict(classify((first, second), ipv6))))


if __name__ == "__main__":
    main()
