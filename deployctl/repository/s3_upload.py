"""Uploads the files of an export, several at once, large ones in parts."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl.domain.manifest import FileEntry
from deployctl.errors import DeployctlError, ExportChangedError, UnreadableExportError
from deployctl.repository.copying import Work, opened
from deployctl.repository.tree import FoundFile, Tree

if TYPE_CHECKING:
    from deployctl.domain.clock import Observer
    from deployctl.repository.s3_client import S3Store

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html: parts of 8 to 16 MB.
_PART = 8 << 20
_IN_PARTS_FROM = 16 << 20
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_MOST_PARTS = 10_000


@dataclass(slots=True)
class _Multipart:
    """A file that is uploaded in parts; `done` may be in any order."""

    key: str
    upload_id: str
    done: list[dict[str, Any]] = field(default_factory=list)
    adding: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of one file that go out in one request; part 0 is a whole file."""

    file: FoundFile
    start: int
    length: int
    part: int = 0
    upload: _Multipart | None = None


def upload_tree(
    store: S3Store, tree: Tree, entries: tuple[FileEntry, ...], key_of: Callable[[str], str], observer: Observer
) -> None:
    """Uploads `tree`, whose hashed files are `entries`; on failure nothing of it stays that would be paid for unseen.

    Raises:
        ExportChangedError, UnreadableExportError: a file is not what it was when it was hashed, or cannot be read.
        StorageError: the store failed.
    """
    hashes = {entry.path: entry.sha256 for entry in entries}
    work = Work(observer, tree.size_bytes)
    uploads: list[_Multipart] = []

    def send(piece: _Piece) -> None:
        body = _read(tree, piece)
        if piece.upload is None:
            if hashlib.sha256(body).hexdigest() != hashes[piece.file.path]:
                raise ExportChangedError(str(tree.root), f"changed while it was read: {piece.file.path!r}")
            store.put_file(key_of(piece.file.path), body)
        else:
            part = store.put_part(piece.upload.key, piece.upload.upload_id, piece.part, body)
            with piece.upload.adding:
                piece.upload.done.append(part)
        work.advance(piece.length)

    try:
        pieces = _plan(store, tree, key_of, uploads)
        work.each(send, pieces, workers=store.options.connections)
        work.each(lambda each: _finish(store, each), uploads, workers=store.options.connections)
    except BaseException:
        _abort(store, uploads)
        raise


def copy_files(
    store: S3Store,
    entries: tuple[FileEntry, ...],
    origin_of: Callable[[str], tuple[S3Store, str]],
    key_of: Callable[[str], str],
    observer: Observer,
) -> None:
    """Lets the store copy files of another version; `origin_of` says where the file of a path is.

    Raises:
        StorageError: the store failed.
    """
    work = Work(observer, sum(entry.size for entry in entries))

    def copy(entry: FileEntry) -> None:
        origin, key = origin_of(entry.path)
        store.copy(origin, key, key_of(entry.path), size=entry.size)
        work.advance(entry.size)

    largest_first = sorted(entries, key=lambda entry: -entry.size)
    work.each(copy, largest_first, workers=store.options.connections)


def _plan(store: S3Store, tree: Tree, key_of: Callable[[str], str], uploads: list[_Multipart]) -> list[_Piece]:
    """Returns what to send, largest files first, so that the last to finish are small; opens the multipart uploads."""
    pieces: list[_Piece] = []
    for file in sorted(tree.files, key=lambda file: -file.stamp.size):
        size = file.stamp.size
        if size < _IN_PARTS_FROM:
            pieces.append(_Piece(file, 0, size))
            continue
        upload = _Multipart(key_of(file.path), store.start_upload(key_of(file.path)))
        uploads.append(upload)
        length = max(_PART, -(-size // _MOST_PARTS))
        for part, start in enumerate(range(0, size, length), start=1):
            pieces.append(_Piece(file, start, min(length, size - start), part, upload))
    return pieces


def _read(tree: Tree, piece: _Piece) -> bytes:
    """Returns the bytes of a piece; what is there must be the file that was hashed."""
    with opened(tree, piece.file) as source:
        try:
            body = os.pread(source, piece.length, piece.start)
            while len(body) < piece.length:
                more = os.pread(source, piece.length - len(body), piece.start + len(body))
                if not more:
                    break
                body += more
        except OSError as error:
            path = Path(tree.root) / piece.file.path
            raise UnreadableExportError(str(path), f"cannot be read: {error.strerror}") from error
    if len(body) != piece.length:
        raise ExportChangedError(str(tree.root), f"changed while it was read: {piece.file.path!r}")
    return body


def _finish(store: S3Store, upload: _Multipart) -> None:
    store.finish_upload(upload.key, upload.upload_id, sorted(upload.done, key=lambda part: int(part["PartNumber"])))


def _abort(store: S3Store, uploads: list[_Multipart]) -> None:
    for upload in uploads:
        # What cannot be aborted now is found by `gc` and by the bucket's lifecycle rule.
        with suppress(DeployctlError):
            store.abort_upload(upload.key, upload.upload_id)
