"""Copies of a SQLite lineage database, taken while others use it."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from deployctl.errors import DatabaseError


def backup_sqlite(path: Path, *, now: datetime) -> Path:
    """Returns a durable copy of the database, `<name>.<time>.bak` beside it; never overwrites one.

    The copy is one moment of the database, whole and checked, whoever writes meanwhile, and needs no other file.

    Args:
        path: the SQLite file.
        now: aware; names the copy.

    Raises:
        sqlite3.Error: the database cannot be read.
        DatabaseError: the copy cannot be written, or is damaged.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            _copy(path, partial)
            partial.chmod(path.stat().st_mode & 0o777)
            _flush(partial)
            return _publish(partial, path, now)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DatabaseError(f"cannot write a backup beside {path}: {error}") from error


def _copy(path: Path, partial: Path) -> None:
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy)
        # The copy would say that it has a write-ahead log, and opening it would make one.
        copy.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DatabaseError(f"{path} is damaged, no backup was taken: {verdict}", hint="deployctl doctor")


def _publish(partial: Path, path: Path, now: datetime) -> Path:
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    for attempt in count(1):
        suffix = "" if attempt == 1 else f"-{attempt}"
        destination = path.with_name(f"{path.name}.{stamp}{suffix}.bak")
        try:
            # A link, unlike a rename, fails when the name is taken.
            os.link(partial, destination)
        except FileExistsError:
            continue
        _flush(path.parent)
        return destination
    raise AssertionError("unreachable")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
