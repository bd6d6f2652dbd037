"""The daemon's log: one line for each thing that happened, for people or as JSON, with the operation's id."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import format_time

_operation: ContextVar[str] = ContextVar("operation", default="")
_log = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class LogObserver(Observer):
    """Logs the progress of operations."""

    def step(self, name: str, text: str) -> None:
        """Logs one finished step."""
        _log.info("%s: %s", name, text)

    def warn(self, text: str) -> None:
        """Logs a warning."""
        _log.warning("%s", text)


@contextmanager
def operation_logged(operation: str) -> Iterator[None]:
    """Marks the log lines of this thread with the operation's id while the block runs."""
    token = _operation.set(operation)
    try:
        yield
    finally:
        _operation.reset(token)


def start_logging(log_format: LogFormat) -> None:
    """Sends the program's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format is LogFormat.JSON else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # These tell of every request and every step of theirs; what matters of it, we log ourselves.
    for chatty in ("uvicorn.access", "alembic", "watchdog", "botocore", "urllib3", "docker"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        operation = _operation.get()
        where = f" [{operation}]" if operation else ""
        line = f"{_at(record)} {record.levelname.lower():<7} {record.threadName}{where}: {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _at(record),
            "level": record.levelname.lower(),
            "duty": record.threadName,
            "operation": _operation.get() or None,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["trace"] = self.formatException(record.exc_info)
        return json.dumps(document)


def _at(record: logging.LogRecord) -> str:
    return format_time(datetime.fromtimestamp(record.created, UTC))
