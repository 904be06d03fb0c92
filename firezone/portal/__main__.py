"""The portal program: options, start and stop. Everything heavy is imported when it is needed, so that --help is fast."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from firezone.base.errors import ConfigError
from firezone.portal.commands import DEFAULT_CONFIG
from firezone.portal.commands import fail as _fail
from firezone.portal.devices import device
from firezone.portal.tables import GROUPS
from firezone.portal.tokens import token

if TYPE_CHECKING:
    import ssl

    from firezone.loop.portal import PortalOptions

DEFAULT_BIND = "127.0.0.1:8081"

EPILOG = """
\b
A first portal in three steps:
  python -m firezone.portal init --resource "Web server=192.168.1.10"
  python -m firezone.portal
  ... and the gateway's and client's commands that init has printed.

\b
Then, while it runs or not:
  python -m firezone.portal resource add Wiki wiki.example.com --for Everyone
  python -m firezone.portal user add ann --group Staff
  python -m firezone.portal token add client --for ann
  python -m firezone.portal policy add Staff Wiki --hours M/08:00-18:00/UTC
  python -m firezone.portal device list
Each kind of thing has add, list, disable, enable and remove; ask any of
them for --help. What you decide is in the policy file, which they edit
without touching your comments; what devices have told the portal is in
its state, which the running portal changes for them.

\b
The policy file is TOML. Its tables:
  [account]          name, slug, search_domain, upstream_dns,
                     upstream_doh
  [[site]]           name, enabled
  [[gateway_token]]  name, site, sha256, expires, revoked
  [[user]]           name, enabled
  [[group]]          name, members          ("Everyone" always exists)
  [[client_token]]   name, user, sha256, expires, revoked
  [[resource]]       name, address (a network, an IP address, a name or
                     a pattern) or internet = true, sites, filters,
                     description, ip_stack, enabled
  [[policy]]         group, resource, name, enabled, expires,
                     remote_ip, remote_ip_not, hours
init writes one in which every key is explained. Save it while the portal
runs and everybody is told at once; a mistake is named with its line and
the old policy stays in force.

\b
What the portal hands out itself (addresses, grants) is in a SQLite file
beside the policy. It survives any crash; without it devices get new
addresses.

\b
Devices on other machines need --bind 0.0.0.0:8081 (or [::]:8081) and
--tls-cert/--tls-key, since tokens pass in the clear otherwise.
"""


def _relay_names(context: click.Context, option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Checks names that become a part of a file's name."""
    for name in names:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise click.BadParameter(f"{name!r}: use letters, digits, - and _, for it is in the name of the token's file.")
    if len(set(names)) != len(names):
        raise click.BadParameter("a name is given twice.")
    return names


@click.group(invoke_without_command=True, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-c", "--config", envvar="FIREZONE_PORTAL_CONFIG", default=DEFAULT_CONFIG, show_default=True,
              type=click.Path(path_type=Path, dir_okay=False), help="Policy file.")  # fmt: skip
@click.option("--state", envvar="FIREZONE_PORTAL_STATE", default=None, type=click.Path(path_type=Path, dir_okay=False),
              help="State file.  [default: the policy file's name with .db]")  # fmt: skip
@click.option("-b", "--bind", envvar="FIREZONE_PORTAL_BIND", default=DEFAULT_BIND, show_default=True, metavar="HOST:PORT",
              help="Address to listen on; port 0 picks a free one.")  # fmt: skip
@click.option("--tls-cert", envvar="FIREZONE_PORTAL_TLS_CERT", default=None, type=click.Path(path_type=Path),
              help="Certificate chain (PEM); the portal then speaks wss://.")  # fmt: skip
@click.option("--tls-key", envvar="FIREZONE_PORTAL_TLS_KEY", default=None, type=click.Path(path_type=Path),
              help="Private key (PEM), if it is not in the certificate's file.")  # fmt: skip
