"""Logging of the programs: readable text on stdout, JSON lines in files, one filter for both.

Lines go through stdlib `logging`, so libraries share the sinks; our own loggers are structlog's, with fields as keywords.
The filter is the language of `RUST_LOG`: `info,firezone.proto=debug`. Targets are module names; `.` and `::` are the same.
"""

from __future__ import annotations

import datetime
import logging
import logging.handlers
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

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
_COLOURS = {TRACE: "35", 10: "34", 20: "32", 30: "33", 40: "31", 50: "31"}

FORMATS = ("human", "json", "google-cloud")


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
        if known is None or not target or any(char in target for char in "[]{} "):
            raise ConfigError(f"The log filter {directive!r} is not understood. Write for example: info,firezone.proto=debug")
        self._targets[target] = known


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
    """Routes all logging to stdout in `log_format` and, with a directory, to a file of JSON lines.

    Raises: ConfigError for a filter that is not understood or a directory that cannot be made.
    """
    log_filter = LogFilter(directives if directives is not None else "info")
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
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _open_file(directory: Path, base: str) -> logging.Handler:
    """Opens `<base>.<start time>.log` with mode 0640 and points `<base>.latest` at it."""
    name = f"{base}.{datetime.datetime.now(datetime.UTC):%Y-%m-%d-%H-%M-%S}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        fd = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        os.close(fd)
        link = directory / f"{base}.latest"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
    except OSError as error:
        raise ConfigError(f"The log directory {directory} cannot be used: {error.strerror}.") from error
    return logging.handlers.WatchedFileHandler(directory / name, encoding="utf-8")


def _handler(handler: logging.Handler, renderer: Any, log_filter: LogFilter) -> logging.Handler:
    handler.addFilter(log_filter)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[_complete, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    return handler


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
    return _dump({"timestamp": stamp, "level": _NAMES.get(level, "ERROR"), "message": message, **fields, "target": target})


def _google_cloud(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    time, level, target, message, fields = _split(event)
    stamp = time.isoformat(timespec="microseconds").replace("+00:00", "Z")
    camel = {_camel(key): value for key, value in fields.items()}
    return _dump({"time": stamp, "target": target, "severity": _SEVERITIES.get(level, "ERROR"), "message": message, **camel})


def _split(event: MutableMapping[str, Any]) -> tuple[datetime.datetime, int, str, str, dict[str, Any]]:
    fields = dict(event)
    time, level = fields.pop("_time"), fields.pop("_level")
    target, message = str(fields.pop("logger", "")), str(fields.pop("event", ""))
    fields.pop("level", None)
    return time, level, target, message, fields


def _dump(value: dict[str, Any]) -> str:
    import json

    return json.dumps(value, default=str, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _printable(value) if value and " " not in value and '"' not in value else f'"{_printable(value)}"'
    return _printable(str(value))


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _camel(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)
