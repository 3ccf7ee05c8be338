"""Structured logs on the standard library's logging: a message, then fields, as a line of text or one JSON object.

```python
log = Log(__name__)
log.info("job moved", job=job.id, state=job.state)
```
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path
from typing import Any

from smolorad.errors import InvalidRequest

_FIELDS = "smolorad_fields"
_ROOT = "smolorad"
_ROTATE_BYTES = 10 * 2**20
_KEPT_FILES = 3


class Log:
    """A logger whose methods take a fixed message and fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, message: str, **fields: Any) -> None:
        """Details for developers."""
        self._write(logging.DEBUG, message, fields)

    def info(self, message: str, **fields: Any) -> None:
        """A normal event."""
        self._write(logging.INFO, message, fields)

    def warning(self, message: str, **fields: Any) -> None:
        """A problem that smolora handled."""
        self._write(logging.WARNING, message, fields)

    def error(self, message: str, **fields: Any) -> None:
        """A problem."""
        self._write(logging.ERROR, message, fields)

    def exception(self, message: str, **fields: Any) -> None:
        """A problem, with the traceback of the current exception."""
        self._write(logging.ERROR, message, fields, exc_info=True)

    def _write(self, level: int, message: str, fields: dict[str, Any], exc_info: bool = False) -> None:
        self._logger.log(level, message, exc_info=exc_info, extra={_FIELDS: fields})


class TextFormat(logging.Formatter):
    """`time level message key=value ...`; a value with spaces, quotes or control characters is quoted as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it where there is one."""
        fields = "".join(f" {key}={_quoted(value)}" for key, value in getattr(record, _FIELDS, {}).items())
        line = f"{_time(record)} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormat(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line; the traceback is its field `traceback`."""
        entry = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def setup(level: str = "info", format: str = "text", file: Path | None = None) -> None:
    """Sends the daemon's logs to a rotated file, or to standard error; other libraries' warnings go the same way.

    Raises InvalidRequest where the file cannot be written.
    """
    handler = logging.StreamHandler(sys.stderr) if file is None else _rotated(file)
    handler.setFormatter(JsonFormat() if format == "json" else TextFormat())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_ROOT).setLevel(level.upper())
    # A full disk, or a reader of standard error that went away, must not print tracebacks of logging itself for ever.
    logging.raiseExceptions = False


def _rotated(file: Path) -> logging.Handler:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return logging.handlers.RotatingFileHandler(file, maxBytes=_ROTATE_BYTES, backupCount=_KEPT_FILES, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"The log file {file} cannot be written ({error.strerror}); choose another one.") from error


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _quoted(value: Any) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(c in text for c in " \"'=")
    return text if plain else json.dumps(text, ensure_ascii=False)
