"""The policy file: what it means, and that every mistake is named with its place."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from ipaddress import ip_network
from zoneinfo import ZoneInfo

import pytest

from firezone.base.ids import ResourceId
from firezone.proto.portal.config import find_line, read_policy
from firezone.proto.portal.config_values import PolicyError
from firezone.proto.portal.policy import judge

from .bench import POLICY, book


def fault(text: str) -> tuple[str, int | None]:
    """Returns the message and the line of a wrong policy."""
    with pytest.raises(PolicyError) as caught:
        read_policy(tomllib.loads(text), ZoneInfo)
    return str(caught.value), find_line(text, caught.value.where)


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('address = "10.20.0.0/16"', 'address = "10.20.0.1/16"', "; 10.20.0.0/16 is one"),
        ('address = "10.20.0.0/16"', 'address = "nas home"', "neither an address, a network nor a DNS name"),
        ('address = "10.20.0.0/16"', 'address = "100.64.0.0/12"', "which the tunnel itself uses"),
        ('address = "10.20.0.0/16"', 'address = "0.0.0.0/0"', "which the tunnel itself uses"),
        ('address = "10.20.0.0/16"', 'adress = "10.20.0.0/16"', "'adress' is not known"),
        ('address = "10.20.0.0/16"', "address = 5", "expected `str`, got `int`"),
        ('filters = ["tcp/443", "icmp"]', 'filters = ["tcp/99999"]', "not a range"),
        ('filters = ["tcp/443", "icmp"]', 'filters = ["icmp/3"]', "is no filter"),
        ('filters = ["tcp/443", "icmp"]', 'filters = ["sctp"]', "is no filter"),
        ('sites = ["Lab", "Annex"]', 'sites = ["Lab", "Anex"]', "there is no site 'Anex' (known: 'Lab', 'Annex')"),
        ('members = ["alice"]', 'members = ["alise"]', "there is no user 'alise'"),
        ('resource = "Printer"', 'resource = "Prnter"', "there is no resource 'Prnter'"),
        ('name = "bob"', 'name = ""', "must not be empty"),
        ("expires = 2025-06-22T15:06:40Z", "expires = 2025-06-22T15:06:40", "needs a time and a zone"),
        ('resource = "Net"', 'resource = "Net"\nhours = ["X/true/UTC"]', "is not"),
        ('resource = "Net"', 'resource = "Net"\nhours = ["M/9-8/UTC"]', "ends before it begins"),
        ('resource = "Net"', 'resource = "Net"\nhours = ["M/9-25/UTC"]', "no span of time"),
        ('resource = "Net"', 'resource = "Net"\nhours = ["M/9-17/Mars"]', "no time zone"),
        ('slug = "lab"', 'slug = "lab"\nupstream_dns = ["dns.example"]', "no IP address of a DNS server"),
        ('slug = "lab"', 'slug = "lab"\nsearch_domain = "a b"', "no DNS name"),
    ],
)
def test_a_mistake_is_named_with_its_line(old: str, new: str, says: str) -> None:
    text = POLICY.replace(old, new, 1)
    message, line = fault(text)
    assert says in message
    assert line == line_of(text, new.splitlines()[-1])


def test_a_token_in_place_of_its_hash_is_refused_without_repeating_it() -> None:
    message, line = fault('[[site]]\nname = "a"\n[[gateway_token]]\nname = "t"\nsite = "a"\nsha256 = "the-token-itself"\n')
    assert "64 hex digits" in message
    assert "the-token-itself" not in message
    assert line == 6


def test_a_missing_key_names_the_table() -> None:
    message, line = fault('[[site]]\nname = "a"\n\n[[resource]]\nname = "r"\nsites = ["a"]\n')
    assert message == "the key 'address' is missing; only the Internet has none, with internet = true"
    assert line == 4


def test_a_name_that_is_taken_is_named_where_it_comes_again() -> None:
    assert fault('[[site]]\nname = "a"\n[[site]]\nname = "a"\n') == ("there is a site 'a' already", 4)


def test_an_unknown_table_is_named() -> None:
    message, line = fault('[[site]]\nname = "a"\n[[resources]]\nname = "r"\n')
    assert "'resources' is not known" in message
    assert line == 3


def test_an_empty_file_is_a_policy_that_lets_nobody_in() -> None:
    empty = read_policy({}, ZoneInfo)
    assert (empty.tokens, empty.resources) == ({}, {})


def test_ids_are_stable_and_may_be_given() -> None:
    first, second = book(POLICY), book(POLICY.replace('slug = "lab"', 'slug = "x"'))
    assert list(first.resources) == list(second.resources)
    named = book(POLICY.replace('name = "Net"', 'name = "Net"\nid = "3C9A5A3E-2D60-4D0B-9D1B-6A2F1E0C7B11"', 1))
    assert "3c9a5a3e-2d60-4d0b-9d1b-6a2f1e0c7b11" in named.resources


def test_no_repr_of_a_policy_shows_a_hash() -> None:
    policy = book(POLICY)
    assert not any(digest in repr(list(policy.tokens.values())) for digest in policy.tokens)


@pytest.mark.parametrize(
    ("hours", "moment", "end"),
    [
        ('["M/08:00-12:00/UTC"]', "2025-06-16T08:00:00", "2025-06-16T12:00:00"),
        ('["M/08:00-12:00/UTC"]', "2025-06-16T12:00:00", "2025-06-16T12:00:00"),
        ('["M/08:00-12:00/UTC"]', "2025-06-16T12:00:01", None),
        ('["M/08:00-12:00/UTC"]', "2025-06-17T09:00:00", None),
        ('["M/08:00-12:00,11-17:30/UTC"]', "2025-06-16T09:00:00", "2025-06-16T17:30:00"),
        ('["M/true/UTC", "T/00:00-06:00/UTC"]', "2025-06-16T09:00:00", "2025-06-17T06:00:00"),
        ('["M/08-12/Europe/Berlin"]', "2025-06-16T06:00:00", "2025-06-16T10:00:00"),
        ("[]", "2025-06-16T06:00:00", None),
    ],
)
def test_hours_hold_until_the_end_of_the_merged_spans(hours: str, moment: str, end: str | None) -> None:
    policy = book(POLICY.replace('resource = "Net"', f'resource = "Net"\nhours = {hours}', 1))
    resource = next(resource for resource in policy.resources.values() if resource.name == "Net")
    user = next(user.id for user in policy.users.values() if user.name == "alice")
    utc = int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())
    verdict = judge(policy, user, resource, "192.0.2.1", utc)
    assert verdict.is_permitted is (end is not None)
    if end is not None:
        assert verdict.expires_at == int(datetime.fromisoformat(end).replace(tzinfo=UTC).timestamp())
    else:
        assert verdict.violated == ("current_utc_datetime",)


@pytest.mark.parametrize(
    ("condition", "ip", "permitted"),
    [
        ('remote_ip = ["203.0.113.0/24"]', "203.0.113.9", True),
        ('remote_ip = ["203.0.113.0/24"]', "192.0.2.1", False),
        ('remote_ip = ["2001:db8::/32"]', "2001:db8::1", True),
        ('remote_ip_not = ["192.0.2.1"]', "192.0.2.1", False),
        ('remote_ip_not = ["192.0.2.1"]', "192.0.2.2", True),
        ("remote_ip = []", "192.0.2.2", False),
    ],
)
def test_address_conditions(condition: str, ip: str, permitted: bool) -> None:
    policy = book(POLICY.replace('resource = "Net"', f'resource = "Net"\n{condition}', 1))
    resource = next(resource for resource in policy.resources.values() if resource.name == "Net")
    user = next(user.id for user in policy.users.values() if user.name == "alice")
    assert judge(policy, user, resource, ip, 0).is_permitted is permitted


def test_everyone_means_every_user() -> None:
    policy = book(POLICY + '\n[[policy]]\ngroup = "Everyone"\nresource = "Net"\n')
    resource = policy.resources[ResourceId(next(r.id for r in policy.resources.values() if r.name == "Net"))]
    assert all(judge(policy, user, resource, "192.0.2.1", 0).is_permitted for user in policy.users)


def resource_of(table: str) -> tuple[str, object, str]:
    text = POLICY + f'[[resource]]\nname = "Extra"\nsites = ["Lab"]\n{table}\n'
    resource = next(found for found in book(text).resources.values() if found.name == "Extra")
    return resource.kind, resource.address, resource.ip_stack


@pytest.mark.parametrize(
    ("table", "kind", "address"),
    [
        ('address = "10.1.2.3"', "cidr", ip_network("10.1.2.3/32")),
        ('address = "fd00::/64"', "cidr", ip_network("fd00::/64")),
        ('type = "ip"\naddress = "fd00::1"', "cidr", ip_network("fd00::1/128")),
        ('address = "*.Example.com."', "dns", "*.example.com"),
        ('address = "**.example.com"', "dns", "**.example.com"),
        ('address = "db-??.example.com"', "dns", "db-??.example.com"),
        ('address = "nas"', "dns", "nas"),
        ('address = "b\u00fccher.example"', "dns", "xn--bcher-kva.example"),
        ('type = "dns"\naddress = "10.example"', "dns", "10.example"),
        ("internet = true", "internet", None),
        ('type = "internet"', "internet", None),
    ],
)
def test_a_resource_is_what_its_address_says(table: str, kind: str, address: object) -> None:
    assert resource_of(table) == (kind, address, "dual")


def test_a_name_may_have_one_ip_stack() -> None:
    assert resource_of('address = "a.example"\nip_stack = "ipv6_only"') == ("dns", "a.example", "ipv6_only")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('address = "10.1.2.3/16"', "10.1.0.0/16 is one"),
        ('address = "100.64.0.0/10"', "which the tunnel itself uses"),
        ('address = "exa mple.com"', "neither an address, a network nor a DNS name"),
        ('address = "-a.example"', "nor a DNS name"),
        ('address = "**"', "internet = true"),
        ('address = "example.*"', "a wildcard in its last part"),
        ('address = "nas?"', "a wildcard in its last part"),
        ('address = "***.example"', "nor a DNS name"),
        ('address = "a**.example"', "nor a DNS name"),
        ('address = "**a.example"', "nor a DNS name"),
        ('type = "ip"\naddress = "10.0.0.0/8"', "no single address"),
        ('type = "cidr"\naddress = "a.example"', "neither an IP address nor a network"),
        ('type = "pool"\naddress = "a.example"', "is none of cidr, ip, dns, internet"),
        ('internet = true\naddress = "10.1.2.3"', "has no address"),
        ('internet = true\nfilters = ["udp"]', "has no filters"),
        ('address = "10.1.2.3"\nip_stack = "ipv4_only"', "only a name has an ip_stack"),
        ('address = "a.example"\nip_stack = "ipv5"', "is none of dual"),
        ('internet = true\n[[resource]]\nname = "Again"\nsites = []\ninternet = true', "an Internet resource already"),
    ],
)
def test_a_resource_that_cannot_be_is_named(table: str, says: str) -> None:
    message, line = fault(POLICY + f'[[resource]]\nname = "Extra"\nsites = ["Lab"]\n{table}\n')
    assert says in message
    assert line is not None
    assert line > POLICY.count("\n")


@pytest.mark.parametrize("server", ["100.100.111.1", "[fd00:2021:1111::1]:53"])
def test_a_dns_server_inside_the_tunnel_s_own_addresses_is_refused(server: str) -> None:
    message, _ = fault(POLICY.replace('slug = "lab"', f'slug = "lab"\nupstream_dns = ["{server}"]'))
    assert "which the tunnel itself uses" in message


def test_a_server_over_https_has_an_https_url() -> None:
    message, _ = fault(POLICY.replace('slug = "lab"', 'slug = "lab"\nupstream_doh = ["http://dns.test/"]'))
    assert "no https:// URL" in message


def test_what_is_switched_off_is_as_if_it_were_not_there() -> None:
    text = POLICY
    for name in ("Annex", "Net"):
        text = text.replace(f'name = "{name}"', f'name = "{name}"\nenabled = false')
    off = book(text)
    assert [site.name for site in off.sites.values()] == ["Lab"]
    assert [(resource.name, len(resource.site_ids)) for resource in off.resources.values()] == [("Printer", 1)]
    assert "g2" not in [token.name for token in off.tokens.values()]


def test_policies_that_say_the_same_have_ids_of_their_own_and_keep_them() -> None:
    twice = POLICY + "".join(f'[[policy]]\ngroup = "Staff"\nresource = "Net"\nhours = ["{day}/true/UTC"]\n' for day in "MTW")
    ids = [policy.id for policy in book(twice).policies]
    assert len(set(ids)) == 5
    assert ids == [policy.id for policy in book(twice.replace("W/true", "R/true")).policies]
    assert ids[:2] == [policy.id for policy in book(POLICY).policies]


def test_an_id_of_a_policy_is_a_uuid_and_its_own() -> None:
    for bad, says in (("x", "is no UUID"), ("11111111-1111-4111-8111-111111111111", "taken by another policy")):
        tables = 2 * f'[[policy]]\nid = "{bad}"\ngroup = "Staff"\nresource = "Net"\n'
        assert says in fault(POLICY + tables)[0]
