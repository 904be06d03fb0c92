"""What must hold after every step, and what must be left when everything has been taken away.

Packets are judged where they come out (`World`) and by the step that sent them; here is the rest: what the client tells its host,
that tables and machines agree, that nobody waits for a moment that has passed, and that nothing grows.
"""

from __future__ import annotations

from firezone.proto.client.resources import Status
from tests.edges.programs import Client, Fault, Gateway, Program
from tests.edges.world import World
from tests.harness.roles import uid


def check(world: World) -> None:
    """Compares the world with its model. Raises Fault."""
    for client in world.clients:
        if client.is_at_work():
            _check_host(world, client)
    for one in world.programs():
        if one.is_alive:
            _check_tables(one)
            _check_clock(world, one)
    for relay in world.relays:
        due = relay.server.poll_timeout() if relay.is_alive else None
        if due is not None and due[0] <= world.clock.time:
            raise Fault(f"{relay.name} has a deadline in the past: {due}")
    if world.network.overflows:
        raise Fault("a queue of 64 datagrams was too short for one moment")
    if world.network.under_way < 0:
        raise Fault("more datagrams arrived than were sent")


def _check_host(world: World, client: Client) -> None:
    model, number = world.model, client.number
    routes = set() if client.tun_config is None else {str(route) for route in client.tun_config.routes}
    if routes != model.routes(number):
        raise Fault(f"{client.name} routes {sorted(routes ^ model.routes(number))} otherwise than the policy says")
    listed = {uid(resource.number): resource for resource in model.visible(number)}
    if listed.keys() != client.views.keys():
        raise Fault(f"{client.name} lists {sorted(listed.keys() ^ client.views.keys())} otherwise than the policy says")
    for key, resource in listed.items():
        view = client.views[key]
        if view.is_enabled != model.is_on(number, resource):
            raise Fault(f"{client.name} shows resource {resource.number} as enabled: {view.is_enabled}")
        if view.address != (resource.address or ""):
            raise Fault(f"{client.name} shows resource {resource.number} at {view.address}")
        if view.sites != tuple(f"site {site}" for site in sorted(resource.sites)) and set(view.sites) != {
            f"site {site}" for site in resource.sites
        }:
            raise Fault(f"{client.name} shows resource {resource.number} in {view.sites}")
        if view.status is Status.ONLINE and len(client.machine.node) == 0:
            raise Fault(f"{client.name} shows resource {resource.number} as online without any connection")


def _check_tables(one: Program) -> None:
    """Routes and filters name connections that exist, and every connection has its filter."""
    machine = one.machine
    rows = {machine.node.row_of(connection.cid) for connection in machine.node._connections}
    if not set(machine._rows.values()) <= rows:
        raise Fault(f"{one.name} filters for a connection that is gone")
    if not {row for row in machine._routes.values() if row is not None} <= rows:
        raise Fault(f"{one.name} routes to a connection that is gone")
    if {wanted.peer for wanted in machine._filters.values()} != set(machine._rows.values()):
        raise Fault(f"{one.name} has filters and rows that do not agree")
    if isinstance(one, Client):
        state = one.machine
        served = {resource: cid for cid, gateway in state._gateways.items() for resource in gateway.resources}
        if served != state._gateways._serving:
            raise Fault(f"{one.name} disagrees with itself about who serves what")


def _check_clock(world: World, one: Program) -> None:
    deadline = one.engine.deadline
    if deadline is not None and deadline <= world.clock.time and not one.is_ready:
        raise Fault(f"{one.name} has a deadline in the past: {one.engine.deadline_reason}")


def wind_down(world: World) -> None:
    """Takes everything away and looks at what is left. Raises Fault."""
    world.before = world.model.copy()
    world.portal.come_back()
    for relay in world.relays:
        if not relay.is_alive:
            relay.boot()
    for gateway in world.gateways:
        if not gateway.is_alive:
            gateway.boot()
    world.run(10.0)
    world.model.granted.clear()
    world.model.resources.clear()
    for client in range(len(world.clients)):
        world.model.forget_wish(client, world.before)
    world.portal.edit(world.model.document())
    world.run(80.0)
    check(world)
    for one in world.programs():
        _check_is_empty(world, one)
    for relay in world.relays:
        relay.crash()
    for one in world.programs():
        one.stop()
    if world.portal.links:
        raise Fault("somebody who has left is still connected to the portal")
    if world.portal.service.devices() and any(view.is_online for view in world.portal.service.devices()):
        raise Fault("the portal takes somebody for online who has left")


def _check_is_empty(world: World, one: Program) -> None:
    if len(one.machine.node):
        raise Fault(f"{one.name} keeps {len(one.machine.node)} connections that are of no use")
    left = {
        "filters": len(one.machine._filters),
        "rows": len(one.machine._rows),
        "connected": len([row for row in one.machine._routes.values() if row is not None]),
    }
    if isinstance(one, Gateway):
        state = one.machine
        left |= {"clients": len(state._clients), "addresses": len(state._by_address), "refusals": len(state._refusals)}
    elif isinstance(one, Client):
        state_of_client = one.machine
        left |= {"gateways": len(list(state_of_client._gateways.items())), "resources": len(state_of_client._book.resources)}
    if any(left.values()):
        raise Fault(f"{one.name} keeps what is of no use: {left}")
