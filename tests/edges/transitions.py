"""What can happen in a world. A step is a name and four small numbers, which the world's state turns into something legal.

So a step always means something, whatever was taken out before it: a failing run is shrunk by leaving steps out, and any list of
them can be drawn, by a seed or by Hypothesis. Each transition changes the model first, then the world, and lets time pass until
what follows has followed.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from firezone.base.ids import ResourceId
from firezone.base.timing import SECOND
from tests.edges.programs import Fault, Gateway, Program, Relay
from tests.edges.reference import Resource
from tests.edges.world import FILTERS, PATIENCE, POOL, PROBES, SERVERS, Probe, World
from tests.harness.roles import uid

RANGE = 1 << 16
INTERNET = 19
"""Number of the Internet resource."""
NOTICE = 25
"""Seconds until both ends of a dead path have noticed while packets flow: 16.5 s of silence at most, and what follows. Without
packets it may take two minutes."""
RELAY_NOTICE = 60
SEND_EVERY = 2
REKEY_LOSS = 170 * SECOND
"""A session that has rested for so long is made anew with the next packet; see `eventloop-io` 10.4 of the original."""


class Step(NamedTuple):
    """One thing that happens."""

    kind: str
    a: int
    b: int
    c: int
    d: int


def draw_step(draw: random.Random, kinds: Sequence[str] = ()) -> Step:
    """Draws any step, by the weights, or one of some kinds, all equally likely."""
    kind = draw.choice(kinds) if kinds else draw.choices(KINDS, WEIGHTS, k=1)[0]
    return Step(kind, *(draw.randrange(RANGE) for _ in range(4)))


# --- packets ------------------------------------------------------------------------------------------------------------


def send(world: World, step: Step) -> None:
    """One request, mostly from the right source."""
    client = step.a % len(world.clients)
    if world.clients[client].own:
        _settle(world, [_probe(world, client, step.b, step.c, is_foreign=step.d % 11 == 0)])


def burst(world: World, step: Step) -> None:
    """Several at once: while a connection is made they wait together."""
    client = step.a % len(world.clients)
    if world.clients[client].own:
        _settle(
            world, [_probe(world, client, step.b + n * (step.d % 3), step.c + n, is_foreign=False) for n in range(2 + step.d % 5)]
        )


def _probe(world: World, client: int, where: int, what: int, *, is_foreign: bool) -> Probe:
    """Three of four packets are for somebody, as far as anybody is to be had."""
    kind, port = PROBES[what % len(PROBES)]
    servers: tuple[str, ...] = SERVERS
    if what // len(PROBES) % 4:
        servers = tuple(s for s in SERVERS if world.model.choose(client, ipaddress.ip_address(s), kind, port).resources) or SERVERS
    return world.probe(client, servers[where % len(servers)], kind, port, is_foreign=is_foreign)


def _settle(world: World, probes: list[Probe]) -> None:
    """Waits for what must come, and looks at what came."""
    wanted = [probe for probe in probes if world.must_arrive(probe) or _must_be_refused(world, probe)]
    client = probes[0].client
    rested = world.clock.time - world.answered.get(client, 0)
    world.run(PATIENCE if wanted else 0.3, (lambda: all(probe.is_settled for probe in wanted)) if wanted else None)
    for probe in probes:
        _judge(world, probe, is_wanted=probe in wanted, may_be_lost=rested >= REKEY_LOSS)
    if any(probe.is_answered for probe in probes):
        world.answered[client] = world.clock.time


def _must_be_refused(world: World, probe: Probe) -> bool:
    """By the client itself, or by the gateway that serves the network otherwise."""
    return world.choice(probe).is_prohibited and not probe.is_foreign and world.is_calm(probe.client)


def _judge(world: World, probe: Probe, *, is_wanted: bool, may_be_lost: bool) -> None:
    choice = world.choice(probe)
    if is_wanted and not choice.is_prohibited and not probe.is_answered:
        if probe.gateway is None and probe.error is None and may_be_lost:
            world.counts["lost at a re-key"] += 1
            world.answered[probe.client] = world.clock.time  # Once.
            return
        what = f"came out of gateway {probe.gateway}" if probe.gateway is not None else "came out nowhere"
        raise Fault(f"packet {probe.number} of client {probe.client} should have been answered; it {what}, error {probe.error}")
    if not choice.resources and not choice.is_prohibited and probe.is_answered:
        raise Fault(f"packet {probe.number} for nobody's address was answered")
    if probe.is_foreign and probe.error is not None:
        raise Fault(f"packet {probe.number} with a foreign source was answered with an ICMP error")
    if is_wanted and choice.is_prohibited and not probe.is_settled and not may_be_lost:
        raise Fault(f"packet {probe.number} is prohibited by every filter, and its sender was told nothing")
    world.counts["answered" if probe.is_answered else probe.error or "dropped"] += 1


def _notice(world: World, duration: int) -> None:
    """Applications go on sending while something dies; what they lose meanwhile is excused."""
    for turn in range(-(-duration // SEND_EVERY)):
        for client, one in enumerate(world.clients):
            if one.is_alive and one.own:
                world.probe(client, SERVERS[turn % len(SERVERS)], *PROBES[turn % len(PROBES)])
        world.run(SEND_EVERY)


def pause(world: World, step: Step) -> None:
    world.run((0.01, 0.1, 1.0, 5.0, 20.0)[step.a % 5])


def idle(world: World, step: Step) -> None:
    """Nobody sends anything for six minutes: two in a row reach the cool-down of channels."""
    world.run(360)


# --- policy -------------------------------------------------------------------------------------------------------------


def _edit(world: World) -> None:
    """Saves the policy; everybody who is linked hears of it."""
    for client in range(len(world.clients)):
        world.model.forget_wish(client, world.before)
    world.portal.edit(world.model.document())
    world.run(1.0)


def add_resource(world: World, step: Step) -> None:
    numbers = [number for number in range(10, 20) if number not in world.model.resources]
    if not numbers:
        return
    number = numbers[step.a % len(numbers)]
    world.model.resources[number] = _resource(world, number, step)
    world.model.granted |= {(client, number) for client in range(len(world.clients)) if step.d >> client & 3}
    _edit(world)


def _resource(world: World, number: int, step: Step) -> Resource:
    address = None if number == INTERNET else POOL[step.b % len(POOL)]
    return Resource(number, address, () if address is None else FILTERS[step.c % len(FILTERS)], _sites(world, step.c >> 4))


def _sites(world: World, draw: int) -> tuple[int, ...]:
    sites = sorted(set(world.model.gateways))
    return tuple({sites[draw % len(sites)], sites[(draw >> 3) % len(sites)]})


def remove_resource(world: World, step: Step) -> None:
    if (number := _some_resource(world, step.a)) is not None:
        del world.model.resources[number]
        world.model.granted = {(client, other) for client, other in world.model.granted if other != number}
        _edit(world)


def change_resource(world: World, step: Step) -> None:
    """Another address, other filters or other sites under the same id."""
    number = _some_resource(world, step.a)
    if number is None or number == INTERNET:
        return
    known, new = world.model.resources[number], _resource(world, number, step)
    what = step.d % 3
    world.model.resources[number] = dataclasses.replace(
        known, **({"address": new.address} if what == 0 else {"filters": new.filters} if what == 1 else {"sites": new.sites})
    )
    _edit(world)


def _some_resource(world: World, draw: int) -> int | None:
    numbers = sorted(world.model.resources)
    return numbers[draw % len(numbers)] if numbers else None


def grant(world: World, step: Step) -> None:
    if (number := _some_resource(world, step.a)) is not None:
        world.model.granted.add((step.b % len(world.clients), number))
        _edit(world)


def revoke(world: World, step: Step) -> None:
    granted = sorted(world.model.granted)
    if granted:
        world.model.granted.discard(granted[step.a % len(granted)])
        _edit(world)


def expire(world: World, step: Step) -> None:
    """A grant gets an end, and it comes; the portal looks at the clock once a minute."""
    granted = sorted(world.model.granted)
    if not granted:
        return
    one = granted[step.a % len(granted)]
    world.model.expiring[one] = world.clock.utc() // SECOND + 4
    _edit(world)
    world.run(4.5)
    del world.model.expiring[one]
    world.model.granted.discard(one)
    world.before = world.model.copy()  # From here on it is over, whoever knows of it.
    world.shake(0.1)
    _settle(world, [_probe(world, one[0], step.b, step.c, is_foreign=False)]) if world.clients[one[0]].own else None
    world.run(61)
    had = world.model.copy()
    had.granted.add(one)
    world.model.forget_wish(one[0], had)
    world.portal.edit(world.model.document())
    world.run(1.0)


# --- what a user wants --------------------------------------------------------------------------------------------------


def disable(world: World, step: Step) -> None:
    client = step.a % len(world.clients)
    off = {number for number in world.model.resources if step.b >> (number - 10) & 1 and step.c >> (number - 10) & 1}
    world.model.disabled[client] = off
    one = world.clients[client]
    one.call(one.machine.set_disabled_resources, {ResourceId(uid(number)) for number in off})
    world.run(0.5)


def switch_internet(world: World, step: Step) -> None:
    client, is_on = step.a % len(world.clients), bool(step.b % 3)
    (world.model.wants_internet.add if is_on else world.model.wants_internet.discard)(client)
    one = world.clients[client]
    one.call(one.machine.set_internet_resource_state, is_on)
    world.run(0.5)


# --- programs come and go -----------------------------------------------------------------------------------------------


def roam(world: World, step: Step) -> None:
    """A client is in another network after a moment without any, and may have to do without the portal for another."""
    client = step.a % len(world.clients)
    one = world.clients[client]
    edge, addresses = world.draw_place()
    world.network.remove(one.place)
    world.run(step.b % 3000 / 1000)
    one.move(addresses, edge)
    one.machine.reset(world.clock.time)
    one.machine.set_local_addresses(list(one.outer), world.clock.time)
    one.settle()
    world.run(3.0)


def restart_client(world: World, step: Step) -> None:
    client = step.a % len(world.clients)
    one = world.clients[client]
    one.stop() if step.b % 2 else one.crash()
    world.run(0.1 + step.c % 20)
    one.boot()
    one.call(one.machine.set_disabled_resources, {ResourceId(uid(n)) for n in world.model.disabled.get(client, set())})
    one.call(one.machine.set_internet_resource_state, client in world.model.wants_internet)
    world.run(2.0)


def stop_gateway(world: World, step: Step) -> None:
    one = _some_gateway(world, step.a)
    if one.is_alive:
        is_orderly = bool(step.b % 2)
        one.stop() if is_orderly else one.crash()
        _notice(world, 1 if is_orderly else NOTICE)


def start_gateway(world: World, step: Step) -> None:
    one = _some_gateway(world, step.a)
    if not one.is_alive:
        one.boot()
        world.run(2.0)


def restart_gateway(world: World, step: Step) -> None:
    one = _some_gateway(world, step.a)
    if one.is_alive:
        one.stop() if step.b % 2 else one.crash()
        world.run(0.1)
        one.boot()
        _notice(world, NOTICE)


def _some_gateway(world: World, draw: int) -> Gateway:
    return world.gateways[draw % len(world.gateways)]


def rebind(world: World, step: Step) -> None:
    """A router forgets its mappings, and nobody tells those behind it."""
    programs = world.programs()
    one = programs[step.a % len(programs)]
    one.edge.forget()
    _notice(world, RELAY_NOTICE)


def move_gateway(world: World, step: Step) -> None:
    """A gateway is somewhere else and tells nobody but its machine."""
    one = _some_gateway(world, step.a)
    if one.is_alive:
        one.move(*reversed(world.draw_place(("open", "cone"))))  # type: ignore[arg-type]
        one.call(one.machine.set_local_addresses, list(one.outer))
        world.portal.unlink(one)
        _notice(world, RELAY_NOTICE)


# --- portal and relays --------------------------------------------------------------------------------------------------


def lose_link(world: World, step: Step) -> None:
    """A WebSocket breaks and is made again."""
    everybody: list[Program | Relay] = [*world.programs(), *world.relays]
    one = everybody[step.a % len(everybody)]
    if one.is_alive:
        world.portal.unlink(one)
        world.run(2.0)


def restart_portal(world: World, step: Step) -> None:
    world.portal.restart()
    world.run(4.0)


def portal_away(world: World, step: Step) -> None:
    """The portal is not there for a while; what is connected stays so, and nobody is told anything."""
    world.portal.leave()
    if world.clients[step.a % len(world.clients)].own:
        _settle(world, [_probe(world, step.a % len(world.clients), step.b, step.c, is_foreign=False)])
    world.run((0.5, 5.0, 50.0)[step.d % 3])
    world.portal.come_back()
    world.run(6.0)


def stop_relay(world: World, step: Step) -> None:
    one = world.relays[step.a % len(world.relays)]
    if one.is_alive:
        one.crash()
        _notice(world, RELAY_NOTICE)


def start_relay(world: World, step: Step) -> None:
    one = world.relays[step.a % len(world.relays)]
    if not one.is_alive:
        one.boot()
        world.run(8.0)


def restart_relay(world: World, step: Step) -> None:
    """A relay comes back with another secret and nothing it knew."""
    one = world.relays[step.a % len(world.relays)]
    if one.is_alive:
        one.crash()
        world.run(0.1)
        one.boot()
        _notice(world, NOTICE)


TRANSITIONS: dict[str, tuple[Callable[[World, Step], None], int]] = {
    "send": (send, 200),
    "burst": (burst, 25),
    "pause": (pause, 8),
    "idle": (idle, 1),
    "add resource": (add_resource, 8),
    "remove resource": (remove_resource, 3),
    "change resource": (change_resource, 6),
    "grant": (grant, 6),
    "revoke": (revoke, 4),
    "expire": (expire, 1),
    "disable": (disable, 2),
    "switch Internet": (switch_internet, 3),
    "roam": (roam, 3),
    "restart client": (restart_client, 2),
    "stop gateway": (stop_gateway, 1),
    "start gateway": (start_gateway, 4),
    "restart gateway": (restart_gateway, 1),
    "rebind": (rebind, 1),
    "move gateway": (move_gateway, 1),
    "lose link": (lose_link, 3),
    "restart portal": (restart_portal, 1),
    "portal away": (portal_away, 2),
    "stop relay": (stop_relay, 1),
    "start relay": (start_relay, 4),
    "restart relay": (restart_relay, 1),
}
"""Name to what is done and how often."""
KINDS = list(TRANSITIONS)
WEIGHTS = [weight for _, weight in TRANSITIONS.values()]
