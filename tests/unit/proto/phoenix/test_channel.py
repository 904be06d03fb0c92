"""The channel on a virtual clock, against a portal that is scripted frame by frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from firezone.base.rng import SeededRng
from firezone.base.timing import SECOND
from firezone.proto.phoenix.channel import (
    PATIENCE,
    Connect,
    Drop,
    Event,
    Fatal,
    Hiccup,
    Ignored,
    Joined,
    PhoenixChannel,
    Received,
    Refused,
    State,
)
from firezone.proto.phoenix.retry import UpgradeRejected, parse_retry_after
from firezone.wire.phoenix import encode_frame, encode_reply


class Bench:
    """A channel, the time, and what it wrote."""

    def __init__(self, max_partition_s: float | None = None, seed: int = 1) -> None:
        budget = None if max_partition_s is None else round(max_partition_s * SECOND)
        self.channel = PhoenixChannel("client", rng=SeededRng(seed), max_partition_ns=budget)
        self.now = 1000 * SECOND
        self.attempt = 0

    def events(self) -> list[Event]:
        found: list[Event] = []
        while (polled := self.channel.poll_event()) is not None:
            found.append(polled)
        for event in found:
            if isinstance(event, Connect):
                self.attempt = event.attempt
        return found

    def written(self) -> Iterator[dict[str, Any]]:
        while (text := self.channel.poll_transmit()) is not None:
            self.channel.handle_sent(self.now)
            yield json.loads(text)

    def hear(self, text: str) -> list[Event]:
        self.channel.handle_text(self.attempt, text, self.now)
        return self.events()

    def connected(self) -> dict[str, Any]:
        """Brings the socket up. Returns the join."""
        if self.channel.state is State.CLOSED:
            self.channel.connect(self.now)
        self.events()
        self.channel.handle_connected(self.attempt, self.now)
        (join,) = self.written()
        return join

    def joined(self) -> None:
        assert self.hear(encode_reply("client", self.connected()["ref"])) == [Joined()]

    def lose(self) -> list[Event]:
        self.channel.handle_disconnected(self.attempt, "broken", self.now)
        return self.events()

    def advance(self, seconds: float) -> list[Event]:
        """Jumps from announced deadline to announced deadline."""
        end = self.now + round(seconds * SECOND)
        found = []
        while (deadline := self.channel.poll_timeout()) is not None and deadline[0] <= end:
            self.now = max(self.now, deadline[0])
            self.channel.handle_timeout(self.now)
            found += self.events()
        self.now = end
        return found


def test_the_join_goes_first_and_alone() -> None:
    bench = Bench()
    bench.channel.send("create_flow", b"{}")
    assert bench.connected() == {"topic": "client", "event": "phx_join", "payload": None, "ref": 0}
    assert list(bench.written()) == []
    assert bench.hear(encode_reply("client", 0)) == [Joined()]
    assert [frame["event"] for frame in bench.written()] == ["create_flow"]


def test_an_answer_that_overtakes_the_confirmation_of_the_write_counts() -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    bench.events()
    bench.channel.handle_connected(bench.attempt, bench.now)
    assert bench.channel.poll_transmit() is not None
    assert bench.hear(encode_reply("client", 0)) == [Joined()]


@pytest.mark.parametrize(
    "answer",
    [
        encode_frame("client", "phx_reply", b'{"status":"ok","response":null}', 0),
        encode_frame("client", "phx_reply", b'{"status":"ok","response":{"x":1}}', 0),
        encode_frame("client", "phx_reply", b'{"status":"ok","response":{}}', "0"),
        encode_frame("client", "phx_reply", b'{"status":"ok","response":{}}', 7),
        None,
    ],
)
def test_a_join_that_is_not_answered_rightly_reconnects_after_5_s(answer: str | None) -> None:
    bench = Bench()
    bench.connected()
    if answer is not None:
        assert Joined() not in bench.hear(answer)
    assert bench.advance(4.9) == []
    assert isinstance(bench.advance(0.2)[0], Drop)
    assert bench.channel.state is State.WAITING


def test_a_refused_join_is_fatal() -> None:
    bench = Bench()
    bench.connected()
    (drop, fatal) = bench.hear(encode_reply("client", 0, "join crashed"))
    assert drop == Drop(1)
    assert isinstance(fatal, Fatal)
    assert fatal.error.reason == "join crashed"
    assert bench.channel.poll_timeout() is None


def test_a_message_queued_offline_survives_a_failed_attempt() -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    bench.events()
    bench.channel.send("create_flow", b"{}")
    bench.lose()
    assert bench.advance(1.0) == [Connect(2)]
    bench.joined()
    assert [frame["event"] for frame in bench.written()] == ["create_flow"]


def test_the_34th_message_queued_offline_remains_alone() -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    for number in range(34):
        bench.channel.send("e", str(number).encode())
    bench.joined()
    assert [frame["payload"] for frame in bench.written()] == [33]


def test_messages_keep_their_order_and_exact_duplicates_wait_once() -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    for payload in (b"1", b"2", b"1", b"3"):
        bench.channel.send("e", payload)
    bench.joined()
    assert [frame["payload"] for frame in bench.written()] == [1, 2, 3]


def test_a_message_whose_write_failed_goes_out_first_next_time() -> None:
    bench = Bench()
    bench.joined()
    bench.channel.send("e", b"1")
    bench.channel.send("e", b"2")
    assert bench.channel.poll_transmit() is not None
    bench.lose()
    bench.advance(0.1)
    bench.joined()
    assert [frame["payload"] for frame in bench.written()] == [1, 2]


def test_an_explicit_connect_clears_the_queue_and_drops_the_old_socket() -> None:
    bench = Bench()
    bench.joined()
    bench.channel.send("e", b"1")
    assert bench.channel.poll_transmit() is not None
    bench.channel.send("e", b"2")
    bench.channel.connect(bench.now)
    assert bench.events() == [Drop(1), Connect(2)]
    bench.joined()
    assert list(bench.written()) == []


def test_news_of_an_older_socket_is_ignored() -> None:
    bench = Bench()
    bench.joined()
    bench.channel.connect(bench.now)
    bench.events()
    bench.channel.handle_disconnected(1, "late", bench.now)
    bench.channel.handle_text(1, encode_frame("client", "init", b"{}", None), bench.now)
    bench.channel.handle_connected(1, bench.now)
    assert bench.events() == []
    assert bench.channel.state is State.CONNECTING


def test_frames_without_meaning_leave_the_connection_up() -> None:
    bench = Bench()
    bench.joined()
    for text in ("[]", '{"event":"x"}', encode_frame("client", "phx_error", b"{}", None),
                 encode_frame("client", "disconnect", b'{"reason":"something_else"}', None)):  # fmt: skip
        (ignored,) = bench.hear(text)
        assert isinstance(ignored, Ignored)
    (received,) = bench.hear(encode_frame("client", "init", b'{"a":1}', None))
    assert isinstance(received, Received)
    assert bytes(received.payload) == b'{"a":1}'


def test_an_empty_frame_reconnects() -> None:
    bench = Bench()
    bench.joined()
    assert bench.hear("")[0] == Drop(1)


def test_unmatched_topic_joins_again_on_the_same_socket() -> None:
    bench = Bench()
    bench.joined()
    bench.channel.send("create_flow", b"{}")
    (frame,) = bench.written()
    assert bench.hear(encode_reply("client", frame["ref"], "unmatched topic")) == [Refused("unmatched topic")]
    bench.channel.send("create_flow", b'{"b":1}')
    (join,) = bench.written()
    assert join["event"] == "phx_join"
    assert bench.hear(encode_reply("client", join["ref"])) == [Joined()]
    assert [frame["event"] for frame in bench.written()] == ["create_flow"]


def test_the_portal_closing_reconnects_at_once() -> None:
    bench = Bench()
    bench.joined()
    bench.advance(8)
    assert bench.hear(encode_frame("client", "phx_close", b"{}", None)) == [Drop(1), Hiccup("the portal closed the channel", 0)]
    assert bench.advance(0) == [Connect(2)]


def test_an_expired_token_is_fatal_and_asks_for_a_new_one() -> None:
    bench = Bench()
    bench.joined()
    fatal = bench.hear(encode_frame("client", "disconnect", b'{"reason":"token_expired"}', None))[-1]
    assert isinstance(fatal, Fatal)
    assert fatal.error.is_authentication_error


def test_after_a_success_delays_grow_inside_their_intervals() -> None:
    for seed in range(20):
        bench = Bench(seed=seed)
        bench.joined()
        bench.advance(9)
        delays = []
        for _ in range(16):
            hiccup = bench.lose()[-1]
            assert isinstance(hiccup, Hiccup)
            delays.append(hiccup.delay_ns / SECOND)
            bench.advance(delays[-1])
            assert bench.channel.state is State.CONNECTING
        assert delays[0] == 0
        base = 0.5
        for delay in delays[1:]:
            assert 0.5 * base - 1e-6 <= delay <= 1.5 * base + 1e-6
            base = min(base * 1.5, 60)
        bench.joined()
        bench.advance(9)
        assert bench.lose()[-1] == Hiccup("broken", 0)


def test_a_portal_that_accepts_and_closes_is_not_tried_in_a_loop() -> None:
    bench = Bench()
    delays = []
    for _ in range(5):
        bench.joined()
        hiccup = bench.lose()[-1]
        assert isinstance(hiccup, Hiccup)
        delays.append(hiccup.delay_ns)
        bench.advance(hiccup.delay_ns / SECOND)
    assert delays[0] == 0
    assert min(delays[1:]) >= SECOND // 4


def test_before_the_first_success_it_is_every_second_for_15_s() -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    start = bench.now
    attempts = 1
    bench.events()
    while not isinstance(last := bench.lose()[-1], Fatal):
        assert last == Hiccup("broken", SECOND)
        assert bench.advance(1) == [Connect(attempts + 1)]
        attempts += 1
    assert attempts == 16
    assert bench.now - start == 15 * SECOND
    assert "max retries" in str(last.error)
    assert "broken" in str(last.error)


def test_the_partition_budget_ends_it() -> None:
    bench = Bench(max_partition_s=3)
    bench.joined()
    bench.advance(9)
    start = bench.now
    while not isinstance(last := bench.lose()[-1], Fatal):
        bench.advance(last.delay_ns / SECOND) if isinstance(last, Hiccup) else None
    assert bench.now - start <= 3 * SECOND


@pytest.mark.parametrize("status", [301, 400, 403, 404, 409, 422, 429, 500, 502, 503])
def test_every_status_but_401_is_tried_again(status: int) -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    bench.events()
    bench.channel.handle_rejected(1, UpgradeRejected(status, retry_after="2"), bench.now, 0)
    assert bench.events()[-1] == Hiccup(f"the portal answered with HTTP status {status}", 2 * SECOND)


@pytest.mark.parametrize(
    ("answer", "is_authentication_error"),
    [
        (UpgradeRejected(401, "application/problem+json", '{"code":"invalid_token"}'), True),
        (UpgradeRejected(401, "application/problem+json; charset=utf-8", '{"code":"missing_token"}'), True),
        (UpgradeRejected(401, "application/problem+json", '{"code":"other"}'), False),
        (UpgradeRejected(401, "application/problem+json", "{"), False),
        (UpgradeRejected(401, "text/plain", "Invalid token"), True),
        (UpgradeRejected(401, "text/html", "<html>proxy</html>"), False),
    ],
)
def test_401_is_final_and_only_the_token_s_fault_when_it_says_so(answer: UpgradeRejected, is_authentication_error: bool) -> None:
    bench = Bench()
    bench.channel.connect(bench.now)
    bench.events()
    bench.channel.handle_rejected(1, answer, bench.now, 0)
    fatal = bench.events()[-1]
    assert isinstance(fatal, Fatal)
    assert fatal.error.is_authentication_error is is_authentication_error


def test_retry_after_reads_seconds_and_dates() -> None:
    assert parse_retry_after("2", 0) == 2 * SECOND
    assert parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 10 * SECOND) == 20 * SECOND
    assert parse_retry_after("Thu, 01 Jan 1970 00:00:30 GMT", 99 * SECOND) == 0
    assert parse_retry_after("soon", 0) is None
    assert parse_retry_after("9" * 400, 0) == 3600 * SECOND


def test_a_portal_that_accepts_and_says_nothing_is_given_up_after_15_s() -> None:
    bench = Bench()
    bench.joined()
    bench.lose()
    bench.advance(0)
    bench.advance(14.9)
    assert bench.channel.state is State.CONNECTING
    assert bench.advance(0.2)[0] == Drop(2)


def test_heartbeats_come_every_10_s_whatever_else_is_said() -> None:
    bench = Bench()
    bench.joined()
    for _ in range(3):
        bench.advance(9)
        bench.channel.send("e", b"{}")
        assert [frame["event"] for frame in bench.written()] == ["e"]
        bench.advance(1)
        (beat,) = bench.written()
        assert (beat["topic"], beat["event"], beat["payload"]) == ("phoenix", "heartbeat", {})
        bench.hear(encode_reply("phoenix", beat["ref"]))


def test_a_portal_that_answers_no_heartbeat_is_left_after_the_fourth() -> None:
    bench = Bench()
    bench.joined()
    for _ in range(4):
        assert bench.advance(10) == []
        assert len(list(bench.written())) == 1
    assert bench.advance(10)[1] == Hiccup("the portal answers no heartbeats", 0)


def test_no_repr_of_an_event_shows_a_payload() -> None:
    bench = Bench()
    bench.joined()
    assert "hunter2" not in repr(bench.hear(encode_frame("client", "init", b'{"password":"hunter2"}', None)))


def test_a_better_network_ends_the_pause_and_begins_the_retries_anew() -> None:
    bench = Bench()
    bench.joined()
    for _ in range(12):
        bench.lose()
        bench.advance(120)
    bench.lose()
    assert bench.channel.state is State.WAITING
    bench.channel.hurry(bench.now)
    assert [type(event) for event in bench.events()] == [Connect]
    *_, hiccup = bench.lose()
    assert isinstance(hiccup, Hiccup)
    assert hiccup.delay_ns <= SECOND


def test_hurry_leaves_a_joined_channel_and_a_fresh_attempt_alone_and_replaces_one_that_hangs() -> None:
    bench = Bench()
    bench.joined()
    bench.channel.hurry(bench.now)
    assert bench.events() == []
    bench.channel.connect(bench.now)
    bench.events()
    bench.channel.hurry(bench.now)
    assert bench.events() == []
    bench.now += SECOND
    bench.channel.hurry(bench.now)
    assert bench.events() == [Drop(bench.attempt - 1), Connect(bench.attempt)]


def test_who_waits_for_the_portal_makes_it_try_at_once_in_the_first_minute() -> None:
    bench = Bench()
    bench.channel.hurry(bench.now, is_wanted=True)
    assert bench.events() == []  # It was never reached: the start has a schedule of its own.
    bench.joined()
    bench.advance(300)
    bench.lose()
    lost_at = bench.now
    tries = 0
    while bench.now < lost_at + 120 * SECOND:
        bench.now += 2 * SECOND
        bench.channel.hurry(bench.now, is_wanted=True)
        if any(isinstance(event, Connect) for event in bench.events()):
            tries += 1
            bench.lose()
    assert PATIENCE == 60 * SECOND
    assert tries == 30


def test_nobody_comes_earlier_than_the_portal_asks() -> None:
    bench = Bench()
    bench.joined()
    bench.lose()
    bench.advance(0)
    answer = UpgradeRejected(503, retry_after="3")
    bench.channel.handle_rejected(bench.attempt, answer, bench.now, 0)
    bench.events()
    bench.channel.hurry(bench.now, is_wanted=True)
    bench.channel.hurry(bench.now)
    assert bench.events() == []
    assert [type(event) for event in bench.advance(3)] == [Connect]
