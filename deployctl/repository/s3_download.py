"""Fetches files that nobody published from an object store: exports, and archives of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from deployctl.errors import ExportChangedError, NotASavedModelError, UnsafeExportError
from deployctl.repository.cache_files import RANGE, write_at
from deployctl.repository.copying import Work
from deployctl.repository.durable import storage_errors
from deployctl.repository.s3_errors import endpoint_option
from deployctl.repository.tree import MAX_DEPTH, is_restorable

if TYPE_CHECKING:
    from deployctl.domain.clock import Observer
    from deployctl.repository.s3_client import S3Store
    from deployctl.repository.s3_listing import Found


@dataclass(frozen=True, slots=True)
class _Piece:
    key: str
    target: Path
    start: int
    length: int


def download_tree(store: S3Store, directory: Path, observer: Observer, *, prefix: str = "") -> Path:
    """Fetches everything below `prefix` into the new directory `directory`, which it returns.

    Raises:
        NotASavedModelError: there is nothing.
        UnsafeExportError: a key is no path that a file could have below a directory.
        ExportChangedError: what is there changed meanwhile.
        DiskFullError: there is no room.
        StorageError: the store cannot be reached.
    """
    found = _files(store, prefix)
    if not found:
        raise _nothing(store, prefix)
    names = {each.key: each.key.removeprefix(prefix) for each in found}
    _fetch(store, {each.key: each.size for each in found}, directory, observer, names)
    if _stamps(_files(store, prefix)) != _stamps(found):
        raise ExportChangedError(store.url(prefix), "changed while it was fetched", hint=_listing(store, prefix))
    return directory


def download_file(store: S3Store, key: str, target: Path, observer: Observer) -> Path:
    """Fetches one object into the new file `target`, which it returns.

    Raises:
        NotASavedModelError: there is no such object.
        ExportChangedError, DiskFullError, StorageError: as above.
    """
    before = [each for each in store.listing(key).objects if each.key == key]
    if not before:
        raise _nothing(store, key)
    _fetch(store, {key: before[0].size}, target.parent, observer, {key: target.name})
    if _stamps([each for each in store.listing(key).objects if each.key == key]) != _stamps(before):
        raise ExportChangedError(store.url(key), "changed while it was fetched", hint=_listing(store, key))
    return target


def _files(store: S3Store, prefix: str) -> list[Found]:
    """Returns the objects below `prefix` without the empty ones that stand for directories."""
    return [each for each in store.listing(prefix).objects if not (each.key.endswith("/") and not each.size)]


def _stamps(found: list[Found]) -> list[tuple[str, str, int]]:
    return [(each.key, each.etag, each.size) for each in found]


def _fetch(store: S3Store, sizes: dict[str, int], directory: Path, observer: Observer, names: dict[str, str]) -> None:
    """Fetches objects, by key, into files of the given names below `directory`."""
    pieces = []
    with storage_errors("write the export", directory):
        for key, size in sizes.items():
            target = directory / names[key]
            _require_path(store, names[key])
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.truncate(size)
            pieces += [_Piece(key, target, start, min(RANGE, size - start)) for start in range(0, size, RANGE)]
    work = Work(observer, sum(sizes.values()))

    def fetch(piece: _Piece) -> None:
        body = store.get_range(piece.key, piece.start, piece.length)
        with storage_errors("write the export", piece.target):
            descriptor = os.open(piece.target, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                write_at(descriptor, body, piece.start)
            finally:
                os.close(descriptor)
        work.advance(piece.length)

    work.each(fetch, pieces, workers=store.options.connections)


def _require_path(store: S3Store, name: str) -> None:
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or not all(is_restorable(part) for part in parts):
        wrong = "no path of a file"
    elif len(parts) - 1 > MAX_DEPTH:
        wrong = f"more than {MAX_DEPTH} directories deep"
    else:
        return
    raise UnsafeExportError(store.url(), f"cannot be published: {name!r} is {wrong}", hint=_listing(store))


def _nothing(store: S3Store, key: str) -> NotASavedModelError:
    hint = f"aws s3 ls {quote(store.url(key))}{endpoint_option(store.options.endpoint_url)}"
    return NotASavedModelError(store.url(key), "has nothing to publish", hint=hint)


def _listing(store: S3Store, key: str = "") -> str:
    """Returns the command that lists what is there."""
    return f"aws s3 ls --recursive {quote(store.url(key))}{endpoint_option(store.options.endpoint_url)}"
