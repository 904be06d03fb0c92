"""A policy with every kind of resource, and the ids of what it names."""

from __future__ import annotations

from firezone.base.ids import ResourceId
from firezone.proto.portal.model import token_hash
from tests.unit.proto.portal.bench import book

KINDS = f"""
[account]
slug = "lab"
[[site]]
name = "Lab"
[[site]]
name = "Annex"
[[gateway_token]]
name = "g"
site = "Lab"
sha256 = "{token_hash("gateway-token")}"
[[gateway_token]]
name = "g2"
site = "Annex"
sha256 = "{token_hash("annex-token")}"
[[user]]
name = "alice"
[[user]]
name = "bob"
[[group]]
name = "Staff"
members = ["alice"]
[[group]]
name = "Guests"
members = ["bob"]
[[client_token]]
name = "c"
user = "alice"
sha256 = "{token_hash("client-token")}"
expires = 2025-06-22T15:06:40Z
[[client_token]]
name = "b"
user = "bob"
sha256 = "{token_hash("bob-token")}"
[[resource]]
name = "Net"
address = "10.20.0.0/16"
sites = ["Lab"]
filters = ["tcp/443", "icmp"]
[[resource]]
name = "Wiki"
address = "*.Wiki.example.com"
ip_stack = "ipv4_only"
sites = ["Lab", "Annex"]
[[resource]]
name = "Everything"
internet = true
sites = ["Annex"]
[[policy]]
name = "nets"
id = "11111111-1111-4111-8111-111111111111"
group = "Staff"
resource = "Net"
[[policy]]
name = "wikis"
group = "Staff"
resource = "Wiki"
[[policy]]
name = "out"
group = "Staff"
resource = "Everything"
"""


def id_of(name: str) -> ResourceId:
    return next(resource.id for resource in book(KINDS).resources.values() if resource.name == name)


NET, WIKI, EVERYTHING = id_of("Net"), id_of("Wiki"), id_of("Everything")
