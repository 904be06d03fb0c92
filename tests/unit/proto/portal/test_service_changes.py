"""What the portal says when its policy changes, or time does: rows 9.12 to 9.14 of the specification."""

from __future__ import annotations

import pytest

from firezone.base.ids import ResourceId
from firezone.base.timing import SECOND
from firezone.proto.portal.login import LoginRejected
from firezone.wire.portal import client, gateway
from firezone.wire.portal.shared import PublicKey

from .bench import NET, PRINTER, UTC, WEEK, Bench, MemoryStore, ScriptedDevice, kinds


def test_removing_a_policy_takes_the_resource_and_rejects_access() -> None:
    bench = Bench()
    served, asker = bench.pair()
    for resource in (NET, PRINTER):
        asker.flow(resource)
    client_id = served.heard[0].client.id
    served.heard.clear()
    asker.heard.clear()
    bench.reload(('resource = "Net"\n[[policy]]', 'resource = "Net"\nenabled = false\n[[policy]]'))
    assert served.take(gateway.RejectAccess) == gateway.RejectAccess(client_id=client_id, resource_id=NET)
    assert asker.take(client.ResourceDeleted).resource_id == NET
    assert len(bench.store.committed[1]) == 1
    asker.flow(NET)
    assert asker.take(client.FlowCreationFailed).reason == "not_found"


def test_access_is_not_rejected_while_another_policy_grants_it() -> None:
    bench = Bench(Bench().policy + '\n[[policy]]\ngroup = "Everyone"\nresource = "Net"\nexpires = 2025-06-15T16:06:40Z\n')
    served, asker = bench.pair()
    asker.flow(NET)
    assert served.heard[0].expires_at == UTC // SECOND + WEEK
    served.heard.clear()
    asker.heard.clear()
    bench.reload(('group = "Staff"\nresource = "Net"', 'group = "Staff"\nenabled = false\nresource = "Net"'))
    assert served.take(gateway.AccessAuthorizationExpiryUpdated).expires_at == UTC // SECOND + 3600
    assert asker.heard == []


def test_new_filters_reach_every_gateway_and_the_client() -> None:
    bench = Bench()
    served, asker = bench.pair()
    idle = bench.connect("gateway", "annex-token", device_id="idle")
    idle.join()
    asker.flow(PRINTER)
    holder, other = (served, idle) if served.heard else (idle, served)
    holder.heard.clear()
    asker.heard.clear()
    bench.reload(('"tcp/443", "icmp"', '"udp"'))
    assert [f.protocol for f in holder.take(gateway.ResourceUpdated).resource.filters] == ["udp"]
    assert asker.take(client.ResourceCreatedOrUpdated).resource.id == PRINTER
    assert [f.protocol for f in other.take(gateway.ResourceUpdated).resource.filters] == ["udp"]


def test_another_address_is_another_resource_for_the_gateway() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    asker.heard.clear()
    bench.reload(("10.20.0.0/16", "10.21.0.0/16"))
    assert kinds(served) == ["RejectAccess"]
    assert str(asker.take(client.ResourceCreatedOrUpdated).resource.address) == "10.21.0.0/16"


def test_a_moved_or_renamed_site_deletes_the_resource_first() -> None:
    bench = Bench()
    _served, asker = bench.pair()
    bench.reload(('sites = ["Lab"]', 'sites = ["Annex"]'))
    assert kinds(asker) == ["ResourceDeleted", "ResourceCreatedOrUpdated"]
    site_id = bench.service._book.resources[NET].site_ids[0]
    bench.reload(('name = "Annex"', f'name = "Annex"\nid = "{site_id}"'))
    assert kinds(asker) == []
    bench.policy = bench.policy.replace('"Annex"', '"Attic"')
    bench.reload()
    assert kinds(asker) == ["ResourceDeleted", "ResourceDeleted", "ResourceCreatedOrUpdated", "ResourceCreatedOrUpdated"]


