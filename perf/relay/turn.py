"""Allocations and channels for the load, asked for by plain blocking TURN: only set-up, never measured."""

from __future__ import annotations

import os
import select
import socket
from dataclasses import dataclass, field

from firezone.base.errors import FirezoneError, WireError
from firezone.base.net import Endpoint
from firezone.wire import stun
from firezone.wire.stun import AddressFamily, Attribute, Message, MessageClass, Method, Value

UDP = 17
LIFETIME_S = 3600
_TIMEOUT_S, _TRIES = 0.5, 8
_AT_ONCE = 32
"""Requests on their way: what a relay's queue of control messages takes at once."""


class TurnError(FirezoneError):
    """The relay did not give what the load needs."""


@dataclass(slots=True)
class Allocation:
    """One client of a relay."""

    sock: socket.socket
    username: str
    password: str
    realm: str = ""
    nonce: str = ""
    relayed: Endpoint = field(default_factory=lambda: Endpoint.from_text("0.0.0.0", 0))
    channels: dict[int, Endpoint] = field(default_factory=dict)

    def allocate(self, *, both: bool = False) -> None:
        """Asks for a relayed IPv4 address, or for one of each family. Raises TurnError."""
        if not self.nonce:
            self.learn_nonce()
        wanted = [(Attribute.REQUESTED_TRANSPORT, UDP), (Attribute.LIFETIME, LIFETIME_S)]
        wanted += [(Attribute.ADDITIONAL_ADDRESS_FAMILY, AddressFamily.IPV6)] if both else []
        answer = self._succeed([self._request(Method.ALLOCATE, *wanted)])[0]
        self.relayed = answer.get(Attribute.XOR_RELAYED_ADDRESS) or self.relayed

    def learn_nonce(self) -> None:
        """Asks unsigned, to be refused with a realm and a nonce. Raises TurnError."""
        refusal = self._ask([self._request(Method.ALLOCATE, (Attribute.REQUESTED_TRANSPORT, UDP), sign=False)])[0]
        self.realm, self.nonce = refusal.get(Attribute.REALM) or "", refusal.get(Attribute.NONCE) or ""

    def bind(self, peers: dict[int, Endpoint]) -> None:
        """Binds a channel for each number. Raises TurnError."""
        wanted = list(peers.items())
        for start in range(0, len(wanted), _AT_ONCE):
            self._succeed([
                self._request(Method.CHANNEL_BIND, (Attribute.CHANNEL_NUMBER, number), (Attribute.XOR_PEER_ADDRESS, peer))
                for number, peer in wanted[start : start + _AT_ONCE]
            ])  # fmt: skip
        self.channels |= peers

    def free(self) -> None:
        """Gives the allocation back."""
        self._ask([self._request(Method.REFRESH, (Attribute.LIFETIME, 0))])
        self.channels.clear()

    def _request(self, method: Method, *attributes: tuple[int, Value], sign: bool = True) -> tuple[bytes, bytes]:
        transaction_id = os.urandom(12)
        if sign:
            attributes += ((Attribute.USERNAME, self.username), (Attribute.REALM, self.realm), (Attribute.NONCE, self.nonce))
        key = stun.long_term_key(self.username, self.realm, self.password) if sign else None
        return transaction_id, stun.encode(Message(MessageClass.REQUEST, method, transaction_id, attributes), key=key)

    def _succeed(self, requests: list[tuple[bytes, bytes]]) -> list[Message]:
        answers = self._ask(requests)
        for answer in answers:
            if answer.message_class is not MessageClass.SUCCESS:
                raise TurnError(f"The relay refused: {answer.get(Attribute.ERROR_CODE)}.")
        return answers

    def _ask(self, requests: list[tuple[bytes, bytes]]) -> list[Message]:
        """Sends requests until each is answered; returns the answers in their order."""
        waiting = dict(requests)
        answers: dict[bytes, Message] = {}
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        for _ in range(_TRIES):
            for datagram in waiting.values():
                self.sock.send(datagram)
            while waiting and poll.poll(1000 * _TIMEOUT_S):
                try:
                    message = stun.decode(self.sock.recv(65536)).message
                except WireError:
                    continue  # data of an earlier load
                # What answers an earlier request that was repeated is nobody's any more.
                if waiting.pop(message.transaction_id, None) is not None:
                    answers[message.transaction_id] = message
            if not waiting:
                return [answers[transaction_id] for transaction_id, _ in requests]
        raise TurnError(f"The relay did not answer {len(waiting)} of {len(requests)} requests.")
