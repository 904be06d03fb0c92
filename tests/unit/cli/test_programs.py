"""The command lines of client and gateway. `--check` runs all of a start that needs no network."""

from __future__ import annotations

import datetime
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from firezone.base import log as logs
from firezone.client.__main__ import main as client
from firezone.gateway.__main__ import main as gateway

if TYPE_CHECKING:
    from collections.abc import Generator

    from click.testing import Result

VARIABLES = (
    "FIREZONE_TOKEN", "FIREZONE_TOKEN_PATH", "FIREZONE_ID", "FIREZONE_NAME", "FIREZONE_API_URL", "LOG_DIR", "LOG_FORMAT",
    "FIREZONE_LOG_FORMAT", "MAX_PARTITION_TIME", "FIREZONE_MAX_PARTITION_TIME", "FIREZONE_DNS_CONTROL", "FIREZONE_INC_BUF",
    "FIREZONE_NO_INC_BUF", "HEALTH_CHECK_ADDR", "RUST_LOG", "CREDENTIALS_DIRECTORY", "FIREZONE_READER_THREADS",
    "FIREZONE_CA_FILE",
)  # fmt: skip
LOOKED = "looked"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Generator[None]:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(logs, "_concealed", {})
    monkeypatch.setattr("firezone.cli.identity.CLIENT_ID_FILE", tmp_path / "client" / "id")
    monkeypatch.setattr("firezone.cli.identity.GATEWAY_ID_FILE", tmp_path / "gateway" / "id")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the gateway would run with: the list is filled in place of running it."""
    seen: list[Any] = []
    monkeypatch.setattr("firezone.loop.gateway.run_gateway", seen.append)
    monkeypatch.setattr("firezone.loop.client.run_client", seen.append)
    monkeypatch.setattr("firezone.cli.start.run_program", lambda main, *, prefix: None)
    return seen


def check(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(client, ["--check", *arguments], env=variables)


def run(program: Any, *arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(program, list(arguments), env=variables)


# client


def test_without_a_token_the_check_fails_and_names_both_places(tmp_path: Path) -> None:
    result = check("--token-path", str(tmp_path / "absent"))
    assert result.exit_code == 1
    assert "$FIREZONE_TOKEN" in result.stderr
    assert str(tmp_path / "absent") in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_token_in_the_environment_passes_the_check() -> None:
    result = check(FIREZONE_TOKEN="abc")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "The configuration is fine." in result.stdout


def test_there_is_no_option_for_the_token() -> None:
    assert check("--token", "x", FIREZONE_TOKEN="abc").exit_code == 2


def test_the_old_subcommand_changes_nothing() -> None:
    assert check("standalone", FIREZONE_TOKEN="abc").exit_code == 0
    assert check("sitdown", FIREZONE_TOKEN="abc").exit_code == 2


@pytest.mark.parametrize("variable", ["MAX_PARTITION_TIME", "FIREZONE_MAX_PARTITION_TIME"])
def test_a_bare_number_is_no_duration(variable: str) -> None:
    assert check(FIREZONE_TOKEN="abc", **{variable: "1h 30m"}).exit_code == 0
    assert check(FIREZONE_TOKEN="abc", **{variable: "5"}).exit_code == 2


def test_a_wrong_log_filter_ends_the_start_and_is_named() -> None:
    result = check(FIREZONE_TOKEN="abc", RUST_LOG="foo=bar")
    assert result.exit_code == 1
    assert "foo=bar" in result.stderr


def test_a_log_directory_that_cannot_be_made_is_named_with_its_reason_once() -> None:
    result = check(FIREZONE_TOKEN="abc", LOG_DIR="/proc/absent")
    assert result.exit_code == 1
    assert result.stderr == "The log directory /proc/absent cannot be used: No such file or directory.\n"


def test_an_empty_log_filter_and_format_are_the_defaults(config: list[Any]) -> None:
    result = run(client, FIREZONE_TOKEN="abc", RUST_LOG="", LOG_FORMAT="")
    assert result.exit_code == 0
    assert "INFO firezone::client: starting" in result.stdout


@pytest.mark.parametrize("url", ["ws://user:password@portal", "ws://portal:99999"])
def test_the_check_covers_the_portals_url(url: str) -> None:
    result = check(FIREZONE_TOKEN="abc", FIREZONE_API_URL=url)
    assert result.exit_code == 2
    assert "is no portal URL" in result.stderr


def test_the_check_of_what_is_fine_says_so_and_nothing_else() -> None:
    assert check(FIREZONE_TOKEN="abc").stdout == "The configuration is fine.\n"


def test_a_certificate_authority_without_a_certificate_is_wrong_usage(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    for program in (client, gateway):
        result = run(program, "--ca-file", str(empty), FIREZONE_TOKEN="abc")
        assert result.exit_code == 2
        assert "has no certificate in it" in result.stderr


def test_the_dns_method_comes_from_option_or_variable(config: list[Any]) -> None:
    assert run(client, "--dns-control", "disabled", FIREZONE_TOKEN="abc").exit_code == 0
    assert run(client, FIREZONE_TOKEN="abc", FIREZONE_DNS_CONTROL="etc-resolv-conf").exit_code == 0
    assert run(client, FIREZONE_TOKEN="abc").exit_code == 0
    assert [one.dns_control for one in config] == ["disabled", "etc-resolv-conf", "systemd-resolved"]


def test_an_unknown_dns_method_or_mode_is_wrong_usage() -> None:
    result = check("--dns-control", "nrpt", FIREZONE_TOKEN="abc")
    assert (result.exit_code, "There are: systemd-resolved, etc-resolv-conf, disabled" in result.stderr) == (2, True)
    result = check("dns", "remove", FIREZONE_TOKEN="abc")
    assert (result.exit_code, "There are: standalone, dns status, dns revert" in result.stderr) == (2, True)


def test_an_empty_id_is_ignored_and_a_stored_one_is_used(tmp_path: Path, config: list[Any]) -> None:
    for _ in range(2):
        assert run(client, FIREZONE_TOKEN="abc", FIREZONE_ID="").exit_code == 0
    first, second = config
    assert first.device_id == second.device_id
    assert first.device_id in (tmp_path / "client" / "id").read_text()
    assert run(client, "-i", "mine", FIREZONE_TOKEN="abc").exit_code == 0
    assert config[-1].device_id == "mine"


def self_signed() -> str:
    """Returns the certificate of an authority that vouches for itself, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority of a test")])
    begin = datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + datetime.timedelta(days=36500))
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def test_every_option_of_the_client_arrives(config: list[Any], tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text(self_signed())
    arguments = ["-u", "ws://p", "-i", "me", "--firezone-name", "desk", "-l", str(tmp_path / "logs"), "--log-format", "json",
                 "-m", "5m", "--reader-threads", "off", "--ca-file", str(authority), "--inc-buf", "--exit"]  # fmt: skip
    result = run(client, *arguments, FIREZONE_TOKEN="abc")
    assert result.exit_code == 0, result.output
    [made] = config
    assert (made.api_url, made.device_id, made.name, made.max_partition) == ("ws://p", "me", "desk", 300_000_000_000)
    assert (made.reader_threads, made.ca_file, made.raise_buffers, made.exit_after_setup) == ("off", str(authority), True, True)
    assert made.token.reveal() == "abc"
    assert (tmp_path / "logs" / "firezone-headless-client.latest").exists()
    assert result.stdout.startswith('{"timestamp": ')


# gateway


def test_the_gateway_takes_its_token_from_the_command_line_or_the_environment(config: list[Any]) -> None:
    for arguments, variable, token in (((), "env", "env"), (("argument",), "env", "argument"), (("argument",), "", "argument")):
        result = run(gateway, "--no-check", *arguments, FIREZONE_TOKEN=variable)
        assert result.exit_code == 0, result.output
        assert config[-1].token.reveal() == token
        assert ("given on the command line" in result.stdout) == bool(arguments)
        assert token not in result.output


def test_a_gateway_without_a_token_says_so(tmp_path: Path) -> None:
    result = run(gateway, "--no-check", "--token-path", str(tmp_path / "absent"))
    assert result.exit_code == 1
    assert "There is no token" in result.stderr


def test_a_gateway_takes_the_credential_of_its_unit(config: list[Any], tmp_path: Path) -> None:
    (tmp_path / "FIREZONE_TOKEN").write_text("credential\n")
    result = run(gateway, "--no-check", "--token-path", str(tmp_path / "absent"), CREDENTIALS_DIRECTORY=str(tmp_path))
    assert result.exit_code == 0, result.output
    assert config[0].token.reveal() == "credential"


def test_the_gateways_defaults(config: list[Any]) -> None:
    assert run(gateway, "--no-check", FIREZONE_TOKEN="abc").exit_code == 0
    [made] = config
    assert made.max_partition == 86_400 * 10**9
    assert (made.health_check_address, made.raise_buffers, made.manage_firewall) == (("0.0.0.0", 8080), True, True)
    assert made.masquerade == ()


def test_every_option_of_the_gateway_arrives(config: list[Any]) -> None:
    variables = {"FIREZONE_NO_INC_BUF": "true", "HEALTH_CHECK_ADDR": "[::1]:9", "FIREZONE_NAME": "site", "FIREZONE_ID": "gw"}
    arguments = ["--no-check", "--masquerade", "e*", "--masquerade", "bond0", "--no-firewall", "-m", "1h"]
    assert run(gateway, *arguments, FIREZONE_TOKEN="abc", **variables).exit_code == 0
    [made] = config
    assert (made.health_check_address, made.raise_buffers, made.manage_firewall) == (("::1", 9), False, False)
    assert (made.masquerade, made.name, made.device_id, made.max_partition) == (("e*", "bond0"), "site", "gw", 3600 * 10**9)


def test_a_gateway_without_privileges_explains_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "Name:\tx\nCapEff:\t0000000000000000\n")
    result = run(gateway, FIREZONE_TOKEN="abc")
    assert result.exit_code == 1
    assert "CAP_NET_ADMIN" in result.stderr
    assert "--no-check" in result.stderr


