"""The log file that a server appends to: its tail, what came since a moment, and what comes."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

_POLL_S = 0.1
# "2026-11-21T07:24:28.123Z", "2026-11-21 07:24:28,123", "2026-11-21 07:24:28.123456: I tensorflow/…"
# "I0000 00:00:1795247347.652131", which absl writes before TensorFlow has set it up: seconds since the epoch.
_EPOCH = re.compile(r"[IWEF]0000 00:00:(\d{9,11}\.\d{1,6}) ")
_TIMESTAMP = re.compile(
    r"\W{0,2}(?P<day>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9}))?"
    r"\s?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)


class ServerLog:
    """The lines of `path` and of the one older file that `rotate` keeps beside it."""

    def __init__(self, path: Path) -> None:
        """Makes the log's object; the file need not exist."""
        self.path = path
        self.older = path.with_name(f"{path.name}.1")

    def rotate(self, *, limit_bytes: int) -> None:
        """Sets the file aside when it is larger than `limit_bytes`; only while no server writes to it."""
        if self.size() > limit_bytes:
            self.path.replace(self.older)

    def size(self) -> int:
        """Returns the file's size in bytes, 0 when there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def tail(self, lines: int, *, start: int = 0) -> tuple[str, ...]:
        """Returns the last `lines` of what the file holds from byte `start` on."""
        try:
            with _open(self.path) as file:
                file.seek(start)
                return tuple(line.rstrip("\n") for line in deque(file, maxlen=lines))
        except FileNotFoundError:
            return ()

    def read(self, *, lines: int | None, since: datetime | None, follow: bool) -> Iterator[str]:
        """Yields lines, oldest first, and with `follow` new ones for ever.

        Args:
            lines: at most so many of the lines that are there already.
            since: only lines written at or after this aware time; a line without a time belongs to the one before it.
            follow: whether to wait for new lines.
        """
        position = _Position()
        present: Iterator[str] = _since(self._present(position), since)
        yield from present if lines is None else deque(present, maxlen=lines)
        if follow:
            yield from self._coming(position)

    def _present(self, position: _Position) -> Iterator[str]:
        for path in (self.older, self.path):
            with contextlib.suppress(FileNotFoundError), _open(path) as file:
                while line := file.readline():
                    if path == self.path and not line.endswith("\n"):
                        break  # half written: it is whole when it comes again
                    if path == self.path:
                        position.at(file)
                    yield line.rstrip("\n")

    def _coming(self, position: _Position) -> Iterator[str]:
        quiet = threading.Event()
        while True:
            with contextlib.suppress(FileNotFoundError), _open(self.path) as file:
                file.seek(position.offset_in(file))
                while (line := file.readline()).endswith("\n"):
                    position.at(file)
                    yield line.rstrip("\n")
            quiet.wait(_POLL_S)


class _Position:
    """How far the file has been read, and which file that was: at a server's start another may take its name."""

    def __init__(self) -> None:
        self._inode = 0
        self._offset = 0

    def at(self, file: TextIO) -> None:
        self._inode = _inode(file)
        self._offset = file.tell()

    def offset_in(self, file: TextIO) -> int:
        return self._offset if _inode(file) == self._inode else 0


def line_time(line: str) -> datetime | None:
    """Returns the aware time that `line` starts with, in local time where it names no zone, or None."""
    if epoch := _EPOCH.match(line):
        return datetime.fromtimestamp(float(epoch[1]), UTC)
    match = _TIMESTAMP.match(line)
    if match is None:
        return None
    zone = (match["zone"] or "").replace("Z", "+00:00")
    microseconds = (match["fraction"] or "0")[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{match['day']}T{match['time']}.{microseconds}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def ago(seconds: float) -> datetime:
    """Returns the time `seconds` before now."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


def _since(lines: Iterator[str], since: datetime | None) -> Iterator[str]:
    reached = since is None
    for line in lines:
        if not reached and since is not None:
            time = line_time(line)
            reached = time is not None and time >= since
        if reached:
            yield line


def _inode(file: TextIO) -> int:
    return os.fstat(file.fileno()).st_ino


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="replace", newline="\n")
