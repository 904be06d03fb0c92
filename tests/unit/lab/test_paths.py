"""Two programs' words of one path, put together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from firezone.lab.nat.kinds import Way
from firezone.lab.paths import End, FoundPath, join, last_end

if TYPE_CHECKING:
    from pathlib import Path

OWN = {"client": {"192.168.1.2"}, "gateway": {"203.0.113.9", "2001:db8::9"}}
RELAYS = {"198.51.100.11": "relay-west", "198.51.100.12": "relay-east", "some-id": "relay-west"}


def end(remote_kind: str, remote: str, local_kind: str = "host", relay: str | None = None) -> End:
    return End(local_kind, remote_kind, f"[{remote}]:52625" if ":" in remote else f"{remote}:52625", relay)


@pytest.mark.parametrize(
    ("client", "gateway", "words", "way"),
    [
        (end("host", "203.0.113.9"), end("host", "192.168.1.2"), "host ↔ host", Way.HOST),
        (end("host", "2001:db8::9"), end("prflx", "192.168.1.2"), "host ↔ host", Way.HOST),
        (end("host", "203.0.113.9"), end("srflx", "203.0.113.1"), "server-reflexive ↔ host", Way.REFLEXIVE),
        (end("srflx", "203.0.113.7"), end("prflx", "203.0.113.1"), "peer-reflexive ↔ server-reflexive", Way.REFLEXIVE),
        # The client's relay sends for it; the gateway may have met its address by a check before it was announced.
        (end("srflx", "203.0.113.7", "relay", "some-id"), end("prflx", "198.51.100.11"),
         "relayed ↔ server-reflexive via relay-west", Way.RELAYED),
        # Each end sends by a way of its own; what comes from a relay's address is relayed, whatever the other end calls it.
        (end("srflx", "203.0.113.7"), end("prflx", "198.51.100.11"),
         "relayed ↔ server-reflexive via relay-west", Way.RELAYED),
        (end("prflx", "198.51.100.12"), end("host", "192.168.1.2"), "host ↔ relayed via relay-east", Way.RELAYED),
        (end("relay", "198.51.100.12"), end("host", "192.168.1.2", "relay"), "host ↔ relayed via relay-east", Way.RELAYED),
        (end("relay", "198.51.100.12", "relay"), end("relay", "198.51.100.11", "relay"),
         "relayed ↔ relayed via relay-west and relay-east", Way.RELAYED),
        (end("relay", "198.51.100.11", "relay"), end("relay", "198.51.100.11", "relay"),
         "relayed ↔ relayed via relay-west", Way.RELAYED),
    ],
)  # fmt: skip
def test_ends_are_told_by_how_the_other_end_reaches_them(client: End, gateway: End, words: str, way: Way) -> None:
    path = join(client, gateway, OWN, RELAYS)
    assert (str(path), path.way) == (words, way)
    assert path.to_dict()["way"] == str(way)


def test_newest_path_in_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_end(log) is None
    records = [
        {"message": "path chosen", "remote": "203.0.113.9:1", "localKind": "host", "remoteKind": "host", "relay": None},
        {
            "message": "path chosen",
            "remote": "[2001:db8::9]:52625",
            "localKind": "relay",
            "remoteKind": "prflx",
            "relay": "some-id",
        },
        {"message": "something else"},
    ]
    log.write_text("a line of another kind\n" + "".join(json.dumps(record) + "\n" for record in records))
    assert last_end(log) == End("relay", "prflx", "[2001:db8::9]:52625", "some-id")


def test_path_without_relays_is_direct() -> None:
    assert FoundPath("host", "host").way is Way.HOST
