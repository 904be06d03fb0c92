"""Requests that wait for an answer, and when to send them again.

    sent at 0, 1, 2.5 and 4.75 s; given up at 8.125 s       a probe at 0, 0.5 and 1 s; given up at 1.5 s

Every transmission of an authenticated request has an id of its own, since the nonce in it may be another by then; the answer to
any of them answers the request (in the original only that to the last). A BINDING keeps its id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from firezone.base.net import Endpoint
from firezone.base.timing import MILLISECOND, SECOND, Instant
from firezone.proto.turn.channels import Channel
from firezone.proto.turn.messages import Code, Credentials, Template
from firezone.wire.stun import Attribute, Method, Received

PATIENT = (1 * SECOND, 1500 * MILLISECOND, 2250 * MILLISECOND, 3375 * MILLISECOND)
"""Waits after each transmission: 1 s, growing by half, until 8 s are used up."""
PROBING = (500 * MILLISECOND, 500 * MILLISECOND, 500 * MILLISECOND)
"""Of a probe. The original sends it once and waits a second: one lost datagram costs it a healthy relay."""
MAX_CHALLENGES = 8
"""Nonces tried for one request. A relay changes its nonce now and then, never this often."""


@dataclass(slots=True, eq=False)
class Request:
    """One request and its transmissions."""

    template: Template
    server: Endpoint
    """The relay's socket it goes to."""
    waits: tuple[int, ...] = PATIENT
    channel: Channel | None = None
    """Of a CHANNEL-BIND."""
    nonce: str | None = None
    """The nonce of the last transmission."""
    is_bare: bool = False
    """Whether it is sent unsigned as long as there is no nonce."""
    is_check: bool = False
    """Whether it only asks if the relay is there: nothing is given up when no answer comes."""
    challenges: int = 0
    """How often the relay asked for another form of it."""
    attempts: int = 0
    first_at: Instant = 0
    """When it was first sent."""
    sent_at: Instant = 0
    due_at: Instant = 0
    """When to send again or give up."""
    ids: list[bytes] = field(default_factory=list)

    @property
    def is_exhausted(self) -> bool:
        return self.attempts >= len(self.waits)

    def start_over(self) -> None:
        """Begins the schedule anew, because the relay answered."""
        self.attempts = 0


class Requests:
    """What waits, by every transaction id it was sent under."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Request] = {}
        self._requests: dict[Request, None] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def get(self, transaction_id: bytes) -> Request | None:
        return self._by_id.get(transaction_id)

    def record(self, request: Request, transaction_id: bytes, now: Instant) -> None:
        """Notes a transmission."""
        if transaction_id not in self._by_id:
            request.ids.append(transaction_id)
            self._by_id[transaction_id] = request
        if request.attempts == 0:
            request.first_at = now
        request.sent_at = now
        request.due_at = now + request.waits[request.attempts]
        request.attempts += 1
        self._requests[request] = None

    def postpone(self, request: Request, due_at: Instant) -> None:
        """Notes a request that is sent for the first time at that instant."""
        request.due_at = due_at
        self._requests[request] = None

    def remove(self, request: Request) -> None:
        for transaction_id in request.ids:
            del self._by_id[transaction_id]
        request.ids.clear()
        del self._requests[request]

    def clear(self) -> None:
        self._by_id.clear()
        self._requests.clear()

    def due(self, now: Instant) -> list[Request]:
        """Returns the requests to send again or to give up."""
        return [request for request in self._requests if request.due_at <= now]

    def next_due(self) -> Instant | None:
        return min((request.due_at for request in self._requests), default=None)


def is_credible(
    request: Request, received: Received, code: int | None, credentials: Credentials | None, *, may_recover: bool
) -> bool:
    """Tells whether an answer may be believed: signed by the relay, or a mere challenge. Of BINDINGs only success counts.

    Other relays than Firezone's do not sign 401 and 438, answer 400 to a signature without a nonce (RFC 8489 section 9.2.4), and
    coturn says 437 to ALLOCATE before it looks who asks. Such an answer may make us ask again, a few times, but never give up
    anything: else one forged datagram could take the relay from us.
    """
    if not request.template.is_authenticated:
        return code is None
    if credentials is not None and received.verify_integrity(credentials.key.reveal()):
        return True
    if received.integrity is not None or request.challenges >= MAX_CHALLENGES:
        return False
    if code == Code.BAD_REQUEST:
        return request.nonce is None and not request.is_bare
    if code == Code.ALLOCATION_MISMATCH:
        return request.template.method is Method.ALLOCATE and may_recover
    is_challenge = code == Code.STALE_NONCE or (code == Code.UNAUTHORIZED and request.nonce is None)
    return is_challenge and received.message.get(Attribute.NONCE) is not None
