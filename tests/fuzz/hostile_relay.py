"""A relay that lies: its answers come late, twice, with other ids, codes, lifetimes and addresses, signed or not, or as noise."""

from __future__ import annotations

import random

from firezone.base.net import Endpoint
from firezone.base.timing import Instant
from firezone.proto.relay.auth import Username
from firezone.wire import stun
from firezone.wire.stun import Attribute, ErrorCode, Message, MessageClass, Method, Value
from tests.fuzz.mutations import spoiled
from tests.harness.relay_model import REALM, Out, RealRelay, RelayModel

CODES = (300, 400, 401, 403, 420, 437, 438, 440, 441, 442, 443, 446, 486, 487, 500, 508, 699)
LIFETIMES = (0, 1, 2, 3, 30, 600, 2**31, 2**32 - 1)
ADDRESSES = (
    "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.9.0.2", "203.0.113.10", "203.0.113.77", "::", "::1", "ff02::1",
    "fe80::1", "::ffff:192.0.2.1", "2001:db8::77",
)  # fmt: skip
ALTERNATE_SERVER = 0x8023


class Lies(RelayModel):
    """Honest while `malice` is 0; with 1 no answer is what it should be."""

    def __init__(self, name: str, *addresses: str) -> None:
        super().__init__(name, *addresses)
        self.draw = random.Random(name)
        self.malice = 0.0
        self._former: list[bytes] = []

    def handle(self, source: Endpoint, destination: Endpoint, datagram: bytes, now: Instant) -> list[Out]:
        answers: list[Out] = []
        for sender, target, answer in super().handle(source, destination, datagram, now):
            if self.draw.random() >= self.malice or sender not in self.servers:
                answers.append((sender, target, answer))
            else:
                answers += [(sender, target, lie) for lie in self._lies(source, datagram, answer)]
        return answers

    def _lies(self, client: Endpoint, question: bytes, answer: bytes) -> list[bytes]:
        self._former = [*self._former[-50:], answer]
        if not stun.is_stun(question):
            return [spoiled(answer, self.draw)]
        match self.draw.randrange(8):
            case 0:
                return []
            case 1:
                return [answer, answer, self.draw.choice(self._former)]
            case 2:
                return [spoiled(answer, self.draw), answer]
            case 3:
                return [spoiled(answer, self.draw)]
            case 4:
                return [answer[:8] + self.draw.randbytes(12) + answer[20:]]
            case 5:
                return [self._channel_data() for _ in range(3)] + [answer]
            case _:
                return [self._invent(client, stun.decode(question).message)]

    def _channel_data(self) -> bytes:
        number, size = self.draw.randrange(0x3FFE, 0x4010), self.draw.choice((0, 1, 4, 31, 32, 148, 65535))
        return number.to_bytes(2, "big") + size.to_bytes(2, "big") + self.draw.randbytes(self.draw.choice((0, 4, 32, 148)))

    def _invent(self, client: Endpoint, question: Message) -> bytes:
        """An answer of the right form that says what it likes."""
        attributes: list[tuple[int, Value]] = [
            (self.draw.choice((Attribute.XOR_RELAYED_ADDRESS, Attribute.XOR_MAPPED_ADDRESS)), self._address())
            for _ in range(self.draw.randrange(4))
        ]
        attributes += [(Attribute.LIFETIME, self.draw.choice(LIFETIMES))] * self.draw.randrange(2)
        if self.draw.random() < 0.6:
            nonce, realm = self.draw.choice(("", "n", "n" * 700)), self.draw.choice(("firezone", "firezone", "other", ""))
            attributes += [(Attribute.NONCE, nonce), (Attribute.REALM, realm)]
        message_class = self.draw.choice((MessageClass.SUCCESS, MessageClass.ERROR, MessageClass.ERROR, *MessageClass))
        if message_class is MessageClass.ERROR and self.draw.random() < 0.9:
            attributes.append((Attribute.ERROR_CODE, ErrorCode(self.draw.choice(CODES), "")))
        if self.draw.random() < 0.1:
            attributes.append((ALTERNATE_SERVER, self._address()))
        self.draw.shuffle(attributes)
        method = question.method if self.draw.random() < 0.9 else self.draw.choice(list(Method))
        made = Message(message_class, method, question.transaction_id, tuple(attributes))
        return stun.encode(made, key=self._key(question) if self.draw.random() < 0.7 else None)

    def _address(self) -> Endpoint:
        return Endpoint.from_text(self.draw.choice(ADDRESSES), self.draw.choice((0, 1, 3478, 49152, 52625, 65535)))

    def _key(self, question: Message) -> bytes | None:
        """What a client takes for the relay's key."""
        raise NotImplementedError


class HostileRelay(Lies, RealRelay):
    """The package's own machine behind the lies."""

    def _key(self, question: Message) -> bytes | None:
        username = Username.from_text(question.get(Attribute.USERNAME) or "")
        return None if username is None else username.key(self.secret)


class HostileModel(Lies, RelayModel):
    """The model of a relay behind the lies."""

    def _key(self, question: Message) -> bytes | None:
        return stun.long_term_key(self.username, REALM, self.password)
