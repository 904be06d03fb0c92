"""What the client's state makes of questions: answers, servers, sites, and what is kept: `client` 8, 15.4, 17.4, 17.5."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from dns import message as dns_message
from dns import rrset

from firezone.base.ids import ResourceId
from firezone.base.net import Endpoint
from firezone.base.timing import SECOND
from firezone.proto.client.dns_outcomes import DnsAnswer, DnsForward, DnsInSite, SiteReachable
from firezone.proto.client.state import TunConfig
from firezone.wire.portal import client as wire
from firezone.wire.portal.shared import ClientInterface, Filter, UpstreamDns
from tests.harness.roles import cidr, dns, interface_of, uid
from tests.unit.proto.client.bench import NET, Client, failed, granted, udp
from tests.unit.proto.client.names_bench import GATEWAY, NAME, PATTERN, NamesClient, named, query, records

SYSTEM = ["1.1.1.1", "1.0.0.1", "2606:4700:4700::1111"]
PORTAL = "10.0.0.53"
DNS_UDP = Filter(protocol="udp", port_range_start=53, port_range_end=53)
DNS_TCP = Filter(protocol="tcp", port_range_start=53, port_range_end=53)


def interface(*servers: str, search_domain: str | None = None, number: int = 1) -> ClientInterface:
    ipv4, ipv6 = interface_of(number)
    upstream = tuple(UpstreamDns(address=f"{server}:53") for server in servers)
    return ClientInterface(ipv4=ipv4, ipv6=ipv6, upstream_dns=upstream, search_domain=search_domain)


def configured(*resources: wire.Resource, portal: tuple[str, ...] = ()) -> NamesClient:
    client = NamesClient(*resources)
    client.state.set_system_resolvers(SYSTEM, client.now)
    if portal:
        client.tell(wire.ConfigChanged(interface=interface(*portal)))
    return client


def last_config(client: Client) -> TunConfig | None:
    configs = [event for event in client.events() if isinstance(event, TunConfig)]
    return configs[-1] if configs else None


def answer(question: bytes, *data: str, ttl: int = 300) -> bytes:
    asked = dns_message.from_wire(question)
    made = dns_message.make_response(asked)
    (wanted,) = asked.question
    made.answer.append(rrset.from_text(wanted.name, ttl, "IN", "A", *data))
    return made.to_wire()


# servers and sentinels


def test_servers_known_before_the_first_init_get_the_first_sentinels_then() -> None:
    client = NamesClient(has_address=True)
    before = client.config()
    assert before.dns_servers == ()
    client.state.set_system_resolvers(SYSTEM, client.now)
    config = last_config(client)
    assert config is not None
    assert config.dns_servers == ("100.100.111.1", "100.100.111.2", "fd00:2021:1111:8000:100:100:111:0")
    client.state.set_system_resolvers(list(reversed(SYSTEM)), client.now)
    client.state.set_system_resolvers([*SYSTEM, "100.100.111.1"], client.now)
    assert last_config(client) is None, "nothing has changed"


def test_other_servers_get_sentinels_of_their_own() -> None:
    client = configured()
    first = last_config(client)
    client.state.set_system_resolvers(["9.9.9.9"], client.now)
    second = last_config(client)
    assert first is not None
    assert second is not None
    assert not set(first.dns_servers) & set(second.dns_servers)


def test_servers_of_the_portal_go_before_the_machines_own_until_there_are_none() -> None:
    client = configured(portal=(PORTAL,))
    assert client.question("other.test", sentinel=last_config(client).dns_servers[0]) == DnsForward(  # type: ignore[union-attr]
        Endpoint.from_text(PORTAL, 53), False
    )
    client.tell(wire.ConfigChanged(interface=interface()))
    config = last_config(client)
    assert config is not None
    found = [client.question("other.test", sentinel=sentinel) for sentinel in config.dns_servers]
    assert found == [DnsForward(Endpoint.from_text(server, 53), False) for server in SYSTEM]


def test_a_search_domain_or_an_address_alone_configures_the_device_anew() -> None:
    client = configured()
    client.events()
    client.tell(wire.ConfigChanged(interface=interface(search_domain="corp.example")))
    config = last_config(client)
    assert config is not None
    assert config.search_domain == "corp.example"
    client.tell(wire.ConfigChanged(interface=interface(search_domain="corp.example", number=7)))
    assert last_config(client) is not None
    client.tell(wire.ConfigChanged(interface=interface(search_domain="corp.example", number=7)))
    assert last_config(client) is None


def test_a_question_to_what_stands_for_no_server_fails() -> None:
    outcome = configured().question("other.test", sentinel="100.100.111.99")
    assert isinstance(outcome, DnsAnswer)
    assert dns_message.from_wire(outcome.message).rcode() == 2


def test_what_is_no_question_is_told_as_such() -> None:
    client = configured(dns(20, PATTERN))
    for garbage in (b"", b"\0" * 11, query(NAME)[:-1], answer(query(NAME), "1.2.3.4")):
        assert client.state.handle_dns_query(ipaddress.ip_address("100.100.111.1"), garbage, client.now) is None


# who answers


def test_names_of_resources_are_answered_here_for_every_program_alike() -> None:
    client = configured(dns(20, PATTERN))
    assert records(client.question(NAME)) == [f"100.96.0.{n}" for n in range(1, 5)]
    assert records(client.question(NAME.upper(), "AAAA"))[0] == "fd00:2021:1111:8000::"
    assert records(client.question("1.0.96.100.in-addr.arpa", "PTR")) == [f"{NAME}."]
    assert records(client.question(NAME, "HTTPS")) == []
    assert isinstance(client.question(NAME, "MX"), DnsForward)
    assert client.intents() == []


def test_an_ip_stack_that_changes_counts_with_the_next_question() -> None:
    client = configured(dns(20, PATTERN))
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN, ip_stack="ipv4_only")))
    assert len(records(client.question(NAME))) == 4
    assert records(client.question(NAME, "AAAA")) == []


@pytest.mark.parametrize("end", ["removed", "disabled", "became a network"])
def test_a_name_that_is_no_resources_any_more_is_the_servers_again_and_keeps_its_address(end: str) -> None:
    client = configured(dns(20, PATTERN))
    before = records(client.question(NAME))
    if end == "removed":
        client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(20))))
    elif end == "disabled":
        client.state.set_disabled_resources({ResourceId(uid(20))}, client.now)
    else:
        client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(20, NET)))
    assert isinstance(client.question(NAME), DnsForward)
    assert records(client.question("1.0.96.100.in-addr.arpa", "PTR")) == [f"{NAME}."]
    client.state.set_disabled_resources(set(), client.now)
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN)))
    assert records(client.question(NAME)) == before


def test_a_reset_keeps_names_servers_and_answers() -> None:
    client = configured(dns(20, PATTERN))
    before = records(client.question(NAME))
    client.events()
    client.state.set_portal_reached(False, client.now)
    client.state.reset(client.now)
    assert last_config(client) is None
    assert records(client.question(NAME)) == before
    assert isinstance(client.question("other.test"), DnsForward)


# through the tunnel


def is_tunnelled(client: NamesClient) -> bool:
    config = last_config(client)
    assert config is not None
    outcome = client.question("other.test", sentinel=config.dns_servers[0])
    assert isinstance(outcome, DnsForward)
    return outcome.is_tunnelled


@pytest.mark.parametrize(
    ("filters", "expected"), [((), True), ((DNS_UDP, DNS_TCP), True), ((DNS_UDP,), False), ((DNS_TCP,), False)]
)  # fmt: skip
def test_a_server_of_the_portal_that_a_network_covers_is_asked_through_it(filters: tuple[Filter, ...], expected: bool) -> None:
    assert is_tunnelled(configured(cidr(10, NET, *filters), portal=(PORTAL,))) is expected


def test_a_server_of_the_machine_never_is() -> None:
    client = configured(cidr(10, "1.1.1.0/24"), wire.InternetResource(id=ResourceId(uid(9)), sites=()))
    client.state.set_internet_resource_state(True, client.now)
    assert not is_tunnelled(client)


def test_with_the_internet_resource_every_server_of_the_portal_is() -> None:
    client = configured(wire.InternetResource(id=ResourceId(uid(9)), sites=()), portal=("9.9.9.9",))
    assert not is_tunnelled(client)
    client.state.set_internet_resource_state(True, client.now)
    assert is_tunnelled(client)


# in the site


@pytest.mark.parametrize("kind", ["SRV", "TXT"])
def test_records_of_a_site_are_asked_for_at_its_gateway(kind: str) -> None:
    client = named()
    for sentinel, server in (("100.100.111.1", "100.64.0.2"), ("fd00:2021:1111:8000:100:100:111:0", "fd00:2021:1111::2")):
        found = client.question(NAME, kind, sentinel)
        assert found == DnsInSite(ResourceId(uid(20)), Endpoint.from_text(server, 53535))
    assert client.intents() == []


def test_without_a_gateway_one_is_asked_for_and_told_of_when_it_is_there() -> None:
    client = configured(dns(20, PATTERN))
    client.events()
    for _ in range(3):
        assert client.question(NAME, "TXT") == DnsInSite(ResourceId(uid(20)), None)
    assert [intent.resource_id for intent in client.intents()] == [uid(20)]
    client.now += 2 * SECOND
    client.question(NAME, "SRV")
    assert len(client.intents()) == 1
    client.tell(granted(20))
    assert [event for event in client.events() if isinstance(event, SiteReachable)] == [
        SiteReachable(ResourceId(uid(20)), *interface_of(2))
    ]
    assert client.state.node.row_of(GATEWAY) is not None
    client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(20))))
    assert len(client.state.node) == 0, "the connection served questions alone and ends with the resource"


@pytest.mark.parametrize("end", ["offline", "removed"])
def test_questions_whose_resource_is_gone_are_not_told_of_a_later_gateway(end: str) -> None:
    client = configured(dns(20, PATTERN))
    client.question(NAME, "TXT")
    if end == "offline":
        client.tell(failed(20, "offline"))
    else:
        client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(20))))
        client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN)))
    client.send(udp(client.ask()))
    client.tell(granted(20))
    assert [event for event in client.events() if isinstance(event, SiteReachable)] == []


def test_the_most_specific_pattern_says_whose_site() -> None:
    client = configured(dns(20, PATTERN), dns(19, NAME), dns(18, NAME))
    outcome = client.question(NAME, "SRV")
    assert isinstance(outcome, DnsInSite)
    assert outcome.resource == uid(19)


# what is kept


def test_answers_are_kept_and_their_time_runs() -> None:
    client = configured()
    question = query("other.test")
    client.state.handle_dns_response(question, answer(question, "192.0.2.7"), client.now)
    client.now += 10 * SECOND
    outcome = client.question("OTHER.test")
    assert records(outcome) == ["192.0.2.7"]
    assert isinstance(outcome, DnsAnswer)
    assert dns_message.from_wire(outcome.message).answer[0].ttl == 290
    client.now += 300 * SECOND
    assert isinstance(client.question("other.test"), DnsForward)


@pytest.mark.parametrize("change", ["added", "updated", "removed", "disabled", "servers", "portal's servers"])
def test_every_change_of_servers_or_resources_empties_what_is_kept(change: str) -> None:
    client = configured(cidr(10, NET))
    question = query("other.test")
    client.state.handle_dns_response(question, answer(question, "192.0.2.7"), client.now)
    assert records(client.question("other.test")) == ["192.0.2.7"]
    match change:
        case "added":
            client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, "other.test")))
            assert records(client.question("other.test"))[0].startswith("100.96.0.")
            return
        case "updated":
            client.tell(wire.ResourceCreatedOrUpdated(resource=msgspec.structs.replace(cidr(10, NET), name="x")))
        case "removed":
            client.tell(wire.ResourceDeleted(resource_id=ResourceId(uid(10))))
        case "disabled":
            client.state.set_disabled_resources({ResourceId(uid(10))}, client.now)
        case "servers":
            client.state.set_system_resolvers(["9.9.9.9"], client.now)
        case _:
            client.tell(wire.ConfigChanged(interface=interface(PORTAL)))
    assert not isinstance(client.question("other.test"), DnsAnswer) or records(client.question("other.test")) == []


def test_an_equal_list_leaves_what_is_kept() -> None:
    client = configured(cidr(10, NET))
    question = query("other.test")
    client.state.handle_dns_response(question, answer(question, "192.0.2.7"), client.now)
    client.tell(wire.ResourceCreatedOrUpdated(resource=cidr(10, NET)))
    assert records(client.question("other.test")) == ["192.0.2.7"]


def test_an_answer_that_comes_when_its_name_is_a_resources_already_is_not_kept() -> None:
    client = configured()
    question = query(NAME)
    client.tell(wire.ResourceCreatedOrUpdated(resource=dns(20, PATTERN)))
    client.state.handle_dns_response(question, answer(question, "192.0.2.7"), client.now)
    assert records(client.question(NAME))[0] == "100.96.0.1"