def test_a_revoked_token_closes_its_sockets_and_rejects_its_grants() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    bench.reload(("expires = 2025-06-22T15:06:40Z", "revoked = true"))
    assert asker.closed == 1000
    assert kinds(served) == ["RejectAccess"]
    with pytest.raises(LoginRejected, match="Invalid token"):
        bench.connect("client")


def test_a_disabled_user_is_out_at_once() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    bench.reload(('name = "alice"', 'name = "alice"\nenabled = false'))
    assert asker.closed == 1000
    assert kinds(served) == ["RejectAccess"]
    with pytest.raises(LoginRejected):
        bench.connect("client")


def test_a_token_ends_to_the_second() -> None:
    bench = Bench(Bench().policy.replace("2025-06-22T15:06:40Z", "2025-06-15T15:08:10Z"))
    served, asker = bench.pair()
    for _ in range(3):
        bench.advance(29.9)
        served.say("heartbeat", {}, topic="phoenix")
    assert asker.closed is None
    bench.advance(0.4)
    assert asker.closed == 1000


def test_a_grant_that_has_expired_is_not_listed_to_a_gateway() -> None:
    bench = Bench(Bench().policy.replace('resource = "Net"\n[', 'resource = "Net"\nexpires = 2025-06-15T15:06:50Z\n[', 1))
    served, asker = bench.pair()
    asker.flow(NET)
    assert served.heard[0].expires_at == UTC // SECOND + 10
    served.disconnect()
    again = bench.connect("gateway", key=b"\x02")
    assert len(again.join().authorizations) == 1
    bench.advance(11)
    assert again.join().authorizations == ()
    assert bench.store.committed[1] == {}


ENDS = 'resource = "Net"\nexpires = 2025-06-15T15:06:50Z\n'
LATER = 'resource = "Net"\nexpires = 2025-06-15T16:06:40Z\n'


def granted_for_ten_seconds() -> tuple[Bench, ScriptedDevice, ScriptedDevice]:
    bench = Bench(Bench().policy.replace('resource = "Net"\n', ENDS, 1))
    served, asker = bench.pair()
    asker.flow(NET)
    asker.heard.clear()
    return bench, served, asker


def test_a_policy_renewed_after_its_grant_ran_out_is_asked_for_anew() -> None:
    """The gateway has ended the grant by itself, and the client does not know."""
    bench, _served, asker = granted_for_ten_seconds()
    bench.advance(11)
    bench.reload((ENDS, LATER))
    assert [type(said) for said in asker.heard] == [client.ResourceDeleted, client.ResourceCreatedOrUpdated]
    assert asker.heard[0].resource_id == NET


def test_so_is_one_that_was_renewed_while_the_portal_was_down() -> None:
    bench, _served, _asker = granted_for_ten_seconds()
    bench.advance(11)
    bench.policy = bench.policy.replace(ENDS, LATER)
    bench.restart()
    asker = bench.connect("client")
    asker.say("phx_join", {})
    assert [type(said) for said in asker.heard] == [client.Init, client.ResourceDeleted, client.ResourceCreatedOrUpdated]
    asker.heard.clear()
    bench.advance(20)
    assert asker.heard == []


def test_so_is_one_that_another_policy_gives_by_then_when_its_gateway_returns() -> None:
    later = '[[policy]]\nname = "later"\ngroup = "Everyone"\nresource = "Net"\nhours = ["U/15:07-16:00/UTC"]\n'
    bench = Bench(Bench().policy.replace('resource = "Net"\n', ENDS, 1) + later)
    served, asker = bench.pair()
    asker.flow(NET)
    asker.heard.clear()
    assert served.heard[0].expires_at == UTC // SECOND + 10
    bench.advance(30)
    served.disconnect()
    assert bench.connect("gateway", key=b"\x02").join().authorizations == ()
    assert [type(said) for said in asker.heard] == [client.ResourceDeleted, client.ResourceCreatedOrUpdated]


