"""Logs: what a line looks like in each format, what the filter lets through, and what never gets out."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from firezone.base import log as logs
from firezone.base.errors import ConfigError
from firezone.base.log import LogFilter, Throttle, conceal, set_up_logging, without_secrets
from tests.conftest import LACKS

if TYPE_CHECKING:
    from collections.abc import Generator

README = Path(__file__).parent.parent.parent.parent / "README.md"


@pytest.fixture(autouse=True)
def _restored_logging(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "_concealed", {})
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def start(directives: str | None = None, **options: Any) -> io.StringIO:
    stream = io.StringIO()
    set_up_logging(directives, file_base="firezone-test", stream=stream, **options)
    return stream


def logger(name: str = "firezone.test") -> Any:
    return structlog.get_logger(name)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# text


def test_a_line_has_time_level_target_message_and_fields_in_order() -> None:
    stream = start()
    logger("firezone.proto.client").info("connection established", cid="a1", rtt_ms=3, detail="over UDP")

    line = stream.getvalue()
    assert re.match(
        r'^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  INFO firezone::proto::client: '
        r'connection established cid=a1 rtt_ms=3 detail="over UDP"\n$',
        line,
    ), line  # fmt: skip


def test_bound_context_follows_the_message() -> None:
    stream = start()
    logger().bind(cid="a1").warning("lost", after_s=2)
    assert stream.getvalue().endswith("  WARN firezone::test: lost cid=a1 after_s=2\n")


def test_quotes_and_control_characters_are_escaped() -> None:
    stream = start()
    logger().info("one\nline\x00", name='say "hi"', empty="", back="a \\ b")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith('one\\nline\\x00 name="say \\"hi\\"" empty="" back="a \\\\ b"\n')


def test_libraries_that_log_with_the_standard_library_look_the_same() -> None:
    stream = start()
    logging.getLogger("some.library").warning("took %d ms", 3)
    assert stream.getvalue().endswith("  WARN some::library: took 3 ms\n")


def test_positional_arguments_are_formatted() -> None:
    stream = start()
    logger().info("took %d ms", 3)
    assert stream.getvalue().endswith(": took 3 ms\n")


def test_a_handled_exception_is_printed_with_its_traceback() -> None:
    stream = start()
    try:
        int("boom")
    except ValueError:
        logger().exception("unexpected")
    assert "unexpected\nTraceback" in stream.getvalue()
    assert "ValueError: invalid literal" in stream.getvalue()


def test_an_exception_given_as_a_field_is_printed_too() -> None:
    stream = start()
    logger().error("unexpected", exc_info=RuntimeError("boom"))
    assert "RuntimeError: boom" in stream.getvalue()


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, terminal = start(), Terminal()
    logger().info("hello")
    set_up_logging(None, file_base="firezone-test", stream=terminal)
    logger().info("hello")
    assert "\x1b" not in plain.getvalue()
    assert "\x1b[32m INFO\x1b[0m" in terminal.getvalue()


def test_no_color_switches_colours_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    set_up_logging(None, file_base="firezone-test", stream=terminal)
    logger().info("hello")
    assert "\x1b" not in terminal.getvalue()


# JSON


@pytest.mark.parametrize(
    ("log_format", "keys"),
    [
        ("json", {"timestamp", "level", "message", "target", "rtt_ms", "message_"}),
        ("google-cloud", {"time", "severity", "message", "target", "rttMs", "message_"}),
    ],
)
def test_each_json_format_has_its_keys_on_one_line(log_format: str, keys: set[str]) -> None:
    stream = start(log_format=log_format)
    logger().warning('say "hi"\n\x00\x85\u2028', rtt_ms=3, message="a field")
    assert len(stream.getvalue().splitlines()) == 1
    record = json.loads(stream.getvalue())
    assert record.keys() == keys
    assert record["message"] == 'say "hi"\n\x00\x85\u2028'
    assert record["message_"] == "a field"
    assert record["target"] == "firezone.test"


def test_json_severities_are_google_clouds() -> None:
    stream = start("trace", log_format="google-cloud")
    for write in (logger().trace, logger().debug, logger().info, logger().warning, logger().error):
        write("x")
    severities = [json.loads(line)["severity"] for line in stream.getvalue().splitlines()]
    assert severities == ["DEBUG", "DEBUG", "INFO", "WARNING", "ERROR"]


def test_a_traceback_is_a_field_in_json() -> None:
    stream = start(log_format="json")
    logger().error("unexpected", exc_info=RuntimeError("boom"))
    assert "RuntimeError: boom" in json.loads(stream.getvalue())["exception"]


# filter


def levels(directives: str, name: str) -> list[str]:
    """Names of the levels that a filter lets through for a logger."""
    chosen = LogFilter(directives)
    numbers = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}
    return [word for word, number in numbers.items() if chosen.filter(logging.LogRecord(name, number, "", 0, "", None, None))]


def test_a_bare_level_is_the_default() -> None:
    assert levels("info", "anything") == ["info", "warn", "error"]


def test_the_longest_target_wins() -> None:
    chosen = "warn,firezone=info,firezone.proto.ice=trace"
    assert levels(chosen, "firezone.proto.node") == ["info", "warn", "error"]
    assert levels(chosen, "firezone.proto.ice.agent")[0] == "trace"
    assert levels(chosen, "firezoneish") == ["warn", "error"]


def test_dots_and_colons_are_the_same() -> None:
    assert levels("info,wire::net=trace", "wire.net.recv")[0] == "trace"
    assert levels("info,wire=trace", "wire.net.recv")[0] == "trace"


def test_a_bare_target_enables_everything_for_it() -> None:
    assert levels("info,firezone.io", "firezone.io.netlink")[0] == "trace"


def test_levels_may_be_numbers_and_in_any_case() -> None:
    assert levels("DEBUG", "x")[0] == "debug"
    assert levels("2", "x")[0] == "warn"
    assert levels("off", "x") == []


def test_of_equal_targets_the_later_wins() -> None:
    assert levels("x=error,x=debug", "x")[0] == "debug"


def test_talkative_libraries_are_silent_until_they_are_named() -> None:
    assert levels("debug", "websockets.client") == ["warn", "error"]
    assert levels("debug,websockets=debug", "websockets.client")[0] == "debug"


@pytest.mark.parametrize("directives", ["foo=bar", "a b", "[span]=info", "=info", "=x=y=z"])
def test_a_wrong_filter_is_an_error_that_names_the_directive(directives: str) -> None:
    with pytest.raises(ConfigError, match="is not understood") as error:
        LogFilter(directives)
    assert directives in str(error.value)


@pytest.mark.parametrize("directives", [None, "", "  "])
def test_without_directives_info_is_shown(directives: str | None) -> None:
    stream = start(directives)
    logger().debug("hidden")
    logger().info("shown")
    assert "hidden" not in stream.getvalue()
    assert "shown" in stream.getvalue()


def test_trace_is_shown_only_when_it_is_asked_for() -> None:
    for directives, lines in (("debug", 0), ("info,firezone.test=trace", 1)):
        stream = start(directives)
        logger().bind(cid=1).trace("a packet", size=64)
        assert stream.getvalue().count("TRACE firezone::test: a packet cid=1 size=64") == lines


# files


def test_a_file_of_json_lines_is_written_beside_stdout(tmp_path: Path) -> None:
    stream = start(directory=tmp_path / "new" / "dir")
    logger().info("hello", cid="a1")

    [path] = (tmp_path / "new" / "dir").glob("*.log")
    assert re.fullmatch(r"firezone-test\.\d{4}(-\d\d){5}\.log", path.name)
    assert path.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new" / "dir" / "firezone-test.latest").resolve() == path.resolve()
    record = json.loads(path.read_text())
    assert (record["severity"], record["message"], record["cid"]) == ("INFO", "hello", "a1")
    assert stream.getvalue().endswith("hello cid=a1\n")


def test_a_deleted_file_comes_back_with_its_mode(tmp_path: Path) -> None:
    start(directory=tmp_path)
    logger().info("one")
    path = (tmp_path / "firezone-test.latest").resolve()
    path.unlink()
    logger().info("two")
    assert json.loads(path.read_text())["message"] == "two"
    assert path.stat().st_mode & 0o777 == 0o640


def test_two_programs_in_one_directory_have_a_link_each(tmp_path: Path) -> None:
    for base in ("firezone-gateway", "firezone-headless-client"):
        set_up_logging(None, file_base=base, directory=tmp_path, stream=io.StringIO())
        logger().info(base)
    for base in ("firezone-gateway", "firezone-headless-client"):
        assert base in (tmp_path / f"{base}.latest").read_text()


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"log directory .*/file/logs cannot be used"):
        start(directory=tmp_path / "file" / "logs")


def test_the_line_of_the_readme_reads_the_files(tmp_path: Path) -> None:
    if shutil.which("jq") is None:
        pytest.skip(f"{LACKS} jq")
    match = re.search(r"^jq -r '(?P<program>.+)' LOGDIR/firezone-gateway\.latest$", README.read_text(), re.MULTILINE)
    assert match is not None
    set_up_logging(None, file_base="firezone-gateway", directory=tmp_path, stream=io.StringIO())
    logger("firezone.loop").info('say "hi"\n', rtt_ms=3)
    logger("firezone.loop").warning("second")

    command = ["jq", "-r", match["program"], str(tmp_path / "firezone-gateway.latest")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout

    columns = [line.split("\t") for line in output.splitlines()]
    assert [column[1:] for column in columns] == [["INFO", "firezone.loop", 'say "hi"\\n'], ["WARNING", "firezone.loop", "second"]]


# what must not get out


def test_a_concealed_secret_reaches_no_sink(tmp_path: Path) -> None:
    conceal("s3cr+t/token")
    stream = start("trace", directory=tmp_path)
    logger().info("token s3cr+t/token", url="wss://x/?token=s3cr%2Bt%2Ftoken&a=b")
    logger().error("failed", exc_info=RuntimeError("token s3cr+t/token refused"))
    logging.getLogger("library").warning("GET /?token=%s", "s3cr%2Bt%2Ftoken")

    for text in (stream.getvalue(), (tmp_path / "firezone-test.latest").read_text()):
        assert "s3cr" not in text
        assert "?token=***" in text


def test_text_for_the_user_is_cleaned_of_secrets_too() -> None:
    conceal("abc123")
    conceal("")
    assert without_secrets("url?token=abc123") == "url?token=***"


def test_a_short_secret_is_hidden_where_it_is_a_value_and_leaves_words_alone() -> None:
    conceal("token")
    conceal("a")
    assert without_secrets("a token was given: url?token=token&a=a") == "a token was given: url?token=***&a=***"
    assert without_secrets('{"token": "token", "a": ["a"]}') == '{"token": "***", "a": ["***"]}'
    assert without_secrets("relay::table: name=relay a-token=tokens") == "relay::table: name=relay a-token=tokens"


@pytest.mark.parametrize("log_format", ["human", "json", "google-cloud"])
@pytest.mark.parametrize("secret", ['pass"word\\with/all', "zwei Wörter\u2028und'mehr", "tab\tand\x7fmore"])
def test_a_secret_is_hidden_however_a_format_escapes_it(secret: str, log_format: str) -> None:
    conceal(secret)
    stream = start("trace", log_format=log_format)
    logger().info(f"said {secret}", field=secret, longer=f"a {secret} b", shown=[secret])
    text = stream.getvalue()
    assert text.count("***") == 4
    assert not any(part in text for part in ("word", "Wörter", "more"))


def test_the_longer_of_two_secrets_goes_first() -> None:
    conceal("abcdefgh")
    conceal("abcdefgh-and-more")
    assert without_secrets("it is abcdefgh-and-more, not abcdefgh") == "it is ***, not ***"


def test_a_repeating_warning_is_throttled_and_counted() -> None:
    throttle = Throttle(interval_s=10, burst=2)
    shown = []
    for second in range(30):
        record = logging.LogRecord("x", logging.WARNING, "", 0, {"event": "again", "n": second}, None, None)
        record.created = 1000.0 + second
        if throttle.filter(record):
            shown.append((second, getattr(record, "left_out", 0)))
    assert shown == [(0, 0), (1, 0), (10, 8), (11, 0), (20, 8), (21, 0)]


def test_other_lines_are_not_throttled_with_it() -> None:
    stream = start()
    for number in range(20):
        logger().info("progress", number=number)
        logger().warning(f"warning {number}")
        logger().warning("again", number=number)
    assert stream.getvalue().count("progress") == 20
    assert stream.getvalue().count(": warning ") == 20
    assert stream.getvalue().count(": again ") == logs.THROTTLE_BURST


# changed while it runs


def test_the_filter_can_be_changed_while_the_program_runs() -> None:
    stream = start("info")
    kept = logger()
    kept.debug("before")
    logs.change_log_filter("firezone.test=debug")
    kept.debug("meanwhile")
    logs.change_log_filter("warn")
    kept.info("after")
    assert [line.split(": ")[1].strip() for line in stream.getvalue().splitlines()] == ["meanwhile"]


def test_a_filter_that_is_not_understood_changes_nothing() -> None:
    stream = start("info")
    with pytest.raises(ConfigError, match="x=y=z"):
        logs.change_log_filter("debug,x=y=z")
    logger().info("still here")
    logger().debug("still not")
    assert "still here" in stream.getvalue()
    assert "still not" not in stream.getvalue()