def test_the_capability_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    from firezone.gateway.__main__ import _check_permissions

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "CapEff:\t0000000000001000\n")
    _check_permissions()


# both


@pytest.mark.parametrize("program", [client, gateway])
def test_help_teaches_and_keeps_the_token(program: Any) -> None:
    result = run(program, "--help", FIREZONE_TOKEN="s3cret")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "s3cret" not in result.stdout
    for word in ("Examples:", "Signals:", "Exit status:", "FIREZONE_TOKEN", "RUST_LOG"):
        assert word in result.stdout


@pytest.mark.parametrize("program", [client, gateway])
def test_the_version_is_printed(program: Any) -> None:
    for option in ("-V", "--version"):
        result = run(program, option)
        assert result.exit_code == 0
        assert result.stdout.startswith("firezone-")


@pytest.mark.parametrize("program", [client, gateway])
def test_the_token_reaches_no_child(program: Any, config: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firezone.cli.start.run_program", lambda *_, **__: print(os.environ.get("FIREZONE_TOKEN", LOOKED)))
    arguments = ["--no-check"] if program is gateway else []
    assert LOOKED in run(program, *arguments, FIREZONE_TOKEN="s3cret").stdout


@pytest.mark.parametrize("program", ["client", "gateway"])
def test_help_starts_fast_and_loads_nothing_heavy(program: str) -> None:
    heavy = ("numpy", "asyncio", "structlog", "websockets", "pyroute2", "cryptography", "msgspec", "uvloop")
    code = (
        "import sys\nfrom click.testing import CliRunner\n"
        f"from firezone.{program}.__main__ import main\n"
        "assert 'token' in CliRunner().invoke(main, ['--help']).output\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    begin = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.strip() == "[]"
    assert time.monotonic() - begin < 5


def test_asking_for_counters_ends_no_program_that_cannot_answer_yet() -> None:
    program = (
        "import os, signal\nfrom firezone.cli.start import run_program\n"
        "async def main() -> None:\n    os.kill(os.getpid(), signal.SIGUSR2)\n    print('still here')\n"
        "run_program(main(), prefix='')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "still here\n"), done.stderr
