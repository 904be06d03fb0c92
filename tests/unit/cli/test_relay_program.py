"""The relay's command line: which options fit each other, and what is said when they do not."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from click.testing import CliRunner

from firezone.base import log as logs
from firezone.base.secret import SecretText
from firezone.base.timing import SECOND
from firezone.loop.relay_program import RelayProgramConfig, login_url
from firezone.proto.relay.auth import Username
from firezone.relay.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Generator

    from click.testing import Result

SECRET = "0123456789abcdef0123"
ALONE = {"FIREZONE_RELAY_SECRET": SECRET, "PUBLIC_IP4_ADDR": "203.0.113.10"}
PORTAL = {"FIREZONE_API_URL": "ws://portal.example:81/api", "FIREZONE_TOKEN": "t0ken-text", "PUBLIC_IP4_ADDR": "203.0.113.10"}
VARIABLES = (
    "FIREZONE_TOKEN", "FIREZONE_TOKEN_PATH", "FIREZONE_NAME", "FIREZONE_API_URL", "FIREZONE_RELAY_SECRET", "PUBLIC_IP4_ADDR",
    "PUBLIC_IP6_ADDR", "BIND_IP4_ADDR", "BIND_IP6_ADDR", "LISTEN_PORT", "LOWEST_PORT", "HIGHEST_PORT", "RNG_SEED", "LOG_FORMAT",
    "FIREZONE_LOG_FORMAT", "HEALTH_CHECK_ADDR", "CONTROL_ENDPOINT", "RUST_LOG", "CREDENTIALS_DIRECTORY", "EBPF_OFFLOADING",
    "OTLP_GRPC_ENDPOINT", "OTEL_METRIC_EXPORT_INTERVAL", "NUM_WORKER_THREADS",
    "FIREZONE_TELEMETRY", "TELEMETRY", "LOG_DIR", "FIREZONE_MAX_PARTITION_TIME", "FIREZONE_CA_FILE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(logs, "_concealed", {})
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the relay would run with: the list is filled in place of running it."""
    found: list[Any] = []
    monkeypatch.setattr("firezone.loop.relay_program.run_relay", found.append)
    monkeypatch.setattr("firezone.cli.start.run_program", lambda main, *, prefix: None)
    return found


def run(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env=variables)


def config(seen: list[Any], *arguments: str, **variables: str) -> RelayProgramConfig:
    result = run(*arguments, **variables)
    assert (result.exit_code, result.stderr) == (0, "")
    found = seen.pop()
    assert isinstance(found, RelayProgramConfig)
    return found


def test_the_check_says_what_would_run() -> None:
    result = run("--check", **ALONE)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "The options are fine: 203.0.113.10, UDP port 3478, allocations on 49152 to 65535, for users with its secret.\n"
    )
    result = run("--check", PUBLIC_IP6_ADDR="2001:db8::1", LISTEN_PORT="99", LOWEST_PORT="100", HIGHEST_PORT="100", **PORTAL)
    assert result.stdout.splitlines()[-1] == (
        "The options are fine: 203.0.113.10 and 2001:db8::1, UDP port 99, allocations on 100 to 100, "
        "for users of ws://portal.example:81/api."
    )


@pytest.mark.parametrize("program", [["--check"], []])
def test_without_a_public_address_it_does_not_start(program: list[str]) -> None:
    result = run(*program, FIREZONE_RELAY_SECRET=SECRET)
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "Error: A relay needs to know its public address: give --public-ip4-addr, --public-ip6-addr or both.\n"
    )


def test_an_empty_address_is_none(seen: list[Any]) -> None:
    found = config(seen, PUBLIC_IP6_ADDR="", **ALONE)
    assert (found.relay.public_ip4, found.relay.public_ip6) == (bytes([203, 0, 113, 10]), None)


def test_it_needs_a_portal_or_a_secret_but_not_both() -> None:
    result = run("--check", PUBLIC_IP4_ADDR="203.0.113.10")
    assert result.exit_code == 2
    assert "--api-url with a token, or --secret" in result.stderr
    result = run("--check", FIREZONE_RELAY_SECRET=SECRET, **PORTAL)
    assert result.exit_code == 2
    assert "not both" in result.stderr


