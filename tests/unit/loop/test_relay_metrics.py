"""A relay's numbers as its operators read them."""

from __future__ import annotations

import pytest

from firezone.loop.relay_metrics import metrics, relayed_bytes, throughput_text
from firezone.proto.relay.counters import RelayCounters

RELAYED = {"to_peers": 2, "to_peers_bytes": 300, "to_clients": 1, "to_clients_bytes": 40, "looped": 0, "sizes": [1] * 16}


@pytest.mark.parametrize(
    ("count", "seconds", "text"),
    [
        (0, 10, "0.00 B/s"),
        (9990, 10, "999.00 B/s"),
        (10_000, 10, "1.00 kB/s"),
        (9_553_300_000, 10, "955.33 MB/s"),
        (15 * 10**12, 10, "1.50 TB/s"),
        (10**19, 10, "1000000.00 TB/s"),
        (5, 0, "0.00 B/s"),
    ],
)
def test_throughput_has_two_decimals_and_a_unit(count: int, seconds: float, text: str) -> None:
    assert throughput_text(count, seconds) == text


def test_metrics_go_by_the_originals_names() -> None:
    counters = RelayCounters(allocations=3, channels=5)
    counters.responded(3)
    counters.responded(3, 401)
    found = metrics({"relayed": RELAYED, **counters.as_dict()}, "1.2")
    assert found["allocations_total"] == found["relay.active_allocations"] == 3
    assert found["data_relayed_userspace_bytes"] == relayed_bytes({"relayed": RELAYED}) == 340
    assert found["relay.responses"] == found["responses_total"]
    assert found["responses_total"] == [
        {"message_type": "allocate", "response_class": "success", "count": 1},
        {"message_type": "allocate", "response_class": "error", "error_code": 401, "count": 1},
    ]
    assert len(found["relay.packet.size"]["counts"]) == len(found["relay.packet.size"]["bounds"]) + 1
