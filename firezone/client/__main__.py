"""`python -m firezone.client`: one tunnel for one machine, configured by options, environment and a token file."""

from __future__ import annotations

from pathlib import Path

import click

import firezone
from firezone.cli.options import Option
from firezone.cli.types import DNS_METHODS, ApiUrl, CertificateFile, CountersFile, DnsControl, Duration

DEFAULT_API_URL = "wss://api.firezone.dev/"

EPILOG = """\b
Examples:
  FIREZONE_TOKEN=... python -m firezone.client --api-url ws://portal.example:8081
  python -m firezone.client --check
  python -m firezone.client dns revert
\b
"dns status" tells how the machine resolves names, "dns revert" puts back what a killed client left; the next start does so too.
The token is read from $FIREZONE_TOKEN or from the token file, never from the command line, which every user can read.
Signals: SIGTERM and SIGINT end the client, SIGHUP makes it reconnect, SIGUSR2 writes its counters.
Variables: RUST_LOG filters the log (info,firezone.proto=debug), FIREZONE_UDP_SEND_BUFFER_SIZE and
FIREZONE_UDP_RECV_BUFFER_SIZE set socket buffers in bytes. A switch's variable is true or false.
Exit status: 0 ended by a signal, 1 an error told in one line, 2 wrong usage."""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(firezone.__version__, "-V", "--version", prog_name="firezone-headless-client")
@click.argument(
    "mode", nargs=-1, metavar="[standalone | dns status | dns revert]", callback=lambda _ctx, _param, words: check_mode(words)
)
@click.option("-u", "--api-url", cls=Option, envvar="FIREZONE_API_URL", type=ApiUrl(), default=DEFAULT_API_URL,
              show_default=True, help="The portal.")  # fmt: skip
@click.option("--token-path", cls=Option, envvar="FIREZONE_TOKEN_PATH", type=click.Path(path_type=Path),
              default=Path("/etc/dev.firezone.client/token"), show_default=True,
              help="File with the token: owned by root, mode 0400 or 0600.")  # fmt: skip
@click.option("-i", "--firezone-id", cls=Option, envvar="FIREZONE_ID", empty_is_unset=True,
              help="Identity of this device. [default: kept in a file]")  # fmt: skip
@click.option("--firezone-name", cls=Option, envvar="FIREZONE_NAME", help="Name shown in the portal. [default: the host name]")
@click.option("-l", "--log-dir", cls=Option, envvar="LOG_DIR", type=click.Path(path_type=Path, file_okay=False),
              help="Also log to a file of JSON lines in this directory.")  # fmt: skip
@click.option("--log-format", cls=Option, envvar=["LOG_FORMAT", "FIREZONE_LOG_FORMAT"], empty_is_unset=True,
              type=click.Choice(["human", "json", "google-cloud"]), default="human", show_default=True,
              help="Format of the log on stdout.")  # fmt: skip
@click.option("-m", "--max-partition-time", cls=Option, envvar=["MAX_PARTITION_TIME", "FIREZONE_MAX_PARTITION_TIME"],
              type=Duration(), help="Give up after this long without the portal, for example 30m. [default: never]")  # fmt: skip
@click.option("--dns-control", cls=Option, envvar="FIREZONE_DNS_CONTROL", type=DnsControl(), default=DNS_METHODS[0],
              show_default=True, help="How the machine's DNS is set: systemd-resolved, etc-resolv-conf or disabled.")  # fmt: skip
@click.option("--activate-internet-resource", cls=Option, envvar="FIREZONE_ACTIVATE_INTERNET_RESOURCE", is_flag=True,
              help="Send what no other resource covers through the Internet resource, if there is one.")  # fmt: skip
@click.option("--reader-threads", cls=Option, envvar="FIREZONE_READER_THREADS", type=click.Choice(["auto", "on", "off"]),
              default="auto", show_default=True,
              help="Read TUN and UDP in threads of their own. auto: with four cores or more.")  # fmt: skip
