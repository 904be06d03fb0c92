"""The NAT matrix: for each pair of networks a fresh client and a fresh gateway, one page, some echoes, and the path they took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from firezone.base.errors import FirezoneError
from firezone.lab.matrix.relays import RELAYS, Relays
from firezone.lab.matrix.report import Cell, MatrixReport
from firezone.lab.measure import fetch_page, ping
from firezone.lab.namespaces import Namespace, OwnNamespace
from firezone.lab.nat.lab import NatLab, attach_server
from firezone.lab.paths import FoundPath, join, last_end
from firezone.lab.programs import Program, python, wait_until
from firezone.lab.stack import LOGS, PORTAL_PORT, complaints, start_tunnel_in, write_policy
from firezone.lab.topology import RESOURCE_ADDRESS, RESOURCE_PORT, build_site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from firezone.lab.nat.kinds import Kind
    from firezone.lab.nat.surroundings import Place

PORTAL_ADDRESSES = ("198.51.100.1", "2001:db8:1::1")
PORTAL_NAME = "portal.lab"
PAGE_TIMEOUT_S = 20.0
"""Above the time in which ICE gives a path up that it had and finds another (16.5 s)."""
SETTLE_S = 3.0
"""How long a worse path may be in use at first: of two nominations the former may come last, until the next check puts it right."""
_ECHOES = 15


def run_matrix(pairs: list[tuple[Kind, Kind]], rounds: int, logs: Path, progress: Callable[[str], None]) -> MatrixReport:
    """Runs every pair in every round. What goes wrong with a pair is in its cell. Raises ConfigError without a lab."""
    report = MatrixReport(str(logs))
    progress("networks, portal and relays")
    matrix = Matrix.build(logs)
    try:
        for number in range(1, rounds + 1):
            for index, (client, gateway) in enumerate(pairs, 1):
                cell = matrix.run(client, gateway, number)
                report.cells.append(cell)
                of = f"{index}/{len(pairs)}" if rounds == 1 else f"round {number}, {index}/{len(pairs)}"
                found = "no path" if cell.path is None else str(cell.path)
                progress(f"{of}: {client} × {gateway}: {found}: {cell.verdict}")
    finally:
        progress("ending")
        matrix.close()
    return report


@dataclass(slots=True)
class Matrix:
    """What all pairs share: the internet, the portal, the relays, and the sites behind the gateways."""

    lab: NatLab
    logs: Path
    portal_namespace: Namespace
    portal: Program
    relays: Relays
    tokens: dict[str, str]
    _sites: dict[Kind, tuple[Namespace, Program]] = field(default_factory=dict)

    @classmethod
    def build(cls, logs: Path) -> Matrix:
        """Starts everything that is there for every pair. Raises ConfigError, naming what failed."""
        lab = NatLab.build(logs)
        namespace = attach_server(lab.internet, "portal", *PORTAL_ADDRESSES)
        write_hosts(logs)
        bind = f"{PORTAL_NAME}:{PORTAL_PORT}"
        tokens = write_policy(logs, bind, list(RELAYS))
        portal = Program.start(
            "portal", namespace, python("firezone.portal", "--config", str(logs / "policy.toml"), "--bind", bind), logs
        )
        portal.wait_for("listening")
        relays = Relays.start(lab.internet, logs, f"ws://{bind}", tokens)
        return cls(lab, logs, namespace, portal, relays, tokens)

    def run(self, client_kind: Kind, gateway_kind: Kind, number: int) -> Cell:
        """Runs one pair from its start to its end."""
        cell = Cell(client_kind, gateway_kind, number)
        logs = self.logs / f"{number}-{client_kind}-{gateway_kind}"
        logs.mkdir()
        programs: list[Program] = []
        try:
            client, gateway = self.lab.place("client", client_kind), self.lab.place("gateway", gateway_kind)
            self._site_behind(gateway)
            for place, name in ((gateway, "gateway"), (client, "client")):
                api_url = f"ws://{PORTAL_NAME}:{PORTAL_PORT}"
                programs.append(start_tunnel_in(place.host, name, logs, self.tokens[name], api_url))
                programs[-1].wait_for("tunnel configured")
            self._measure(cell, client, gateway, logs)
        except FirezoneError as error:
            cell.error = str(error).partition("\n")[0]
        finally:
            for program in reversed(programs):
                program.stop()
        return cell

    def close(self) -> None:
        for resource, web in self._sites.values():
            web.kill()
            resource.close()
        self.relays.close()
        self.portal.stop()
        self.portal_namespace.close()
        self.lab.close()

    def _measure(self, cell: Cell, client: Place, gateway: Place, logs: Path) -> None:
        cell.first_byte_ms = fetch_page(client.host, RESOURCE_ADDRESS, RESOURCE_PORT, PAGE_TIMEOUT_S)["first_byte_ms"]
        wait_until(lambda: (path := self._path(client, gateway, logs)) is not None and path.way <= cell.best, timeout=SETTLE_S)
        cell.rtt_ms = ping(client.host, RESOURCE_ADDRESS, count=_ECHOES)["p50"]
        cell.path = wait_until(lambda: self._path(client, gateway, logs), timeout=1.0)
        cell.error = "; ".join(complaints(logs))

    def _path(self, client: Place, gateway: Place, logs: Path) -> FoundPath | None:
        ends = [last_end(logs / LOGS[name]) for name in ("client", "gateway")]
        if ends[0] is None or ends[1] is None:
            return None
        own = {"client": client.own_addresses, "gateway": gateway.own_addresses}
        return join(ends[0], ends[1], own, self.relays.names)

    def _site_behind(self, gateway: Place) -> None:
        if gateway.kind not in self._sites:
            resource = Namespace.create(f"resource-{gateway.kind}")
            build_site(gateway.host, resource)
            web = Program.start(resource.name, resource, python("firezone.lab.web", str(RESOURCE_PORT)), self.logs)
            self._sites[gateway.kind] = resource, web
            web.wait_for("listening")


def write_hosts(logs: Path) -> None:
    """Gives the portal a name with addresses of both families, for whoever runs in our mount namespace."""
    hosts = logs / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n" + "".join(f"{address} {PORTAL_NAME}\n" for address in PORTAL_ADDRESSES))
    # The mount namespace is the lab's own, so that nobody else sees this and it ends with the lab.
    OwnNamespace("lab").run("mount", "--bind", str(hosts), "/etc/hosts")
