"""`python -m firezone.gateway`: terminates clients' tunnels and forwards what they may reach into the site."""

from __future__ import annotations

from pathlib import Path

import click

import firezone
from firezone.cli.options import Option
from firezone.cli.types import ApiUrl, CertificateFile, CountersFile, Duration, HostPort

DEFAULT_API_URL = "wss://api.firezone.dev"

EPILOG = """\b
Examples:
  FIREZONE_TOKEN=... python -m firezone.gateway --api-url ws://portal.example:8081
  FIREZONE_TOKEN=... python -m firezone.gateway --masquerade 'e*' --masquerade bond0
\b
The token is TOKEN, $FIREZONE_TOKEN, the file FIREZONE_TOKEN in systemd's $CREDENTIALS_DIRECTORY, or the token file.
The gateway switches IP forwarding on and keeps one nftables table (firezone_gateway), which it removes at the end, as
it does the rules that let the tunnel through chains of others that drop what they do not know (Docker).
Signals: SIGTERM, SIGINT and SIGHUP say goodbye to every client and end the gateway, SIGUSR2 writes its
counters. Variables: RUST_LOG filters the log, FIREZONE_UDP_SEND_BUFFER_SIZE and
FIREZONE_UDP_RECV_BUFFER_SIZE set socket buffers in bytes. A switch's variable is true or false.
Exit status: 0 ended by a signal, 1 an error told in one line, 2 wrong usage."""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(firezone.__version__, "-V", "--version", prog_name="firezone-gateway")
@click.argument("token", required=False)
@click.option("-u", "--api-url", cls=Option, envvar="FIREZONE_API_URL", type=ApiUrl(), default=DEFAULT_API_URL, show_default=True,
              help="The portal.")  # fmt: skip
@click.option("--token-path", cls=Option, envvar="FIREZONE_TOKEN_PATH", type=click.Path(path_type=Path),
              default=Path("/etc/firezone/gateway-token"), show_default=True,
              help="File with the token: owned by root, mode 0400 or 0600.")  # fmt: skip
@click.option("-i", "--firezone-id", cls=Option, envvar="FIREZONE_ID", empty_is_unset=True,
              help="Identity of this gateway. [default: kept in a file]")  # fmt: skip
@click.option("-n", "--firezone-name", cls=Option, envvar="FIREZONE_NAME",
              help="Name shown in the portal. [default: the host name]")  # fmt: skip
@click.option("-l", "--log-dir", cls=Option, envvar="LOG_DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Also log to a file of JSON lines in this directory.")  # fmt: skip
@click.option("--log-format", cls=Option, envvar=["FIREZONE_LOG_FORMAT", "LOG_FORMAT"], empty_is_unset=True, default="human",
              show_default=True, type=click.Choice(["human", "json", "google-cloud"]),
              help="Format of the log on stdout.")  # fmt: skip
@click.option("-m", "--max-partition-time", cls=Option, envvar="FIREZONE_MAX_PARTITION_TIME", type=Duration(), default="24h",
              show_default=True, help="Give up after this long without the portal.")  # fmt: skip
@click.option("--health-check-addr", cls=Option, envvar="HEALTH_CHECK_ADDR", type=HostPort(), default="0.0.0.0:8080",
              show_default=True, help="Where GET /healthz and /readyz are answered.")  # fmt: skip
@click.option("--masquerade", multiple=True, metavar="PATTERN",
              help="Masquerade traffic that leaves by these interfaces (e*). [default: all but the tunnel]")  # fmt: skip
@click.option("--no-firewall", is_flag=True, help="Leave forwarding and masquerade to the administrator.")
@click.option("--open-own-address", cls=Option, envvar="FIREZONE_OPEN_OWN_ADDRESS", is_flag=True,
              help="Let clients reach every service of this host at its tunnel address, not only DNS and ping.")  # fmt: skip
@click.option("--reader-threads", cls=Option, envvar="FIREZONE_READER_THREADS", type=click.Choice(["auto", "on", "off"]),
              default="auto", show_default=True,
              help="Read TUN and UDP in threads of their own. auto: with four cores or more.")  # fmt: skip
@click.option("--portal-api", cls=Option, envvar="FIREZONE_PORTAL_API", type=click.Choice(["v1", "v2"]), default="v1",
              show_default=True, help="Generation of the portal's protocol: every portal speaks v1, newer ones both.")  # fmt: skip
@click.option("--counters-file", cls=Option, envvar="FIREZONE_COUNTERS_FILE", empty_is_unset=True, type=CountersFile(),
              help="Write counters here on SIGUSR2 and at the end. "
              "[default: on SIGUSR2 only, /run/firezone-gateway.counters.json]")  # fmt: skip
@click.option("--ca-file", cls=Option, envvar="FIREZONE_CA_FILE", type=CertificateFile(),
              help="Trust this certificate authority (PEM) for the portal instead of the system's.")  # fmt: skip
@click.option("--no-inc-buf", cls=Option, envvar="FIREZONE_NO_INC_BUF", is_flag=True,
              help="Do not raise the kernel's ceilings for socket buffers.")  # fmt: skip
@click.option("--no-check", is_flag=True, help="Start without checking for root or CAP_NET_ADMIN.")
def main(
    token: str | None, api_url: str, token_path: Path, firezone_id: str | None, firezone_name: str | None, log_dir: Path | None,
    log_format: str, max_partition_time: int, health_check_addr: tuple[str, int], masquerade: tuple[str, ...], no_firewall: bool,
    ca_file: Path | None, no_inc_buf: bool, no_check: bool, reader_threads: str, open_own_address: bool,
    portal_api: str, counters_file: Path | None,
) -> None:  # fmt: skip
    """Lets clients reach the resources of this site. TOKEN is better given as $FIREZONE_TOKEN: command lines are public."""
    from firezone.base.errors import ConfigError
    from firezone.cli import identity, start
    from firezone.cli.token import find_token, take_environment_token

    from_environment = take_environment_token()
    try:
        if not no_check:
            _check_permissions()
        log = start.start_logging("firezone.gateway", file_base="firezone-gateway", directory=log_dir, log_format=log_format)
        if token is not None:
            log.warning("the token was given on the command line, where every user of this machine can read it")
        secret = find_token(token or from_environment, token_path)
        device_id = firezone_id or identity.load_device_id(identity.GATEWAY_ID_FILE)
    except ConfigError as error:
        start.fail("", error)

    from firezone.loop.config import GatewayConfig
    from firezone.loop.gateway import run_gateway

    config = GatewayConfig(
        api_url=api_url, token=secret, device_id=device_id, name=identity.device_name(firezone_name),
        max_partition=max_partition_time, raise_buffers=not no_inc_buf, ca_file=None if ca_file is None else str(ca_file),
        health_check_address=health_check_addr, masquerade=masquerade, manage_firewall=not no_firewall,
        reader_threads=reader_threads, is_own_address_open=open_own_address,
        portal_generation=int(portal_api[1:]), counters_file=counters_file,
    )  # fmt: skip
    start.run_program(run_gateway(config), prefix="Firezone gateway ended")


def _check_permissions() -> None:
    """Asks for root or effective CAP_NET_ADMIN. Raises ConfigError."""
    import os

    from firezone.base.errors import ConfigError

    cap_net_admin = 1 << 12
    if os.geteuid() == 0:
        return
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) & cap_net_admin:
            return
    raise ConfigError(
        "The gateway creates a network interface, which takes root or the capability CAP_NET_ADMIN.\n"
        "Run it as root, give its service AmbientCapabilities=CAP_NET_ADMIN, or skip this check with --no-check."
    )


if __name__ == "__main__":
    main()