def test_a_portal_needs_a_token(tmp_path: Path) -> None:
    variables = {key: value for key, value in PORTAL.items() if key != "FIREZONE_TOKEN"}
    result = run("--check", "--token-path", str(tmp_path / "absent"), **variables)
    assert result.exit_code == 1
    assert "There is no token" in result.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LOWEST_PORT": "60000", "HIGHEST_PORT": "59999"}, "above the highest"),
        ({"LISTEN_PORT": "50000"}, "must lie outside"),
    ],
)
def test_ports_that_do_not_fit_each_other_are_told(variables: dict[str, str], words: str) -> None:
    result = run("--check", **ALONE, **variables)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"LISTEN_PORT": "0"}, {"HIGHEST_PORT": "65536"}, {"PUBLIC_IP6_ADDR": "1.2.3.4"}, {"BIND_IP4_ADDR": "here"},
        {"RNG_SEED": "x"}, {"RNG_SEED": str(2**64)}, {"LOWEST_PORT": ""}, {"HEALTH_CHECK_ADDR": "localhost:80"},
        {"CONTROL_ENDPOINT": "9999"}, {"FIREZONE_MAX_PARTITION_TIME": "5"}, {"LOG_FORMAT": "xml"}, {"FIREZONE_CA_FILE": __file__},
        {"FIREZONE_ALLOCATIONS_PER_ADDRESS": "0"}, {"OTLP_GRPC_ENDPOINT": "http://collector:4317"}, {"OTLP_GRPC_ENDPOINT": "x:0"},
    ],
)  # fmt: skip
def test_values_that_mean_nothing_are_wrong_usage(variables: dict[str, str]) -> None:
    result = run("--check", **ALONE, **variables)
    assert result.exit_code == 2
    assert next(iter(variables)) in result.stderr
    assert result.stdout == ""


def test_a_name_no_portal_takes_is_wrong_usage() -> None:
    assert run("--check", FIREZONE_NAME="x" * 255, **PORTAL).exit_code == 0
    assert run("--check", FIREZONE_NAME="x" * 256, **PORTAL).exit_code == 2


@pytest.mark.parametrize("url", ["ws://user:password@portal", "ws://portal:99999", "ws://portal:http"])
def test_the_check_covers_the_portals_url(url: str) -> None:
    result = run("--check", **{**PORTAL, "FIREZONE_API_URL": url})
    assert result.exit_code == 2
    assert "is no portal URL" in result.stderr


def test_alone_it_serves_with_the_secret_given(seen: list[Any]) -> None:
    found = config(seen, **ALONE)
    assert found.portal is None
    assert found.relay.stands_alone
    assert found.relay.secret == SecretText(SECRET)


def test_with_a_portal_it_makes_a_secret_at_every_start(seen: list[Any]) -> None:
    first, second = config(seen, **PORTAL), config(seen, **PORTAL)
    assert not first.relay.stands_alone
    assert len(first.relay.secret.reveal()) == 64
    assert first.relay.secret != second.relay.secret
    repeated = [config(seen, RNG_SEED="7", **PORTAL).relay.secret for _ in range(2)]
    assert repeated[0] == repeated[1]


def test_the_login_names_addresses_and_port(seen: list[Any]) -> None:
    found = config(seen, "t0ken-text", "Berlin", PUBLIC_IP6_ADDR="2001:DB8::1", **{**PORTAL, "FIREZONE_TOKEN": ""})
    assert found.portal is not None
    url = login_url(found.portal, found.relay)
    assert url.to_url() == (
        "ws://portal.example:81/api/relay/websocket?token=t0ken-text&name=Berlin&ipv4=203.0.113.10&ipv6=2001%3Adb8%3A%3A1&port=3478"
    )
    unnamed = config(seen, **PORTAL)
    assert unnamed.portal is not None
    assert "name=" not in login_url(unnamed.portal, unnamed.relay).to_url()


def test_the_name_may_come_from_its_variable(seen: list[Any]) -> None:
    found = config(seen, FIREZONE_NAME="Paris", **PORTAL)
    assert found.portal is not None
    assert found.portal.name == "Paris"


def test_endpoints_and_limits_reach_the_program(seen: list[Any]) -> None:
    found = config(
        seen, "--allocations-per-address", "7", "--max-partition-time", "15m", HEALTH_CHECK_ADDR="[::1]:1",
        CONTROL_ENDPOINT="127.0.0.1:2", BIND_IP4_ADDR="192.0.2.1", **PORTAL,
    )  # fmt: skip
    assert (found.health_check_address, found.control_address) == (("::1", 1), ("127.0.0.1", 2))
    assert found.relay.limits is not None
    assert found.relay.limits.allocations_per_address == 7
    assert found.relay.bind_ip4 == "192.0.2.1"
    assert found.portal is not None
    assert found.portal.max_partition == 900 * SECOND


def test_secrets_are_in_neither_help_nor_log() -> None:
    for arguments in (["--help"], ["--check"]):
        for variables in (ALONE, PORTAL):
            result = run(*arguments, RUST_LOG="trace", **variables)
            assert SECRET not in result.output
            assert "t0ken-text" not in result.output


