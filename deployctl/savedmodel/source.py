"""Tells by content what a file or directory holds: the formats that models are kept in."""

from __future__ import annotations

import contextlib
import mmap
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deployctl.errors import NotASavedModelError, UnknownFormatError, UnreadableExportError

_SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
# The file in which tf.train.Saver and tf.train.Checkpoint name the newest checkpoint of a directory.
_STATE_FILE = "checkpoint"
_CHECKPOINT_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
_TFLITE = b"TFL3"
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
# The first field of a GraphDef is a node (number 1, length-delimited), of a SavedModel its schema version (varint).
_NODE_TAG = 0x0A
_HEAD_BYTES = 16
MAX_READ_BYTES = 32 << 20
_MAX_STATE_BYTES = 1 << 20


class SourceKind(StrEnum):
    """A format."""

    SAVED_MODEL = "saved_model"
    FROZEN_GRAPH = "frozen_graph"
    CHECKPOINT = "checkpoint"
    KERAS = "keras"
    KERAS_H5 = "keras_h5"
    TFLITE = "tflite"


@dataclass(frozen=True, slots=True)
class Source:
    """What was found.

    Attributes:
        path: the file; the directory of a SavedModel; the prefix of a checkpoint, to which no file need be named.
    """

    kind: SourceKind
    path: Path


def identify(path: Path) -> Source:
    """Returns what `path` holds; extensions are not looked at, but for those that a checkpoint's prefix lacks.

    Raises:
        NotASavedModelError: it is a directory without a SavedModel or a checkpoint, or it does not exist.
        UnknownFormatError: it is a file of no known format.
        UnreadableExportError: it cannot be read.
    """
    try:
        found = _checkpoint(path) or (_directory(path) if path.is_dir() else _file(path))
    except OSError as error:
        raise UnreadableExportError(
            str(path), f"cannot be read: {error.strerror or error}", hint=f"ls -ld {path}"
        ) from error
    if found is None:
        raise UnknownFormatError(
            str(path),
            "is no SavedModel, frozen graph, checkpoint, Keras model or TFLite file",
            hint=f"file {path}",
        )
    return found


@contextlib.contextmanager
def content(path: Path) -> Iterator[memoryview]:
    """The bytes of `path` for as long as the context lasts; a large file is mapped and not read.

    Raises:
        UnreadableExportError: it cannot be opened.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise UnreadableExportError(str(path), f"cannot be read: {error.strerror}", hint=f"ls -l {path}") from error
    with stream:
        if stream.seek(0, 2) <= MAX_READ_BYTES:
            stream.seek(0)
            yield memoryview(stream.read())
        else:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                yield view


def _checkpoint(path: Path) -> Source | None:
    """A prefix, or one of the files that begin with it."""
    prefix = path.with_name(_CHECKPOINT_SUFFIX.sub("", path.name)) if path.name else path
    if prefix.with_name(f"{prefix.name}.index").is_file() if prefix.name else False:
        return Source(SourceKind.CHECKPOINT, prefix)
    if prefix.is_file() and _is_table(prefix):
        return Source(SourceKind.CHECKPOINT, prefix)
    return None


def _directory(path: Path) -> Source:
    if any((path / name).exists() for name in _SAVED_MODEL_FILES):
        return Source(SourceKind.SAVED_MODEL, path)
    state = path / _STATE_FILE
    newest = _newest(state) if state.is_file() and state.stat().st_size <= _MAX_STATE_BYTES else None
    # The file may hold the absolute path of where the checkpoint was written first.
    found = (_checkpoint(path / newest) or _checkpoint(path / Path(newest).name)) if newest else None
    if found is None:
        first, second = _SAVED_MODEL_FILES
        raise NotASavedModelError(str(path), f"holds neither {first} nor {second}", hint=f"ls -l {path}")
    return found


def _newest(state: Path) -> str | None:
    named = re.search(r'^model_checkpoint_path: "(.*)"$', state.read_text(errors="replace"), re.MULTILINE)
    return named[1] if named else None


def _file(path: Path) -> Source | None:
    if not path.exists():
        raise NotASavedModelError(str(path), "does not exist", hint=f"ls -ld {path.parent}")
    if path.name in _SAVED_MODEL_FILES:
        return Source(SourceKind.SAVED_MODEL, path.parent)
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(_HDF5):
        return Source(SourceKind.KERAS_H5, path)
    if head[4:8] == _TFLITE:
        return Source(SourceKind.TFLITE, path)
    if head.startswith(_ZIP):
        return Source(SourceKind.KERAS, path) if _is_keras(path) else None
    if head[:1] == bytes([_NODE_TAG]) and _starts_with_a_node(path):
        return Source(SourceKind.FROZEN_GRAPH, path)
    return None


def _is_table(path: Path) -> bool:
    """Whether it is a checkpoint of the first format, one table with the values in it."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(size - len(_TABLE_MAGIC), 0))
        return stream.read() == _TABLE_MAGIC


def _is_keras(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def _starts_with_a_node(path: Path) -> bool:
    from deployctl.savedmodel import wire

    with content(path) as data:
        try:
            first = next(wire.Walker(data, budget=100).fields(0, len(data)))
            return bool(wire.Walker(data, budget=100).last_bytes(*first.content(), 2))
        except (wire.WireError, StopIteration):
            # Cut short within its first node, it is still one to be complained of as a graph.
            return True
