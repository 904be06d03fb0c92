"""`python -m tests.harness.dns_client`: the client with two sentinels and a search domain in every TUN configuration."""

from __future__ import annotations

import dataclasses

from firezone.client.__main__ import main
from firezone.proto.client.state import ClientState, TunConfig

SENTINELS = ("100.100.111.1", "fd00:2021:1111:8000:100:100:111:0")
_poll_event = ClientState.poll_event


def _poll_with_servers(state: ClientState) -> object | None:
    event = _poll_event(state)
    return (
        dataclasses.replace(event, dns_servers=SENTINELS, search_domain="corp.example") if isinstance(event, TunConfig) else event
    )


if __name__ == "__main__":
    ClientState.poll_event = _poll_with_servers  # type: ignore[method-assign,assignment]
    main()