def test_a_grant_revoked_while_its_gateway_was_away_is_not_listed() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    asker.flow(PRINTER)
    served.disconnect()
    bench.reload(('resource = "Net"\n[[policy]]', 'resource = "Net"\nenabled = false\n[[policy]]'))
    again = bench.connect("gateway", key=b"\x02")
    assert [grant.resource_id for grant in again.join().authorizations] == [PRINTER]


def test_the_policy_that_changed_while_the_portal_was_down_holds_at_once() -> None:
    bench = Bench()
    _served, asker = bench.pair()
    asker.flow(NET)
    bench.policy = bench.policy.replace('resource = "Net"\n[', 'resource = "Net"\nenabled = false\n[', 1)
    bench.restart()
    assert bench.connect("gateway", key=b"\x02").join().authorizations == ()


def test_hours_that_end_take_the_resource_within_a_minute_and_give_it_back() -> None:
    hours = 'hours = ["U/15:00-15:08/UTC", "U/15:12-16:00/UTC"]'
    bench = Bench(Bench().policy.replace('resource = "Net"\n[', f'resource = "Net"\n{hours}\n[', 1))
    served, asker = bench.pair()
    asker.flow(NET)
    assert served.heard[0].expires_at == UTC // SECOND + 80
    asker.heard.clear()
    bench.advance(145)
    assert asker.take(client.ResourceDeleted).resource_id == NET
    asker.say("heartbeat", {}, topic="phoenix")
    bench.advance(250)
    assert asker.take(client.ResourceCreatedOrUpdated).resource.id == NET


def test_dns_settings_reach_clients_and_the_slug_gateways() -> None:
    bench = Bench()
    served, asker = bench.pair()
    bench.reload(('slug = "lab"', 'slug = "lab"\nupstream_dns = ["192.0.2.53", "2001:db8::53"]\nsearch_domain = "corp.test"'))
    changed = asker.take(client.ConfigChanged)
    assert [str(server.endpoint) for server in changed.interface.upstream_dns] == ["192.0.2.53:53", "[2001:db8::53]:53"]
    assert changed.interface.search_domain == "corp.test"
    assert served.heard == []
    bench.reload(('slug = "lab"', 'slug = "lab2"'))
    assert served.take(gateway.Init).account_slug == "lab2"
    assert asker.heard == []


def test_a_reload_that_changes_nothing_says_nothing() -> None:
    bench = Bench()
    served, asker = bench.pair()
    asker.flow(NET)
    kinds(served), kinds(asker)
    bench.reload()
    bench.advance(36)
    assert (served.heard, asker.heard) == ([], [])


def test_a_policy_with_an_address_condition_follows_the_client() -> None:
    bench = Bench(Bench().policy.replace('resource = "Net"\n[', 'resource = "Net"\nremote_ip = ["192.0.2.0/24"]\n[', 1))
    served, asker = bench.pair()
    asker.flow(NET)
    served.heard.clear()
    asker.disconnect()
    moved = bench.connect("client", ip="198.51.100.1")
    assert [resource.id for resource in moved.join().resources] == [PRINTER]
    assert kinds(served) == ["RejectAccess"]
    assert [r.id for r in bench.connect("client", ip="::ffff:192.0.2.9").join().resources] == [NET, PRINTER]


def test_two_devices_with_a_secret_each_never_share_addresses_after_a_restart() -> None:
    store = MemoryStore()
    first = Bench(store=store).connect("client", device_id="one").join()
    second = Bench(store=store).connect("client", device_id="two").join()
    assert first.interface.ipv4 != second.interface.ipv4


def test_the_public_key_of_the_present_connection_counts() -> None:
    bench = Bench()
    bench.connect("gateway", key=b"\x02").disconnect()
    served = bench.connect("gateway", key=b"\x05")
    served.join()
    asker = bench.connect("client")
    asker.join()
    asker.flow(ResourceId(NET))
    assert asker.heard[0].gateway_public_key == PublicKey(b"\x05" * 32)
