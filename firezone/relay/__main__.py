"""`python -m firezone.relay`: carries the tunnels of those who cannot reach each other (STUN and TURN over UDP)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

import firezone
from firezone.base.limits import MAX_ALLOCATIONS_PER_ADDRESS
from firezone.cli.options import Option
from firezone.cli.types import ApiUrl, CertificateFile, Collector, CountersFile, Duration, HostPort, IpAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from firezone.base.rng import Rng
    from firezone.base.secret import SecretText
    from firezone.loop.relay_program import RelayPortal, RelayProgramConfig

PORT = click.IntRange(1, 65535)
MIN_SECRET_LENGTH = 16
"""Characters of a stand-alone secret below which we warn: usernames are public, so it can be guessed at leisure."""

MAX_NAME_LENGTH = 255
"""Characters; a portal refuses the login of a relay with a longer name."""

EPILOG = """\b
Examples:
  FIREZONE_TOKEN=... python -m firezone.relay --api-url wss://portal.example --public-ip4-addr 203.0.113.10
  FIREZONE_RELAY_SECRET=... python -m firezone.relay --public-ip4-addr 203.0.113.10
  FIREZONE_RELAY_SECRET=... python -m firezone.relay --credentials 1d
\b
With a portal the relay makes a secret at each start, and the portal hands out credentials. With --secret it stands alone,
an ordinary TURN server (realm firezone); --credentials prints a username and password for it.
Firewall: let in UDP on the listen port and on the ports of allocations; let out TCP to the portal. Keep the kernel's own
ports (net.ipv4.ip_local_port_range) apart from those of allocations. No root is needed.
Orders: POST /log_filter?directives=debug and GET /metrics on the control endpoint. $RUST_LOG filters the log.
Signals: SIGTERM, SIGINT and SIGHUP end the relay at once, SIGUSR2 writes its counters.
Exit status: 0 ended by a signal, 1 an error told in one line, 2 wrong usage."""

_SPACE = "this version relays in user space only"
_NO_REPORTS = "this version reports no crashes"
NOTES = "firezone.relay.without_effect"
WITHOUT_EFFECT: dict[str, tuple[list[str], str]] = {
    "--ebpf-offloading": (["EBPF_OFFLOADING"], _SPACE),
    "--ebpf-attach-mode": (["EBPF_ATTACH_MODE"], _SPACE),
    "--ebpf-int4-addr": (["EBPF_INT4_ADDR"], _SPACE),
    "--ebpf-int6-addr": (["EBPF_INT6_ADDR"], _SPACE),
    "--google-cloud-project-id": (["GOOGLE_CLOUD_PROJECT_ID"], "this version writes no traces"),
    "--num-worker-threads": (["NUM_WORKER_THREADS"], "this version relays in one thread"),
}
"""Options of the original that do nothing here, their variables, and what to tell whoever sets one."""


def _without_effect(command: Callable[..., None]) -> Callable[..., None]:
    """Adds those options, so that command lines and units of the original's relay start this one."""

    def note(context: click.Context, option: click.Parameter, value: object) -> None:
        if value:
            context.meta.setdefault(NOTES, []).append((option.opts[0], WITHOUT_EFFECT.get(option.opts[0], ([], _NO_REPORTS))[1]))

    for name, (variables, _) in WITHOUT_EFFECT.items():
        command = click.option(name, cls=Option, envvar=variables, empty_is_unset=True, hidden=True, expose_value=False,
                               callback=note)(command)  # fmt: skip
    return click.option("--telemetry", cls=Option, envvar=["FIREZONE_TELEMETRY", "TELEMETRY"], empty_is_unset=True, is_flag=True,
                        hidden=True, expose_value=False, callback=note)(command)  # fmt: skip


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(firezone.__version__, "-V", "--version", prog_name="firezone-relay")
@click.argument("token", required=False)
@click.argument("name", required=False)
@click.option("--public-ip4-addr", cls=Option, envvar="PUBLIC_IP4_ADDR", empty_is_unset=True, type=IpAddress(4),
              help="IPv4 address by which clients and peers reach this machine.")  # fmt: skip
