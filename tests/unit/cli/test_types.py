"""What options accept, and what their environment variables mean."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from firezone.base.timing import SECOND
from firezone.cli.options import Option
from firezone.cli.types import ApiUrl, CountersFile, DnsControl, Duration, HostPort, IpAddress, OutputFile, Seconds


def convert(kind: click.ParamType[Any], text: str) -> Any:
    return kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("1h", 3600), ("30d", 30 * 86400), ("1h 30m", 5400), ("1h30m", 5400), ("90 sec", 90), ("2weeks", 1209600)],
)
def test_durations_are_numbers_with_units(text: str, seconds: int) -> None:
    assert convert(Duration(), text) == seconds * SECOND


def test_durations_may_be_shorter_than_a_second() -> None:
    assert convert(Duration(), "250ms") == SECOND // 4


@pytest.mark.parametrize("text", ["5", "", "m", "5 parsecs", "5m x", "-5m", "1.5h"])
def test_other_durations_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="Write for example 30s"):
        convert(Duration(), text)


@pytest.mark.parametrize("url", ["wss://api.firezone.dev", "ws://127.0.0.1:8081/", "https://[::1]/x"])
def test_portal_urls_are_absolute(url: str) -> None:
    assert convert(ApiUrl(), url) == url


@pytest.mark.parametrize(
    "url",
    [
        "", "api.firezone.dev", "ftp://x", "wss://", "/websocket", "ws://portal:99999", "ws://portal:http", "ws://portal:0",
        "ws://:80", "ws://[::1", "wss://por tal", "wss://portal/a b",
    ],
)  # fmt: skip
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(click.BadParameter, match="no portal URL"):
        convert(ApiUrl(), url)


def test_a_password_in_a_url_is_refused_without_being_shown() -> None:
    with pytest.raises(click.BadParameter, match="user name or password") as refused:
        convert(ApiUrl(), "wss://user:hunter2@portal")
    assert "hunter2" not in refused.value.message


def test_addresses_have_a_port_and_ipv6_has_brackets() -> None:
    assert convert(HostPort(), "0.0.0.0:8080") == ("0.0.0.0", 8080)
    assert convert(HostPort(), "[::]:8080") == ("::", 8080)
    for text in ("8080", "::1:80", "host:80", "1.2.3.4:70000"):
        with pytest.raises(click.BadParameter):
            convert(HostPort(), text)


def test_dns_methods_are_spelled_as_the_original_spells_them() -> None:
    for method in ("systemd-resolved", "etc-resolv-conf", "disabled"):
        assert convert(DnsControl(), method) == method
    with pytest.raises(click.BadParameter, match="no DNS method"):
        convert(DnsControl(), "EtcResolvConf")


# variables


@click.command()
@click.option("--name", cls=Option, envvar="T_NAME", default="nobody")
@click.option("--size", cls=Option, envvar=["T_SIZE", "T_OLD_SIZE"], type=int, default=7)
@click.option("--id", "identity", cls=Option, envvar="T_ID", empty_is_unset=True, default="generated")
@click.option("--loud", cls=Option, envvar="T_LOUD", is_flag=True)
def program(**values: object) -> None:
    click.echo(repr(sorted(values.items())))


def run(arguments: list[str] | None = None, **variables: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, arguments or [], env=variables)
    return result.exit_code, result.output


def expect(given: tuple[int, str], **values: object) -> None:
    everything = {"name": "nobody", "size": 7, "identity": "generated", "loud": False} | values
    assert given == (0, repr(sorted(everything.items())) + "\n")


def test_the_command_line_wins_over_the_variable_and_that_over_the_default() -> None:
    expect(run())
    expect(run(T_NAME="a", T_SIZE="1"), name="a", size=1)
    expect(run(["--name", "b", "--size", "2"], T_NAME="a", T_SIZE="1"), name="b", size=2)


def test_the_first_of_several_variables_wins() -> None:
    expect(run(T_OLD_SIZE="3"), size=3)
    expect(run(T_SIZE="1", T_OLD_SIZE="3"), size=1)


def test_an_empty_variable_is_given() -> None:
    expect(run(T_NAME=""), name="")
    status, output = run(T_SIZE="")
    assert status == 2
    assert "$T_SIZE is set but empty" in output


def test_an_empty_variable_can_count_as_absent() -> None:
    expect(run(T_ID=""))


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE"])
def test_a_switch_is_on(word: str) -> None:
    expect(run(T_LOUD=word), loud=True)


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "False"])
def test_a_switch_is_off(word: str) -> None:
    expect(run(T_LOUD=word))
    expect(run(["--loud"], T_LOUD=word), loud=True)


@pytest.mark.parametrize("word", ["maybe", "", "2"])
def test_a_switch_is_neither(word: str) -> None:
    status, output = run(T_LOUD=word)
    assert status == 2
    assert "$T_LOUD" in output
    assert "true or false" in output


def test_help_names_the_variables() -> None:
    status, output = run(["--help"])
    assert status == 0
    assert "env var: T_SIZE, T_OLD_SIZE" in " ".join(output.split())


@pytest.mark.parametrize(("version", "text", "result"), [(4, "203.0.113.1", "203.0.113.1"), (6, "2001:DB8:0::1", "2001:db8::1")])
def test_addresses_are_written_as_usual(version: int, text: str, result: str) -> None:
    assert IpAddress(version).convert(text, None, None) == result


@pytest.mark.parametrize(
    ("version", "text"), [(4, "2001:db8::1"), (6, "203.0.113.1"), (4, "relay.example"), (4, ""), (4, "1.2.3.4:5")]
)
def test_what_is_no_address_is_told_with_an_example(version: int, text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"no IPv{version} address. Write for example"):
        IpAddress(version).convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "0.5", "inf", "many"])
def test_a_length_of_time_is_a_number_within_its_bounds(text: str) -> None:
    assert Seconds(1, 60).convert("2.5", None, None) == 2.5
    with pytest.raises(click.BadParameter):
        Seconds(1, 60).convert(text, None, None)


def test_an_output_file_is_one_that_can_be_written_later(tmp_path: Path) -> None:
    assert OutputFile().convert(str(tmp_path / "new.json"), None, None) == tmp_path / "new.json"
    assert OutputFile().convert("new.json", None, None).is_absolute()
    assert not list(tmp_path.iterdir())
    for wrong in (tmp_path, tmp_path / "no" / "new.json", Path("/proc/new.json")):
        with pytest.raises(click.BadParameter, match=r"cannot be written: .*directory"):
            OutputFile().convert(str(wrong), None, None)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/counters.json", "there is no directory"),
        (".", "is no file"),
        ("pipe", "is no file"),
        ("file/x", "there is no directory"),
    ],
)
def test_counters_go_to_a_file_in_a_directory_that_is_there(tmp_path: Path, name: str, says: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with pytest.raises(click.BadParameter, match=says):
        convert(CountersFile(), str(tmp_path / name))
    assert convert(CountersFile(), str(tmp_path / "new.json")) == tmp_path / "new.json"
    assert convert(CountersFile(), str(tmp_path / "file")) == tmp_path / "file"


@pytest.mark.parametrize("program", ["client", "gateway", "relay"])
def test_a_wrong_place_for_counters_is_told_before_anything_starts(program: str) -> None:
    main = importlib.import_module(f"firezone.{program}.__main__").main
    done = CliRunner().invoke(main, ["--counters-file", "/dev/null"])
    assert done.exit_code == 2
    assert "/dev/null is no file: the counters would replace it." in done.output
    assert f"/run/firezone-{program}.counters.json" in "".join(CliRunner().invoke(main, ["--help"]).output.split())
