"""Which change of the policy produces which message: the table of portal-protocol 9.14, row by row, for both versions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from firezone.wire.portal import client, gateway
from tests.unit.proto.portal.bench import Bench, ScriptedDevice
from tests.unit.proto.portal.kinds import EVERYTHING, KINDS, NET, WIKI

Change = tuple[str, str]


@dataclass(frozen=True)
class Row:
    """One row: the edit, what the client hears, what the gateway of site Lab hears. The client holds a grant for Net there."""

    name: str
    changes: tuple[Change, ...]
    to_client: tuple[str, ...] = ()
    to_gateway: tuple[str, ...] = ()
    newest_client: tuple[str, ...] | None = None
    """Where the newest client (1.5.12) hears something else."""
    newest_gateway: tuple[str, ...] | None = None
    before: tuple[Change, ...] = ()
    """What the policy had been like until then."""


DELETED, CREATED = f"deleted {NET}", f"created {NET}"
OUT_FOR_STAFF, OUT_FOR_GUESTS = 'group = "Staff"\nresource = "Everything"', 'group = "Guests"\nresource = "Everything"'
IN_STAFF = 'group = "Staff"\nresource = "Net"'
ROWS = [
    Row("account DNS", (('slug = "lab"', 'slug = "lab"\nupstream_dns = ["10.0.0.53"]'),), ("config_changed",)),
    Row("search domain", (('slug = "lab"', 'slug = "lab"\nsearch_domain = "corp.test"'),), ("config_changed",)),
    Row("servers over HTTPS", (('slug = "lab"', 'slug = "lab"\nupstream_doh = ["https://dns.quad9.net/dns-query"]'),),
        ("config_changed",)),
    Row("account slug", (('slug = "lab"', 'slug = "lab2"'),), (), ("init",)),
    Row("membership added", (('members = ["bob"]', 'members = ["bob", "alice"]'),), (f"created {EVERYTHING}",),
        before=((OUT_FOR_STAFF, OUT_FOR_GUESTS),)),
    Row("membership removed", (('members = ["alice"]', "members = []"),),
        (DELETED, f"deleted {WIKI}", f"deleted {EVERYTHING}"), (f"reject {NET}",)),
    Row("policy removed",
        (('[[policy]]\nname = "nets"\nid = "11111111-1111-4111-8111-111111111111"\ngroup = "Staff"\nresource = "Net"\n', ""),),
        (DELETED,), (f"reject {NET}",)),
    Row("policy disabled", (('name = "nets"', 'name = "nets"\nenabled = false'),), (DELETED,), (f"reject {NET}",)),
    Row("policy added", (("[[policy]]", '[[policy]]\ngroup = "Staff"\nresource = "Everything"\n[[policy]]'),),
        (f"created {EVERYTHING}",), before=((OUT_FOR_STAFF, OUT_FOR_GUESTS),)),
    Row("policy enabled", (("enabled = false\n", ""),), (f"created {EVERYTHING}",),
        before=(('name = "out"\n', 'name = "out"\nenabled = false\n'),)),
    Row("a second policy for what is granted", (("[[policy]]", '[[policy]]\ngroup = "Everyone"\nresource = "Net"\n[[policy]]'),)),
    Row("policy's group changed to one without the user", ((IN_STAFF, 'group = "Guests"\nresource = "Net"'),),
        (DELETED,), (f"reject {NET}",)),
    Row("policy's group changed to another of the user's", ((IN_STAFF, 'group = "Everyone"\nresource = "Net"'),),
        (DELETED, CREATED)),
    Row("policy's conditions changed and hold",
        ((IN_STAFF, 'group = "Staff"\nresource = "Net"\nremote_ip = ["192.0.2.0/24"]'),),
        (DELETED, CREATED)),
    Row("policy's conditions changed and fail",
        ((IN_STAFF, 'group = "Staff"\nresource = "Net"\nremote_ip = ["198.51.100.0/24"]'),),
        (DELETED,), (f"reject {NET}",)),
    Row("policy's end set",
        ((IN_STAFF, 'group = "Staff"\nresource = "Net"\nexpires = 2025-06-15T16:06:40Z'),),
        (DELETED, CREATED), (f"expiry {NET}",), newest_gateway=(f"reject {NET}",)),
    Row("policy's resource changed", ((IN_STAFF, 'group = "Staff"\nresource = "Wiki"'),),
        (DELETED, f"deleted {WIKI}", f"created {WIKI}"), (f"reject {NET}",)),
    Row("resource's description changed", (('sites = ["Lab"]\n', 'sites = ["Lab"]\ndescription = "x"\n'),), (CREATED,)),
    Row("resource's filters changed", (('"tcp/443", "icmp"', '"udp"'),), (CREATED,), (f"updated {NET}",)),
    Row("filters of a resource without a grant", (('ip_stack = "ipv4_only"', 'ip_stack = "ipv4_only"\nfilters = ["udp"]'),),
        (f"created {WIKI}",), (f"updated {WIKI}",)),
    Row("resource's address changed", (('"10.20.0.0/16"', '"10.21.0.0/16"'),), (CREATED,), (f"reject {NET}",)),
    Row("resource's type changed", (('"10.20.0.0/16"', '"net.example.com"'),), (CREATED,), (f"reject {NET}",)),
    Row("resource's IP stack changed", (('ip_stack = "ipv4_only"', 'ip_stack = "dual"'),), (f"created {WIKI}",)),
    Row("resource disabled", (('name = "Net"', 'name = "Net"\nenabled = false'),), (DELETED,), (f"reject {NET}",)),
    Row("site renamed",
        (('[[site]]\nname = "Lab"', '[[site]]\nid = "SITE"\nname = "Den"'), ('site = "Lab"', 'site = "Den"'),
         ('sites = ["Lab"]', 'sites = ["Den"]'), ('sites = ["Lab", "Annex"]', 'sites = ["Den", "Annex"]')),
        (DELETED, f"deleted {WIKI}", CREATED, f"created {WIKI}"), newest_client=(CREATED, f"created {WIKI}")),
    Row("resource connected to a site", (('sites = ["Lab"]\n', 'sites = ["Lab", "Annex"]\n'),), (DELETED, CREATED), (),
        newest_client=(CREATED,)),
    Row("resource moved to another site", (('sites = ["Lab"]\n', 'sites = ["Annex"]\n'),), (DELETED, CREATED), (f"reject {NET}",),
        newest_client=(CREATED,)),
    Row("site disabled", (('name = "Annex"', 'name = "Annex"\nenabled = false'),),
        (f"deleted {WIKI}", f"deleted {EVERYTHING}", f"created {WIKI}"),
        newest_client=(f"deleted {EVERYTHING}", f"created {WIKI}")),
    Row("something else beside two policies that say the same", (('slug = "lab"', 'slug = "lab"\nsearch_domain = "x.test"'),),
        ("config_changed",),
        before=(("[[policy]]", '[[policy]]\ngroup = "Staff"\nresource = "Net"\n[[policy]]\ngroup = "Staff"\nresource = "Net"\n'
                 'hours = ["S/true/UTC"]\n[[policy]]'),)),
    Row("nothing but a comment", (('slug = "lab"', 'slug = "lab"  # ours'),)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_change_produces_what_the_original_produces(row: Row, protocol: int) -> None:
    policy = KINDS
    for old, new in row.before:
        assert old in policy
        policy = policy.replace(old, new, 1)
    bench = Bench(policy)
    served, asker = bench.pair() if protocol == 1 else bench.newest_pair()
    asker.flow(NET)
    for device in (served, asker):
        device.heard.clear()
    site = next(site.id for site in bench.service._book.sites.values() if site.name == "Lab")

    bench.reload(*((old, new.replace("SITE", site)) for old, new in row.changes))

    newest = protocol == 2
    assert heard(asker) == list(row.newest_client if newest and row.newest_client is not None else row.to_client)
    assert heard(served) == list(row.newest_gateway if newest and row.newest_gateway is not None else row.to_gateway)


def test_every_deletion_comes_before_any_creation() -> None:
    for row in ROWS:
        words = [word.split()[0] for word in row.to_client]
        assert words == sorted(words, key=lambda word: word != "deleted") or "config_changed" in words


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_client_whose_grant_got_another_end_asks_again_and_gets_it(protocol: int) -> None:
    bench = Bench(KINDS)
    served, asker = bench.pair() if protocol == 1 else bench.newest_pair()
    asker.flow(NET)
    served.heard.clear()
    asker.heard.clear()
    bench.reload(("expires = 2025-06-22T15:06:40Z", "expires = 2025-06-15T16:06:40Z"))
    if protocol == 1:
        assert (heard(asker), heard(served)) == ([], [f"expiry {NET}"])
    else:
        assert (heard(asker), heard(served)) == ([DELETED, CREATED], [f"reject {NET}"])
    served.heard.clear()
    asker.flow(NET)
    assert isinstance(served.heard[-1], gateway.AuthorizeFlow)
    assert served.heard[-1].expires_at == 1750003600


def test_a_gateway_hears_of_filters_in_its_own_words_or_not_at_all() -> None:
    bench = Bench(KINDS)
    old = bench.connect("gateway", key=b"\x03", device_id="old", agent="Debian/12 connlib/1.1.0")
    old.join()
    bench.reload(('ip_stack = "ipv4_only"', 'ip_stack = "ipv4_only"\nfilters = ["udp"]'))
    assert old.take(gateway.ResourceUpdated).resource.address == "?.wiki.example.com"
    bench.reload(('"*.Wiki.example.com"', '"a*.example.com"'), ('filters = ["udp"]', 'filters = ["tcp"]'))
    assert old.heard == []


def heard(device: ScriptedDevice) -> list[str]:
    """Returns what a device heard, shortly."""
    said = []
    for message in device.heard:
        match message:
            case client.ConfigChanged():
                said.append("config_changed")
            case client.ResourceDeleted(resource_id=resource_id):
                said.append(f"deleted {resource_id}")
            case client.ResourceCreatedOrUpdated(resource=resource):
                said.append(f"created {resource.id}")
            case gateway.Init():
                said.append("init")
            case gateway.RejectAccess(resource_id=resource_id):
                said.append(f"reject {resource_id}")
            case gateway.AccessAuthorizationExpiryUpdated(resource_id=resource_id):
                said.append(f"expiry {resource_id}")
            case gateway.ResourceUpdated(resource=resource):
                said.append(f"updated {resource.id}")
            case other:
                said.append(type(other).__name__)
    return said