@click.option("--public-ip6-addr", cls=Option, envvar="PUBLIC_IP6_ADDR", empty_is_unset=True, type=IpAddress(6),
              help="The same for IPv6; one of the two is needed.")  # fmt: skip
@click.option("--bind-ip4-addr", cls=Option, envvar="BIND_IP4_ADDR", empty_is_unset=True, type=IpAddress(4), default="0.0.0.0",
              show_default=True, help="Local address of all IPv4 sockets.")  # fmt: skip
@click.option("--bind-ip6-addr", cls=Option, envvar="BIND_IP6_ADDR", empty_is_unset=True, type=IpAddress(6), default="::",
              show_default=True, help="Local address of all IPv6 sockets.")  # fmt: skip
@click.option("--listen-port", cls=Option, envvar="LISTEN_PORT", type=PORT, default=3478, show_default=True,
              help="UDP port for STUN and TURN.")  # fmt: skip
@click.option("--lowest-port", cls=Option, envvar="LOWEST_PORT", type=PORT, default=49152, show_default=True,
              help="First UDP port for allocations.")  # fmt: skip
@click.option("--highest-port", cls=Option, envvar="HIGHEST_PORT", type=PORT, default=65535, show_default=True,
              help="Last UDP port for allocations, included.")  # fmt: skip
@click.option("-u", "--api-url", cls=Option, envvar="FIREZONE_API_URL", empty_is_unset=True, type=ApiUrl(),
              help="The portal; needs a token.")  # fmt: skip
@click.option("--token-path", cls=Option, envvar="FIREZONE_TOKEN_PATH", type=click.Path(path_type=Path),
              default=Path("/etc/firezone/relay-token"), show_default=True,
              help="File with the token: owned by root, mode 0400 or 0600.")  # fmt: skip
@click.option("--firezone-name", cls=Option, envvar="FIREZONE_NAME", empty_is_unset=True,
              help="Name shown in the portal; NAME does the same.")  # fmt: skip
@click.option("--secret", cls=Option, envvar="FIREZONE_RELAY_SECRET", empty_is_unset=True,
              help="Stand alone: the secret from which passwords follow. Better given as variable.")  # fmt: skip
@click.option("--credentials", type=Duration(), metavar="DURATION",
              help="Print a username and password for --secret that are valid so long, and exit.")  # fmt: skip
@click.option("--allocations-per-address", cls=Option, envvar="FIREZONE_ALLOCATIONS_PER_ADDRESS", type=click.IntRange(1),
              default=MAX_ALLOCATIONS_PER_ADDRESS, show_default=True, help="Allocations one client address may hold.")  # fmt: skip
@click.option("-m", "--max-partition-time", cls=Option, envvar="FIREZONE_MAX_PARTITION_TIME", type=Duration(), default="24h",
              show_default=True, help="Give up after this long without the portal.")  # fmt: skip
@click.option("--health-check-addr", cls=Option, envvar="HEALTH_CHECK_ADDR", type=HostPort(), default="0.0.0.0:8080",
              show_default=True, help="Where GET /healthz and /readyz are answered.")  # fmt: skip
@click.option("--control-endpoint", cls=Option, envvar="CONTROL_ENDPOINT", type=HostPort(), default="127.0.0.1:9999",
              show_default=True, help="Where orders are taken, from anybody who reaches it.")  # fmt: skip
@click.option("--otlp-grpc-endpoint", cls=Option, envvar="OTLP_GRPC_ENDPOINT", empty_is_unset=True, type=Collector(),
              help="Send metrics to this OpenTelemetry collector. Needs firezone[telemetry].")  # fmt: skip
@click.option("-l", "--log-dir", cls=Option, envvar="LOG_DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Also log to a file of JSON lines in this directory.")  # fmt: skip
@click.option("--log-format", cls=Option, envvar=["FIREZONE_LOG_FORMAT", "LOG_FORMAT"], empty_is_unset=True, default="human",
              show_default=True, type=click.Choice(["human", "json", "google-cloud"]),
              help="Format of the log on stdout.")  # fmt: skip
@click.option("--counters-file", cls=Option, envvar="FIREZONE_COUNTERS_FILE", empty_is_unset=True, type=CountersFile(),
              help="Write counters here on SIGUSR2 and at the end. "
              "[default: on SIGUSR2 only, /run/firezone-relay.counters.json]")  # fmt: skip