@click.option("--check", is_flag=True, help="Check policy and certificate, say what is wrong, and exit.")
@click.version_option(None, "-V", "--version", package_name="firezone", prog_name="firezone-portal")
@click.pass_context
def main(
    context: click.Context,
    config: Path,
    state: Path | None,
    bind: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    check: bool,
) -> None:
    """A small Firezone portal: one policy file, one process, no other service.

    Tells gateways and clients about each other. No packet of theirs passes through it, and tunnels that are up stay up while it
    is down.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        options = _options(config, state, bind, tls_cert, tls_key)
        if check:
            _check(options)
        else:
            _run(options)
    except ConfigError as error:
        _fail(error)


@main.command()
@click.option("-c", "--config", default=DEFAULT_CONFIG, show_default=True, type=click.Path(path_type=Path, dir_okay=False),
              help="Policy file to write; the token files go beside it.")  # fmt: skip
@click.option("--site", default="Home", show_default=True, help="Name of the first site.")
@click.option("--user", default="me", show_default=True, help="Name of the first user.")
@click.option("--resource", "resources", multiple=True, metavar="NAME=ADDRESS",
              help="A resource that everyone may reach; may be given many times.")  # fmt: skip
@click.option("--relay", "relays", multiple=True, metavar="NAME", callback=_relay_names,
              help="A relay that gets a token; may be given many times.")  # fmt: skip
@click.option("-b", "--bind", default="", metavar="HOST:PORT", help="Address the portal will listen on.")
@click.option("--api-url", default=None, help="URL by which devices reach the portal.  [default: from --bind]")
@click.option("--force", is_flag=True, help="Replace files that are there; devices with the old tokens are locked out.")
def init(
    config: Path,
    site: str,
    user: str,
    resources: tuple[str, ...],
    relays: tuple[str, ...],
    bind: str,
    api_url: str | None,
    force: bool,
) -> None:
    """Write a commented policy and fresh tokens, and print the commands that start everything."""
    from firezone.loop.portal_policy import PolicyFile
    from firezone.portal.starter import Start, next_commands, write_start

    pairs = [_resource(text) for text in resources] or [("My network", "192.168.1.0/24")]
    start = Start(config, site, user, pairs, api_url or f"ws://{bind or DEFAULT_BIND}", bind, relays)
    try:
        write_start(start, force=force)
        PolicyFile(config).load()
    except ConfigError as error:
        _fail(error)
    tokens = ", ".join(str(path) for path in (start.gateway_token, start.client_token, *map(start.relay_token, relays)))
    click.echo(f"Wrote {config} and the tokens {tokens}: keep them secret.")
    if not resources:
        click.echo(f'Everyone may reach "My network", 192.168.1.0/24: put your own address into {config}.')
    for title, command in next_commands(start):
        click.echo(f"\n# {title}:\n{command}")


def _options(config: Path, state: Path | None, bind: str, cert: Path | None, key: Path | None) -> PortalOptions:
    from firezone.loop.portal import PortalOptions

    host, _, port = bind.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--bind {bind!r} is not HOST:PORT, such as 127.0.0.1:8081 or [::]:8081.")
    return PortalOptions(config, state or config.with_suffix(".db"), host, int(port), _tls(cert, key))


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    import ssl

    if cert is None:
        if key is not None:
            raise ConfigError("--tls-key needs --tls-cert.")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        files = f"{cert} is" if key is None else f"{cert} and {key} are"
        reason = f": {error.reason}" if error.reason else ""
        raise ConfigError(f"{files} no certificate with its key (PEM){reason}.") from None
    except OSError as error:
        raise ConfigError(f"The certificate {cert} or its key cannot be read: {error.strerror}.") from error
    return context


def _check(options: PortalOptions) -> None:
    from firezone.loop.portal_policy import PolicyFile

    book = PolicyFile(options.config).load()
    counts = {"site": len(book.sites), "user": len(book.users), "token": len(book.tokens),
              "relay": len(book.relays), "resource": len(book.resources), "policy": len(book.policies)}  # fmt: skip
    words = ", ".join(f"{count} {_plural(word, count)}" for word, count in counts.items())
    click.echo(f"{options.config} is fine: {words}.")


def _run(options: PortalOptions) -> None:
    import asyncio
    import contextlib
    import gc
    import signal

    import structlog
    import uvloop

    from firezone.loop.portal import PortalServer

    class SystemRng:
        def bytes(self, count: int) -> bytes:
            import os

            return os.urandom(count)

    async def serve() -> None:
        server = PortalServer(options, rng=SystemRng())
        await server.start()
        task = asyncio.create_task(server.run())
        # What exists now lives as long as the program: walking it again and again costs 11 ms each time, which first packets wait.
        gc.collect()
        gc.freeze()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, server.reload_soon)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        finally:
            await server.stop()

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            # Never with local variables: they hold keys.
            structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    uvloop.run(serve())


def _resource(text: str) -> tuple[str, str]:
    name, separator, address = text.rpartition("=")
    if not separator or not name.strip():
        _fail(ConfigError(f'--resource {text!r} is not NAME=ADDRESS, such as "Web server=192.168.1.10".'))
    return name.strip(), address.strip()


def _plural(word: str, count: int) -> str:
    if count == 1:
        return word
    return word.removesuffix("y") + "ies" if word.endswith("cy") else word + "s"


for _group in (*GROUPS.values(), token, device):
    main.add_command(_group)


if __name__ == "__main__":
    main(prog_name="python -m firezone.portal")
