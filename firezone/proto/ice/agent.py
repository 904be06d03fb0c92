"""The ICE agent of one connection: one component, UDP, full ICE, always trickle, no restart (new credentials mean a new agent).

Theory of operation. Every local candidate that can send (host, relay) is paired with every remote one of its family; there is
no Frozen state and no pacing. Pairs that are due are checked, see `pair`. The controlling side selects the best pair that ever
succeeded and nominates it at once, and again whenever a better one succeeds; the controlled side selects the pair it saw
nominated last. Selection is announced *before* the nominating check is confirmed: WireGuard's handshake travels beside it.

Both ends rank pairs differently: an address behind a NAT is a host candidate here and a reflexive one there. If the controlled
side took the best of all nominated pairs, as the original does, each end could send through another relay. So we nominate only the
selected pair, and checks of a former one, which come without USE-CANDIDATE from then on, end a nomination that was overtaken.

What it may not do is judge a peer by anything unauthenticated: requests carry both username fragments and an HMAC under our
password, answers belong to a check of ours and carry one under the peer's.

Source: RFC 8445, RFC 8838; behaviour of Firezone's agent (str0m, is). Departures are named where they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping
from dataclasses import replace

from firezone.base.net import Endpoint
from firezone.base.rng import Rng
from firezone.base.timing import Instant
from firezone.proto.ice.candidates import CandidateSet, ReflexiveSet
from firezone.proto.ice.checks import (
    ROLE_CONFLICT,
    BindingRequest,
    IceCredentials,
    encode_request,
    encode_role_conflict,
    encode_success,
    read_request,
)
from firezone.proto.ice.events import IceEvent, IceState, IceTransmit, Nominated, StateChanged
from firezone.proto.ice.pair import ACTIVE, Check, Pair, Timings
from firezone.proto.ice.preference import check_priority, is_usable
from firezone.wire.candidate import Candidate, CandidateKind
from firezone.wire.stun import TRANSACTION_ID_SIZE, Attribute, MessageClass, Method, Received

MAX_PAIRS = 100
"""RFC 8445 section 6.1.2.5; the worst beyond it are dropped."""
MAX_OBSERVED = 8
"""Addresses of ours that peers saw; only remembered to be shown."""


class IceAgent:
    """Finds and keeps a path to one peer."""

    def __init__(
        self,
        *,
        is_controlling: bool,
        local: IceCredentials,
        remote: IceCredentials,
        rng: Rng,
        timings: Timings = ACTIVE,
        transactions: MutableMapping[bytes, IceAgent] | None = None,
    ) -> None:
        """`transactions` is a map the owner of many agents looks answers up in; this agent keeps its own part of it."""
        self.is_controlling = is_controlling
        self.local_credentials = local
        self.remote_credentials = remote
        self.state = IceState.NEW
        self.observed: dict[Endpoint, None] = {}
        """Addresses the peer saw us send from that are no candidate of ours."""
        self._rng = rng
        self._tie_breaker = int.from_bytes(rng.bytes(8), "big")
        self._timings = timings
        self._local = CandidateSet()
        self._remote = CandidateSet()
        self._reflexive = ReflexiveSet()
        self._pairs: list[Pair] = []
        self._selected: Pair | None = None
        self._checked: dict[bytes, Pair] = {}
        self._transactions = transactions
        self._transmits: deque[IceTransmit] = deque()
        self._events: deque[IceEvent] = deque()

    # Candidates

    def add_local(self, candidate: Candidate, now: Instant, *, crosses_family: bool = False) -> Candidate | None:
        """Adds a candidate of ours.

        Returns: what to announce to the peer, with priority and ufrag; None if the candidate adds nothing.
        A server-reflexive one is announced and not paired: its checks would leave from its base, which is a candidate itself.
        """
        if not is_usable(candidate.endpoint):
            return None
        if candidate.kind is CandidateKind.SERVER_REFLEXIVE:
            return self._reflexive.add(self._with_ufrag(candidate))
        ranked = self._local.prioritise(candidate, crosses_family=crosses_family)
        return self._add_ranked_local(self._with_ufrag(ranked), now)

    def local_candidates(self) -> list[Candidate]:
        """Returns all live candidates as announced, best first. For a peer that lost its half of the connection."""
        everything = [*self._local.live(), *self._reflexive]
        return sorted(everything, key=lambda candidate: -candidate.priority)

    def invalidate_local(self, candidate: Candidate, now: Instant) -> Candidate | None:
        """Gives up a candidate of ours. Returns what to announce as invalid; None if it was not known."""
        if candidate.kind is CandidateKind.SERVER_REFLEXIVE:
            return self._reflexive.remove(candidate)
        entry = self._local.find(candidate)
        if entry is None or entry.is_discarded:
            return None
        self._discard_local(entry.candidate)
        entry.is_discarded = True
        self._evaluate(now)
        return entry.candidate

    def add_remote(self, candidate: Candidate, now: Instant) -> bool:
        """Adds a candidate of the peer. Returns whether it is of use: repeating one gives pairs that died another chance."""
        if candidate.component != 1 or candidate.transport != "udp" or not is_usable(candidate.endpoint):
            return False
        if candidate.ufrag is not None and candidate.ufrag != self.remote_credentials.ufrag:
            return False
        entry = self._remote.find(candidate)
        is_news = entry is None or entry.is_discarded
        if entry is not None and is_news:
            entry.candidate, entry.is_discarded = candidate, False
        elif entry is None and not self._replace_reflexive(candidate) and not self._remote.add(candidate, self._is_remote_used):
            return False
        before = len(self._pairs)
        for local in self._local.live():
            self._form(local, candidate, now)
        self._evaluate(now)
        return is_news or len(self._pairs) > before

    def remote_candidates(self) -> list[Candidate]:
        """Returns the live candidates of the peer, peer-reflexive ones too."""
        return self._remote.live()

    def remote_endpoints(self) -> set[Endpoint]:
        """Returns every address ever known of the peer, discarded ones too."""
        return {entry.candidate.endpoint for entry in self._remote}

    def has_heard_of_peer(self) -> bool:
        """Tells whether the peer ever announced a candidate or sent a check."""
        return not self._remote.is_empty()

    def invalidate_remote(self, candidate: Candidate, now: Instant) -> bool:
        """Discards a candidate of the peer: its address stays dead until announced again. Returns whether it was known."""
        entry = self._remote.find(candidate)
        if entry is None or entry.is_discarded:
            return False
        entry.is_discarded = True
        for pair in [pair for pair in self._pairs if pair.remote.endpoint == candidate.endpoint]:
            other = self._remote.live_at(candidate.endpoint)
            if other is None:
                self._remove(pair)
            else:
                pair.remote = other
                pair.rank(is_controlling=self.is_controlling)
        self._sort()
        self._evaluate(now)
        return True

    # Inputs

    def check_now(self, base: Endpoint, remote: Endpoint, now: Instant) -> bool:
        """Checks a pair without waiting for its turn, unless it has answered before: what kept its checks away is gone.

        Returns: whether there is such a pair.
        """
        pair = self._find(base, remote)
        if pair is None or pair.has_succeeded:
            return False
        pair.next_due = now
        return True

    def set_timings(self, timings: Timings, now: Instant) -> None:
        """Checks more or less often from now on; takes effect at once."""
        if timings == self._timings:
            return
        self._timings = timings
        for pair in self._pairs:
            self._forget(pair.retime(timings, now))

    def handle_message(self, local: Endpoint, remote: Endpoint, received: Received, now: Instant) -> bool:
        """Takes a STUN message that arrived on `local` from `remote`. Returns whether it is authentic and ours."""
        message = received.message
        if message.method != Method.BINDING:
            return False
        if message.message_class is MessageClass.REQUEST:
            return self._handle_request(local, remote, received, now)
        pair = self._checked.get(message.transaction_id)
        if pair is None or not received.verify_integrity(self.remote_credentials.password.encode()):
            return False
        if message.message_class is MessageClass.SUCCESS:
            return self._handle_success(pair, received, now)
        if message.message_class is MessageClass.ERROR:
            return self._handle_error(pair, received, now)
        return False

    def handle_timeout(self, now: Instant) -> None:
        """Removes dead pairs, selects, sends every check that is due."""
        self._evaluate(now)
        due = [pair for pair in self._pairs if pair.next_due <= now]
        for pair in sorted(due, key=lambda pair: not pair.is_nominated):
            self._check(pair, now)

    def close(self) -> None:
        """Forgets all pairs, so that no answer finds its way here any more."""
        for pair in list(self._pairs):
            self._remove(pair)

    # Outputs

    def poll_timeout(self) -> tuple[Instant, str] | None:
        """Returns when a check is due or a pair is given up."""
        if self.state is IceState.NEW:
            return 0, "ICE start"
        deadline: tuple[Instant, str] | None = None
        for pair in self._pairs:
            if deadline is None or pair.next_due < deadline[0]:
                deadline = (pair.next_due, "ICE check")
            dies_at = pair.dies_at(self._timings)
            if dies_at is not None and dies_at < deadline[0]:
                deadline = (dies_at, "ICE pair")
        return deadline

    def poll_transmit(self) -> IceTransmit | None:
        """Returns the next message to send."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> IceEvent | None:
        """Returns what happened next."""
        return self._events.popleft() if self._events else None

    @property
    def selected(self) -> Pair | None:
        """The pair now sent on."""
        return self._selected

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair under check, best first."""
        return tuple(self._pairs)

    # Candidates, in detail

    def _with_ufrag(self, candidate: Candidate) -> Candidate:
        return replace(candidate, ufrag=self.local_credentials.ufrag)

    def _add_ranked_local(self, candidate: Candidate, now: Instant) -> Candidate | None:
        """Applies the rules for duplicates: equal are candidates with the same address and base."""
        entry = self._local.find_equal(candidate)
        if entry is not None and entry.is_discarded and entry.candidate.identity == candidate.identity:
            entry.is_discarded = False
            candidate = entry.candidate
        elif entry is not None and candidate.priority < entry.candidate.priority:
            return None
        else:
            if not self._local.add(candidate, self._is_local_used):
                return None
            if entry is not None:
                self._discard_local(entry.candidate)
                entry.is_discarded = True
        for remote in self._remote.live():
            self._form(candidate, remote, now)
        self._evaluate(now)
        return candidate

    def _discard_local(self, candidate: Candidate) -> None:
        for pair in [pair for pair in self._pairs if pair.local.base == candidate.base]:
            self._remove(pair)

    def _replace_reflexive(self, candidate: Candidate) -> bool:
        """Puts a signalled candidate in the place of the one a check made up for its address."""
        for entry in self._remote:
            known = entry.candidate
            is_made_up = known.kind is CandidateKind.PEER_REFLEXIVE and known.related is None and known.foundation == ""
            if is_made_up and not entry.is_discarded and known.endpoint == candidate.endpoint:
                entry.candidate = candidate
                return True
        return False

    def _form(self, local: Candidate, remote: Candidate, now: Instant) -> Pair | None:
        """Pairs two candidates. Of two for the same way the better candidates stay, with all that was learned about the way.

        A signalled candidate always takes the place of a peer-reflexive one, or a relayed path found by a check would outrank
        a later direct one for ever (the original has that fault).
        """
        if local.endpoint.is_ipv4 != remote.endpoint.is_ipv4:
            return None
        pair = Pair(local, remote, is_controlling=self.is_controlling, now=now)
        old = self._find(local.base, remote.endpoint)
        if old is not None:
            was_made_up = old.remote.kind is CandidateKind.PEER_REFLEXIVE and remote.kind is not CandidateKind.PEER_REFLEXIVE
            if was_made_up or pair.priority > old.priority:
                old.local, old.remote, old.priority = local, remote, pair.priority
            pair = old
        else:
            self._pairs.append(pair)
        self._sort()
        if len(self._pairs) > MAX_PAIRS:
            worst = next(pair for pair in reversed(self._pairs) if pair is not self._selected)
            self._remove(worst)
        return pair if pair in self._pairs else None

    def _is_local_used(self, candidate: Candidate) -> bool:
        return any(pair.local.base == candidate.base for pair in self._pairs)

    def _is_remote_used(self, candidate: Candidate) -> bool:
        return any(pair.remote.endpoint == candidate.endpoint for pair in self._pairs)

    def _find(self, base: Endpoint, remote: Endpoint) -> Pair | None:
        return next((pair for pair in self._pairs if pair.key == (base, remote)), None)

    def _sort(self) -> None:
        self._pairs.sort(key=lambda pair: -pair.priority)

    def _remove(self, pair: Pair) -> None:
        self._pairs.remove(pair)
        self._forget(list(pair.checks))
        if self._selected is pair:
            self._selected = None

    # Checks

    def _check(self, pair: Pair, now: Instant) -> None:
        """Sends one check, under a transaction id of its own."""
        transaction_id = self._rng.bytes(TRANSACTION_ID_SIZE)
        is_nominating = self.is_controlling and pair.is_nominated
        check = Check(transaction_id, now, self.is_controlling, is_nominating or not self.is_controlling)
        self._forget(pair.record_check(check, self._timings))
        self._checked[transaction_id] = pair
        if self._transactions is not None:
            self._transactions[transaction_id] = self
        payload = encode_request(
            transaction_id,
            local=self.local_credentials,
            remote=self.remote_credentials,
            is_controlling=self.is_controlling,
            tie_breaker=self._tie_breaker,
            priority=check_priority(pair.local.priority),
            use_candidate=is_nominating,
        )
        self._transmits.append(IceTransmit(pair.local.base, pair.remote.endpoint, payload))

    def _forget(self, checks: list[Check]) -> None:
        for check in checks:
            self._checked.pop(check.transaction_id, None)
            if self._transactions is not None:
                self._transactions.pop(check.transaction_id, None)

    def _handle_request(self, local: Endpoint, remote: Endpoint, received: Received, now: Instant) -> bool:
        request = read_request(received)
        if request is None or request.username != f"{self.local_credentials.ufrag}:{self.remote_credentials.ufrag}":
            return False
        if not received.verify_integrity(self.local_credentials.password.encode()):
            return False
        transaction_id = received.message.transaction_id
        if self._is_conflict_theirs(request, now):
            refusal = encode_role_conflict(transaction_id, self.local_credentials)
            self._transmits.append(IceTransmit(local, remote, refusal))
            return True
        if self.is_controlling and request.use_candidate:
            return True
        ours = self._local.live_at(local)
        theirs = self._remote_of(remote, request, now)
        if ours is None or theirs is None:
            return True
        pair = self._find(ours.base, remote) or self._form(ours, theirs, now)
        if pair is not None:
            self._heed(pair, request, now)
        answer = encode_success(transaction_id, remote, self.local_credentials)
        self._transmits.append(IceTransmit(ours.base, remote, answer))
        self._evaluate(now)
        return True

    def _heed(self, pair: Pair, request: BindingRequest, now: Instant) -> None:
        """Takes what a request says about its pair."""
        pair.record_peer_check(now)
        if self.is_controlling or request.use_candidate == pair.is_nominated:
            return
        if request.use_candidate:
            pair.nominate(now)
        elif any(other.is_nominated for other in self._pairs if other is not pair):
            pair.unnominate()
            if self._selected is pair:
                self._selected = None

    def _remote_of(self, endpoint: Endpoint, request: BindingRequest, now: Instant) -> Candidate | None:
        """Returns the candidate a request came from, made up if need be; None if it was invalidated (or there are too many)."""
        entries = self._remote.at(endpoint)
        if entries:
            return self._remote.live_at(endpoint)
        made_up = Candidate(CandidateKind.PEER_REFLEXIVE, endpoint, request.priority, endpoint)
        if not self._remote.add(made_up, self._is_remote_used):
            return None
        for local in self._local.live():
            self._form(local, made_up, now)
        return made_up

    def _handle_success(self, pair: Pair, received: Received, now: Instant) -> bool:
        mapped = received.message.get(Attribute.XOR_MAPPED_ADDRESS)
        if mapped is None:
            return False
        if self._local.live_at(mapped) is None and len(self.observed) < MAX_OBSERVED:
            self.observed[mapped] = None
        pair.record_answer(received.message.transaction_id, self._timings, now)
        self._evaluate(now)
        return True

    def _handle_error(self, pair: Pair, received: Received, now: Instant) -> bool:
        """Yields our role if the peer insists; every other error is ignored, the check counts as unanswered."""
        error = received.message.get(Attribute.ERROR_CODE)
        if error is None or error.code != ROLE_CONFLICT:
            return False
        transaction_id = received.message.transaction_id
        claimed = next(check.as_controlling for check in pair.checks if check.transaction_id == transaction_id)
        if claimed == self.is_controlling:
            self._switch_role(now)
        pair.next_due = now
        return True

    def _is_conflict_theirs(self, request: BindingRequest, now: Instant) -> bool:
        """Settles two agents in one role by their tie-breakers. Returns whether the peer has to yield (RFC 8445 7.3.1.1)."""
        if self.is_controlling and request.controlling is not None:
            if self._tie_breaker >= request.controlling:
                return True
            self._switch_role(now)
        elif not self.is_controlling and request.controlled is not None:
            if self._tie_breaker < request.controlled:
                return True
            self._switch_role(now)
        return False

    def _switch_role(self, now: Instant) -> None:
        self.is_controlling = not self.is_controlling
        for pair in self._pairs:
            if pair.is_nominated:
                pair.unnominate()
            pair.rank(is_controlling=self.is_controlling)
        self._selected = None
        self._sort()
        self._evaluate(now)

    # Selection

    def _evaluate(self, now: Instant) -> None:
        """Removes dead pairs, selects and nominates the best, tells the state."""
        for pair in [pair for pair in self._pairs if pair.is_dead(self._timings, now)]:
            self._remove(pair)
        self._select(now)
        self._enter(self._judge())

    def _select(self, now: Instant) -> None:
        """Selects what is better than the selected pair, and nominates it alone if the choice is ours.

        Unless the peer's NAT has given it another address: then two pairs are the same but for that, and the one that the peer
        checks now is the one that works (the original notices when the other has died, after 16 s).
        """
        best, selected = self._best(), self._selected
        if selected is not None and (
            best is selected or (self.is_controlling and best is not None and best.priority == selected.priority)
        ):
            best = next((pair for pair in self._pairs if self._qualifies(pair) and pair.has_moved_from(selected)), None)
        if best is None:
            return
        if self.is_controlling and selected is not None:
            selected.unnominate()
        if self.is_controlling and not best.is_nominated:
            best.nominate(now)
        best.nominated_at = now
        self._selected = best
        self._events.append(Nominated(best.local.base, best.remote.endpoint))

    def _best(self) -> Pair | None:
        """Pairs are sorted, so of equals the first is the best.

        A later nomination counts when its way has answered us: who repeats a check of the peer from elsewhere cannot answer.
        """
        qualified = [pair for pair in self._pairs if self._qualifies(pair)]
        if self.is_controlling:
            return qualified[0] if qualified else None
        return max(qualified, key=lambda pair: (pair.has_succeeded, pair.nominated_at), default=None)

    def _qualifies(self, pair: Pair) -> bool:
        return pair.has_succeeded if self.is_controlling else pair.is_nominated

    def _judge(self) -> IceState:
        is_nominated = any(pair.is_nominated for pair in self._pairs)
        is_waiting = self._local.is_empty() or self._remote.is_empty()
        is_possible = is_waiting or any(not pair.is_nominated for pair in self._pairs)
        if is_nominated:
            return IceState.CONNECTED if is_possible else IceState.COMPLETED
        if is_possible or self.state is IceState.NEW:
            return IceState.CHECKING
        return IceState.DISCONNECTED

    def _enter(self, state: IceState) -> None:
        if state is not self.state:
            self.state = state
            self._events.append(StateChanged(state))