@click.option("--ca-file", cls=Option, envvar="FIREZONE_CA_FILE", type=CertificateFile(),
              help="Trust this certificate authority (PEM) for the portal instead of the system's.")  # fmt: skip
@click.option("--rng-seed", cls=Option, envvar="RNG_SEED", empty_is_unset=True, type=click.IntRange(0, 2**64 - 1),
              help="Repeat secret, ports and nonces: for tests only.")  # fmt: skip
@click.option("--check", is_flag=True, help="Check options and token, say what is wrong, and exit.")
@_without_effect
def main(
    token: str | None, name: str | None, public_ip4_addr: str | None, public_ip6_addr: str | None, bind_ip4_addr: str,
    bind_ip6_addr: str, listen_port: int, lowest_port: int, highest_port: int, api_url: str | None, token_path: Path,
    firezone_name: str | None, secret: str | None, credentials: int | None, allocations_per_address: int,
    max_partition_time: int, health_check_addr: tuple[str, int], control_endpoint: tuple[str, int],
    otlp_grpc_endpoint: str | None, log_dir: Path | None, log_format: str, ca_file: Path | None, rng_seed: int | None, check: bool,
    counters_file: Path | None,
) -> None:  # fmt: skip
    """Relays between clients and gateways that no direct path joins. It sees only what they encrypted for each other.

    TOKEN is better given as $FIREZONE_TOKEN: command lines are public.
    """
    from firezone.base.errors import ConfigError
    from firezone.base.log import conceal
    from firezone.base.secret import SecretText
    from firezone.cli import start
    from firezone.cli.token import take_environment_token

    from_environment = take_environment_token()
    os.environ.pop("FIREZONE_RELAY_SECRET", None)
    if secret is not None:
        conceal(secret)
    own = None if secret is None else SecretText(secret)
    if credentials is not None:
        _print_credentials(own, credentials)
        return
    try:
        log = start.start_logging(
            "firezone.relay", file_base="firezone-relay", directory=log_dir, log_format=log_format, checks_only=check
        )
        if token is not None:
            log.warning("the token was given on the command line, where every user of this machine can read it")
        if click.get_current_context().get_parameter_source("secret") is click.core.ParameterSource.COMMANDLINE:
            log.warning("the secret was given on the command line, where every user of this machine can read it")
        if rng_seed is not None:
            log.warning("secret, ports and nonces follow from --rng-seed and can be guessed: it is for tests only")
        if secret is not None and len(secret) < MIN_SECRET_LENGTH:
            log.warning("the secret is short enough to be guessed", characters=len(secret), advised=MIN_SECRET_LENGTH)
        for option, why in click.get_current_context().meta.get(NOTES, ()):
            log.warning(f"{option} has no effect: {why}")
        portal = _portal(api_url, own, token or from_environment, token_path, name or firezone_name, max_partition_time, ca_file)
        addresses = public_ip4_addr, public_ip6_addr, bind_ip4_addr, bind_ip6_addr
        config = _config(
            addresses, (listen_port, lowest_port, highest_port), own, portal, allocations_per_address, rng_seed,
            health_check_addr, control_endpoint, otlp_grpc_endpoint, counters_file,
        )  # fmt: skip
    except ConfigError as error:
        start.fail("", error)
    if check:
        click.echo(_summary(config))
        return
    from firezone.loop.relay_program import run_relay

    start.run_program(run_relay(config), prefix="Firezone relay ended")


def _portal(
    api_url: str | None, secret: SecretText | None, token: str | None, token_path: Path, name: str | None, max_partition: int,
    ca_file: Path | None,
) -> RelayPortal | None:  # fmt: skip
    """Returns how to log in, None to stand alone. Raises UsageError when it is neither or both, ConfigError without a token."""
    from firezone.cli.token import find_token
    from firezone.loop.relay_program import RelayPortal

    if api_url is None:
        if secret is None:
            raise click.UsageError("Users come from a portal, or the relay stands alone: give --api-url with a token, or --secret.")
        return None
    if secret is not None:
        raise click.UsageError("A relay with a portal makes its own secret: give either --api-url or --secret, not both.")
    if name is not None and len(name) > MAX_NAME_LENGTH:
        raise click.UsageError(f"The name has {len(name)} characters; a portal takes {MAX_NAME_LENGTH}.")
    return RelayPortal(
        api_url=api_url, token=find_token(token, token_path), name=name, max_partition=max_partition,
        ca_file=None if ca_file is None else str(ca_file),
    )  # fmt: skip