@click.option("--portal-api", cls=Option, envvar="FIREZONE_PORTAL_API", type=click.Choice(["v1", "v2"]), default="v1",
              show_default=True, help="Generation of the portal's protocol: every portal speaks v1, newer ones both.")  # fmt: skip
@click.option("--counters-file", cls=Option, envvar="FIREZONE_COUNTERS_FILE", empty_is_unset=True, type=CountersFile(),
              help="Write counters here on SIGUSR2 and at the end. "
              "[default: on SIGUSR2 only, /run/firezone-client.counters.json]")  # fmt: skip
@click.option("--ca-file", cls=Option, envvar="FIREZONE_CA_FILE", type=CertificateFile(),
              help="Trust this certificate authority (PEM) for the portal instead of the system's.")  # fmt: skip
@click.option("--inc-buf", cls=Option, envvar="FIREZONE_INC_BUF", is_flag=True,
              help="Raise the kernel's ceilings for socket buffers.")  # fmt: skip
@click.option("--check", is_flag=True, help="Check the configuration and exit: 0 when it is fine, 1 when not.")
@click.option("--exit", "exit_after_setup", is_flag=True, help="Exit with 0 once the tunnel is configured.")
def main(
    mode: tuple[str, ...], api_url: str, token_path: Path, firezone_id: str | None, firezone_name: str | None, log_dir: Path | None,
    log_format: str, max_partition_time: int | None, dns_control: str, ca_file: Path | None, inc_buf: bool, check: bool,
    exit_after_setup: bool, reader_threads: str, activate_internet_resource: bool, portal_api: str, counters_file: Path | None,
) -> None:  # fmt: skip
    """Connects this machine to the resources a Firezone portal grants it."""
    from firezone.base.errors import ConfigError
    from firezone.cli import identity, start, token
    from firezone.io.dns_control import recover

    if mode[:1] == ("dns",):
        control_dns(mode[1])
        return
    from_environment = token.take_environment_token()
    try:
        start.start_logging(
            "firezone.client", file_base="firezone-headless-client", directory=log_dir, log_format=log_format, checks_only=check
        )
        recover(dns_control)
        device_id = firezone_id or identity.load_device_id(identity.CLIENT_ID_FILE)
        secret = token.find_token(from_environment, token_path)
    except ConfigError as error:
        start.fail("", error)

    from firezone.loop.client import client_login_url, run_client
    from firezone.loop.config import ClientConfig

    config = ClientConfig(
        api_url=api_url, token=secret, device_id=device_id, name=identity.device_name(firezone_name),
        max_partition=max_partition_time, raise_buffers=inc_buf, dns_control=dns_control,
        portal_generation=int(portal_api[1:]), ca_file=None if ca_file is None else str(ca_file),
        exit_after_setup=exit_after_setup, counters_file=counters_file, reader_threads=reader_threads,
        is_internet_active=activate_internet_resource,
        device_serial=identity.smbios_value("product_serial"), device_uuid=identity.smbios_value("product_uuid"),
    )  # fmt: skip
    try:
        client_login_url(config)
    except ConfigError as error:
        start.fail("", error)
    if check:
        click.echo("The configuration is fine.")
        return
    start.run_program(run_client(config), prefix="Firezone disconnected")


def check_mode(words: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the words before and between the options, refusing what is no mode."""
    if words not in ((), ("standalone",), ("dns", "status"), ("dns", "revert")):
        raise click.UsageError(f"{' '.join(words)!r} is no mode. There are: standalone, dns status, dns revert.")
    return words


def control_dns(action: str) -> None:
    """Tells about the machine's DNS, or puts back what a killed client left of its own."""
    import asyncio

    from firezone.base.errors import ConfigError
    from firezone.cli import start
    from firezone.io.dns_control import revert_all, status
    from firezone.io.tun_device import DEFAULT_NAME

    try:
        lines = asyncio.run(status(DEFAULT_NAME) if action == "status" else revert_all(DEFAULT_NAME))
    except ConfigError as error:
        start.fail("", error)
    click.echo("\n".join(lines) or "Nothing to put back.")


if __name__ == "__main__":
    main()
