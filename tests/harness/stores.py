"""The session stores that tests of the machines run on: the slow twin, and the compiled table where it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firezone.base.ids import PeerRow
from firezone.proto.noise.sessions import SessionStore
from tests.harness.sessions import SlowSessionStore

STORES: dict[str, Callable[[], SessionStore]] = {"slow": SlowSessionStore}
try:
    from firezone.kernels.session import SessionTable
except ImportError:
    pass
else:
    STORES["compiled"] = SessionTable


@dataclass(frozen=True)
class Keys:
    """One side's view of a session."""

    remote_index: int
    send: bytes
    receive: bytes


def keys_in_use(store: SessionStore, row: PeerRow) -> Keys:
    """Returns the session that a peer is sent to on; the slow twin alone can tell."""
    assert isinstance(store, SlowSessionStore)
    session = store.sessions[store.sending[row][0]]
    return Keys(session.remote_index, session.send_key, session.receive_key)
