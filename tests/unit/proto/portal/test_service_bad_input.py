"""What the portal does with messages that are no use: rows of section 10 and 12 of the specification."""

from __future__ import annotations

import pytest

from .bench import NET, Bench, kinds


@pytest.mark.parametrize(
    ("event", "payload"),
    [
        ("create_flow", {"resource_id": "no uuid", "connected_gateway_ids": []}),
        ("create_flow", {"resource_id": NET}),
        ("create_flow", None),
        ("request_authorization", {"resource_id": NET, "connected_gateway_ids": []}),
        ("broadcast_ice_candidates", {"gateway_ids": ["x"], "candidates": []}),
        ("nonsense", []),
    ],
)
def test_a_message_that_is_not_understood_is_an_error_for_its_sender_only(event: str, payload: object) -> None:
    bench = Bench()
    _served, asker = bench.pair()
    reply = asker.say(event, payload)
    assert reply is not None
    assert reply["payload"] == {"status": "error", "response": {"reason": "unknown_message"}}
    assert asker.closed is None
    asker.flow(NET)
    assert kinds(asker) == ["FlowCreated", "IceCandidates"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"topic":"client","event":"x","payload":{}}', b"\xff\xfe"])
def test_what_is_no_message_closes_that_socket_only(text: str | bytes) -> None:
    bench = Bench()
    served, asker = bench.pair()
    bench.service.handle_text(asker.number, text, bench.now, bench.utc)
    bench.deliver()
    assert asker.closed == 1002
    assert served.closed is None


def test_pending_flows_of_one_client_are_bounded() -> None:
    bench = Bench()
    served, asker = bench.pair()
    served.answers_flows = False
    for _ in range(300):
        asker.flow(NET)
    refs = [message.ref for message in served.heard]
    answered = [served.say("flow_authorized", {"ref": ref}) for ref in refs]
    assert sum(reply is not None and reply["payload"]["status"] == "ok" for reply in answered) == 256


def test_nothing_the_service_prints_holds_a_secret() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    asker.say("nonsense", {})
    order, created = served.heard[0], asker.heard[0]
    init = served.say("phx_join", None)
    printed = repr((bench.notices, served.heard, asker.heard, bench.store.committed, bench.service.__dict__, init))
    for secret in (
        "client-token", "gateway-token", order.client_ice_credentials.password.reveal(),
        created.gateway_ice_credentials.password.reveal(), repr(order.client.preshared_key.reveal())[2:-1],
    ):  # fmt: skip
        assert secret not in printed