def _config(
    addresses: tuple[str | None, str | None, str, str], ports: tuple[int, int, int], secret: SecretText | None,
    portal: RelayPortal | None, allocations_per_address: int, rng_seed: int | None, health: tuple[str, int],
    control: tuple[str, int], metrics: str | None, counters_file: Path | None,
) -> RelayProgramConfig:  # fmt: skip
    """Joins the options. Raises UsageError when they do not fit each other, ConfigError when one of them cannot be had here."""
    from ipaddress import ip_address

    from firezone.base.log import conceal
    from firezone.base.rng import SeededRng
    from firezone.io.entropy import SystemRng
    from firezone.io.otlp import check_export
    from firezone.loop.relay import RelayConfig
    from firezone.loop.relay_program import RelayProgramConfig, login_url
    from firezone.proto.relay.allocations import RelayLimits
    from firezone.proto.relay.auth import new_secret

    public = [None if address is None else ip_address(address).packed for address in addresses[:2]]
    if public == [None, None]:
        raise click.UsageError("A relay needs to know its public address: give --public-ip4-addr, --public-ip6-addr or both.")
    listen_port, lowest, highest = ports
    if lowest > highest:
        raise click.UsageError(f"The lowest port {lowest} is above the highest, {highest}.")
    if lowest <= listen_port <= highest:
        raise click.UsageError(f"The listen port {listen_port} must lie outside the ports of allocations, {lowest} to {highest}.")
    rng: Rng = SystemRng() if rng_seed is None else SeededRng(rng_seed)
    if secret is None:
        secret = new_secret(rng)
        conceal(secret.reveal())
    relay = RelayConfig(
        secret=secret, public_ip4=public[0], public_ip6=public[1], bind_ip4=addresses[2],
        bind_ip6=addresses[3], listen_port=listen_port, lowest_port=lowest, highest_port=highest, stands_alone=portal is None,
        limits=RelayLimits(allocations_per_address=allocations_per_address), revision=os.environ.get("FIREZONE_REVISION"),
        rng=rng,
    )  # fmt: skip
    if portal is not None:
        login_url(portal, relay)
    if metrics is not None:
        check_export()
    return RelayProgramConfig(
        relay, portal, health_check_address=health, control_address=control, metrics_endpoint=metrics, counters_file=counters_file
    )


def _summary(config: RelayProgramConfig) -> str:
    """Says what would run, nothing secret in it."""
    from ipaddress import ip_address

    relay = config.relay
    addresses = " and ".join(str(ip_address(ip)) for ip in (relay.public_ip4, relay.public_ip6) if ip is not None)
    users = "users with its secret" if config.portal is None else f"users of {config.portal.api_url}"
    ports = f"UDP port {relay.listen_port}, allocations on {relay.lowest_port} to {relay.highest_port}"
    return f"The options are fine: {addresses}, {ports}, for {users}."


def _print_credentials(secret: SecretText | None, valid_for: int) -> None:
    """Prints what an ordinary TURN client needs. Raises UsageError without a secret."""
    import time

    from firezone.base.timing import SECOND
    from firezone.io.entropy import SystemRng
    from firezone.proto.relay.auth import Username

    if valid_for < SECOND:
        raise click.UsageError("--credentials asks for a user who has expired already. Write for example 1d.")
    if secret is None:
        raise click.UsageError("--credentials needs the secret of the relay: --secret or $FIREZONE_RELAY_SECRET.")
    expiry = (time.time_ns() + valid_for) // SECOND
    username = Username.from_text(f"{expiry}:{SystemRng().bytes(12).hex()}")
    if username is None:
        raise click.UsageError("--credentials asks for a time beyond what a relay takes. Write for example 1d.")
    click.echo(f"username {username.text}\npassword {username.password(secret)}\nrealm    firezone")


if __name__ == "__main__":
    main()