def test_secrets_that_are_public_or_can_be_guessed_are_warned_about() -> None:
    public = run("--check", "--secret", SECRET, PUBLIC_IP4_ADDR="203.0.113.10").stdout
    assert "secret was given on the command line" in public
    assert SECRET not in public
    assert "command line" not in run("--check", **ALONE).stdout
    assert "can be guessed" in run("--check", "--rng-seed", "7", **PORTAL).stdout
    assert "short enough to be guessed" in run("--check", **{**ALONE, "FIREZONE_RELAY_SECRET": "short"}).stdout
    assert "the secret is ***" not in run("--check", **{**ALONE, "FIREZONE_RELAY_SECRET": "short"}).stdout
    assert "token was given on the command line" in run("t0ken-text", "--check", **{**PORTAL, "FIREZONE_TOKEN": ""}).stdout


@pytest.mark.parametrize(
    ("variable", "option"),
    [("EBPF_OFFLOADING", "--ebpf-offloading"), ("NUM_WORKER_THREADS", "--num-worker-threads"), ("TELEMETRY", "--telemetry")],
)
def test_options_without_effect_are_accepted_and_named(variable: str, option: str) -> None:
    assert f"{option} has no effect" in run("--check", **ALONE, **{variable: "true"}).stdout
    assert f"{option} has no effect" not in run("--check", **ALONE, **{variable: ""}).stdout
    given = [option] if option == "--telemetry" else [option, "eth0"]
    assert f"{option} has no effect" in run("--check", *given, **ALONE).stdout
    assert option not in run("--help").stdout


@pytest.mark.parametrize("endpoint", ["collector.example:4317", "127.0.0.1:4317", "[::1]:4317"])
def test_metrics_go_to_a_name_or_an_address(seen: list[Any], endpoint: str) -> None:
    assert config(seen, OTLP_GRPC_ENDPOINT=endpoint, **ALONE).metrics_endpoint == endpoint


def test_metrics_without_their_packages_end_the_start_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics.export", None)
    assert run("--check", **ALONE).exit_code == 0
    result = run("--check", OTLP_GRPC_ENDPOINT="127.0.0.1:4317", **ALONE)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "pip install 'firezone[telemetry]'" in result.stderr


def test_an_interval_of_metrics_that_is_none_is_told() -> None:
    result = run("--check", OTLP_GRPC_ENDPOINT="127.0.0.1:4317", OTEL_METRIC_EXPORT_INTERVAL="soon", **ALONE)
    assert result.exit_code == 1
    assert "OTEL_METRIC_EXPORT_INTERVAL" in result.stderr


def test_telemetry_that_is_off_is_not_worth_a_word() -> None:
    assert "no effect" not in run("--check", FIREZONE_TELEMETRY="false", **ALONE).stdout
    assert run("--check", FIREZONE_TELEMETRY="maybe", **ALONE).exit_code == 2


def test_the_page_for_operators_names_options_and_variables_that_exist() -> None:
    text = (Path(__file__).parents[3] / "docs" / "relay.md").read_text()
    options = {option for parameter in main.params for option in parameter.opts}
    variables = {
        name
        for parameter in main.params
        for name in ([parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or ())
    }
    of_portal = {"--name", "--relay"}
    assert set(re.findall(r"--[a-z][a-z0-9-]+", text)) - of_portal <= options
    elsewhere = {"FIREZONE_TOKEN", "LISTEN_ADDRESS_DISCOVERY_METHOD"}
    named = set(re.findall(r"\b(?:FIREZONE|PUBLIC|BIND|LISTEN|LOWEST|HIGHEST|EBPF|OTLP|RNG)_[A-Z0-9_]+", text))
    assert named - elsewhere <= variables | {"FIREZONE_TELEMETRY"}


def test_credentials_are_printed_for_a_secret() -> None:
    result = run("--credentials", "1d", FIREZONE_RELAY_SECRET=SECRET)
    assert result.exit_code == 0
    printed = dict(line.split() for line in result.stdout.splitlines())
    username = Username.from_text(printed["username"])
    assert username is not None
    assert username.password(SecretText(SECRET)) == printed["password"]
    assert printed["realm"] == "firezone"
    assert run("--credentials", "1d").exit_code == 2


@pytest.mark.parametrize(("duration", "complaint"), [("99999999999999999999d", "beyond"), ("0s", "expired already")])
def test_credentials_no_relay_would_take_are_not_printed(duration: str, complaint: str) -> None:
    result = run("--credentials", duration, FIREZONE_RELAY_SECRET=SECRET)
    assert result.exit_code == 2
    assert complaint in result.output
    assert "username " not in result.output
