"""Logging of the programs: readable text on stdout, JSON lines in files, one filter for both.

Lines go through stdlib `logging`, so libraries share the sinks; our own loggers are structlog's, with fields as keywords.
The filter is the language of `RUST_LOG`: `info,firezone.proto=debug`. Targets are module names; `.` and `::` are the same.
A warning that repeats is throttled (`Throttle`), and what was handed to `conceal` reaches no sink, whoever writes it.
"""

from __future__ import annotations

import datetime
import json
import logging
import logging.handlers
import os
import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

import structlog

from firezone.base.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

TRACE = 5
"""Below DEBUG: anything per packet."""
LEVELS = {"off": 100, "error": 40, "warn": 30, "info": 20, "debug": 10, "trace": TRACE}
_NUMBERS = dict(zip("012345", LEVELS, strict=True))
_QUIET = "asyncio=warn,websockets=warn,pyroute2=warn,urllib3=warn"
"""Put before the user's directives: libraries that would talk too much. Naming one switches it on again."""
_NAMES = {TRACE: "TRACE", 10: "DEBUG", 20: "INFO", 30: "WARN", 40: "ERROR", 50: "ERROR"}
_SEVERITIES = {TRACE: "DEBUG", 10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "ERROR"}
_METHODS = {"trace": TRACE, "debug": 10, "info": 20, "warning": 30, "warn": 30, "error": 40, "exception": 40, "critical": 50}
_COLOURS = {TRACE: "35", 10: "34", 20: "32", 30: "33", 40: "31", 50: "31"}

FORMATS = ("human", "json", "google-cloud")

FILE_MODE = 0o640
"""Readable by the service's group, whatever the umask says."""
THROTTLE_INTERVAL_S, THROTTLE_BURST = 10.0, 5
"""Equal warnings let through per interval. More drowns the cause in its symptoms, fewer hides which peers are concerned."""

_UNICODE_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")
"""Control characters that JSON leaves alone and line readers do not."""
_MIN_SECRET_LENGTH = 8
"""Characters below which a secret is a word like others: starred wherever it occurs, it would make the log unreadable."""
_concealed: dict[str, re.Pattern[str]] = {}
"""By each form of a secret, where to put stars; long ones first, since one may contain another."""


class LogFilter(logging.Filter):
    """Lets records through by the level of the longest target that their logger's name begins with."""

    def __init__(self, directives: str) -> None:
        super().__init__()
        self._targets: dict[str, int] = {"": LEVELS["error"]}
        for directive in f"{_QUIET},{directives}".split(","):
            if directive.strip():
                self._add(directive.strip())

    @property
    def lowest(self) -> int:
        """The lowest level that any target lets through."""
        return min(self._targets.values())

    def filter(self, record: logging.LogRecord) -> bool:
        name = record.name
        while True:
            if name in self._targets:
                return record.levelno >= self._targets[name]
            if not name:
                return False
            name = name.rpartition(".")[0]

    def _add(self, directive: str) -> None:
        target, equals, level = directive.partition("=")
        if not equals and (known := _level(target)) is not None:
            self._targets[""] = known
            return
        known = _level(level) if equals else LEVELS["trace"]
        target = target.replace("::", ".").strip()
        if known is None or not re.fullmatch(r"[\w.-]+", target):
            raise ConfigError(f"The log filter {directive!r} is not understood. Write for example: info,firezone.proto=debug")
        self._targets[target] = known


class Throttle(logging.Filter):
    """Lets a few warnings or errors of one text through per interval; the next one after that says how many were left out."""

    def __init__(self, interval_s: float = THROTTLE_INTERVAL_S, burst: int = THROTTLE_BURST) -> None:
        super().__init__()
        self._interval_s, self._burst = interval_s, burst
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}
        """Start of the interval and how many lines fell into it, per logger, level and text."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        message = record.msg.get("event", "") if isinstance(record.msg, dict) else record.msg
        key = record.name, record.levelno, str(message)
        since, count = self._seen.get(key, (record.created, 0))
        if record.created - since >= self._interval_s:
            record.left_out = max(0, count - self._burst)
            since, count = record.created, 0
        self._seen[key] = since, count + 1
        return count < self._burst


class Logger(structlog.stdlib.BoundLogger):
    """structlog's logger with our TRACE below DEBUG."""

    def trace(self, event: str, **fields: Any) -> None:
        """Writes a line per packet or message: what is too much even for DEBUG."""
        if self._logger.isEnabledFor(TRACE):
            positional, keywords = self._process_event("trace", event, fields)
            self._logger.log(TRACE, *positional, **keywords)


def conceal(secret: str) -> None:
    """Makes every sink print stars in place of a secret: as it is, as part of a URL, and as our formats escape it.

    One of a few characters is hidden only where it is the whole of a value, as in `token=abc`, and not within words.
    """
    escaped = _printable(secret)
    for form in (secret, quote(secret, safe=""), escaped, _to_json(secret)[1:-1], repr(secret)[1:-1], _quoted(escaped)):
        if form:
            where = re.escape(form)
            if len(secret) < _MIN_SECRET_LENGTH:
                where = rf"(?<=[=\"']){where}(?=[\"'\s&]|$)(?!\": )"  # The last keeps the keys of JSON.
            _concealed[form] = re.compile(where)
    for form in sorted(_concealed, key=len, reverse=True):
        _concealed[form] = _concealed.pop(form)


def without_secrets(text: str) -> str:
    """Returns a text as it may be shown."""
    for form, where in _concealed.items():
        if form in text:
            text = where.sub("***", text)
    return text


def _level(text: str) -> int | None:
    text = text.strip().lower()
    return LEVELS.get(_NUMBERS.get(text, text))


def set_up_logging(
    directives: str | None,
    *,
    file_base: str,
    directory: Path | None = None,
    log_format: str = "human",
    stream: TextIO | None = None,
) -> None:
    """Routes all logging to stdout in `log_format` and, with a directory, to a file of JSON lines. No directives: info.

    Raises: ConfigError for a filter that is not understood or a directory that cannot be made.
    """
    log_filter = LogFilter((directives or "").strip() or "info")
    logging.addLevelName(TRACE, "TRACE")
    out = stream or sys.stdout
    is_colourful = log_format == "human" and out.isatty() and "NO_COLOR" not in os.environ
    handlers: list[logging.Handler] = [_handler(logging.StreamHandler(out), _renderer(log_format, is_colourful), log_filter)]
    if directory is not None:
        handlers.append(_handler(_open_file(directory, file_base), _google_cloud, log_filter))
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(log_filter.lowest)
    structlog.configure(
        processors=[
            _drop_disabled,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _with_exception,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=Logger,
        cache_logger_on_first_use=False,
    )


def change_log_filter(directives: str) -> None:
    """Gives every sink another filter, while the program runs.

    Raises: ConfigError for a filter that is not understood; the old one then stays.
    """
    log_filter = LogFilter(directives)
    root = logging.getLogger()
    for handler in root.handlers:
        for former in [known for known in handler.filters if isinstance(known, LogFilter)]:
            handler.removeFilter(former)
            handler.filters.insert(0, log_filter)
    root.setLevel(log_filter.lowest)


def _open_file(directory: Path, base: str) -> logging.Handler:
    """Opens `<base>.<start time>.log` with mode 0640 and points `<base>.latest` at it."""
    name = f"{base}.{datetime.datetime.now(datetime.UTC):%Y-%m-%d-%H-%M-%S}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(directory / name, encoding="utf-8")
        temporary = directory / f".{base}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name)
        temporary.replace(directory / f"{base}.latest")
    except OSError as error:
        raise ConfigError(f"The log directory {directory} cannot be used: {error.strerror}.") from error
    return handler


class _LogFile(logging.handlers.WatchedFileHandler):
    """A log file that comes back, with the same mode, when somebody deletes it."""

    def _open(self) -> TextIOWrapper:
        file = super()._open()
        os.fchmod(file.fileno(), FILE_MODE)
        return file


def _handler(handler: logging.Handler, renderer: Any, log_filter: LogFilter) -> logging.Handler:
    handler.addFilter(log_filter)
    handler.addFilter(Throttle())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[_complete, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _without_secrets],
        )
    )
    return handler


def _drop_disabled(logger: logging.Logger, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """As structlog's `filter_by_level`, which knows no TRACE."""
    if _METHODS[method] < logger.getEffectiveLevel():
        raise structlog.DropEvent
    return event


def _with_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Looks up the exception that is handled now: on the way to the sink it would be lost."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


def _without_secrets(_: Any, __: str, line: Any) -> Any:
    return without_secrets(line)


def _complete(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds time, level and exception text from the stdlib record, which both kinds of logger have."""
    record: logging.LogRecord = event["_record"]
    event["_time"] = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    event["_level"] = record.levelno
    info = event.pop("exc_info", None) or record.exc_info
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if isinstance(info, tuple) and info[0] is not None:
        event["exception"] = logging.Formatter().formatException(info)
    if left_out := getattr(record, "left_out", 0):
        event["left_out"] = left_out
    return event


def _renderer(log_format: str, is_colourful: bool) -> Any:
    if log_format == "json":
        return _json
    if log_format == "google-cloud":
        return _google_cloud
    return lambda logger, name, event: _human(event, is_colourful)


def _human(event: MutableMapping[str, Any], is_colourful: bool) -> str:
    time, level, target, message, fields = _split(event)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"
    word = f"{_NAMES.get(level, 'ERROR'):>5}"
    target = target.replace(".", "::")
    if is_colourful:
        stamp, target = f"\x1b[2m{stamp}\x1b[0m", f"\x1b[2m{target}\x1b[0m"
        word = f"\x1b[{_COLOURS.get(level, '31')}m{word}\x1b[0m"
    exception = fields.pop("exception", None)
    text = " ".join([_printable(message), *(f"{key}={_value(value)}" for key, value in fields.items())])
    return f"{stamp} {word} {target}: {text}" + (f"\n{exception}" if exception else "")


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    time, level, target, message, fields = _split(event)
    stamp = time.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return _dump({"timestamp": stamp, "level": _NAMES.get(level, "ERROR"), "message": message, "target": target}, fields)


def _google_cloud(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    time, level, target, message, fields = _split(event)
    stamp = time.isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = {"time": stamp, "target": target, "severity": _SEVERITIES.get(level, "ERROR"), "message": message}
    return _dump(head, {_camel(key): value for key, value in fields.items()})


def _split(event: MutableMapping[str, Any]) -> tuple[datetime.datetime, int, str, str, dict[str, Any]]:
    fields = dict(event)
    time, level = fields.pop("_time"), fields.pop("_level")
    target, message = str(fields.pop("logger", "")), str(fields.pop("event", ""))
    fields.pop("level", None)
    return time, level, target, message, fields


def _dump(head: dict[str, Any], fields: dict[str, Any]) -> str:
    """Writes one line; a field that has the name of a key of ours gets an underscore."""
    record = head | {f"{key}_" if key in head else key: value for key, value in fields.items()}
    return _to_json(record)


def _to_json(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return _UNICODE_CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _value(value: Any) -> str:
    text = _printable(str(value))
    if isinstance(value, str) and (not value or " " in value or '"' in value):
        return '"' + _quoted(text) + '"'
    return text


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)
