"""Reads SavedModel directories with protobuf alone."""

from __future__ import annotations

import contextlib
import mmap
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from google.protobuf.message import DecodeError

from deployctl.domain.saved_model import MetaGraph, SavedModel, TensorSpec
from deployctl.errors import (
    AssetMissingError,
    MalformedSavedModelError,
    NotASavedModelError,
    UnreadableExportError,
    UnsafeExportError,
    VariablesMissingError,
    VariablesTruncatedError,
)
from deployctl.savedmodel import wire
from deployctl.savedmodel.bundle import Bundle, read_bundle
from deployctl.savedmodel.interface import SavedModelReader
from deployctl.savedmodel.meta_graph import read_meta_graph
from deployctl.savedmodel.text import MAX_TEXT_BYTES, TextError, saved_model_bytes

_BINARY, _TEXT = "saved_model.pb", "saved_model.pbtxt"
_VARIABLES = Path("variables", "variables")
# Field numbers of saved_model.proto.
_SCHEMA_VERSION, _META_GRAPHS = 1, 2
# Up to here a file is read; a larger one is mapped, so that its constants are neither read nor copied. A mapped
# file that shrinks while it is read would end the process, hence not all of them.
MAX_READ_BYTES = 32 << 20


class ProtobufSavedModelReader(SavedModelReader):
    """Reads `saved_model.pb` and `.pbtxt` and the index of `variables/`, without TensorFlow."""

    def read(self, path: Path) -> SavedModel:
        """As the interface says; the file named .pb is taken where both are there, as TensorFlow does."""
        file = _saved_model_file(path)
        try:
            with _content(file) as data:
                version, meta_graphs = _parse(data)
        except (wire.WireError, DecodeError, UnicodeDecodeError, TextError) as error:
            raise MalformedSavedModelError(
                str(file), f"is not a whole SavedModel: {error}", hint=f"sha256sum {file}"
            ) from error
        except OSError as error:
            raise _unreadable(file, error) from error
        if not meta_graphs:
            raise MalformedSavedModelError(str(file), "holds no MetaGraph", hint=f"ls -l {file}")
        return SavedModel(
            format=file.suffix.removeprefix("."),
            schema_version=version,
            meta_graphs=meta_graphs,
            checkpoint=_checkpoint(path),
        )

    def check_complete(self, path: Path, model: SavedModel) -> None:
        """As the interface says."""
        prefix = path / _VARIABLES
        try:
            bundle = read_bundle(prefix)
        except VariablesMissingError:
            # No index is what TensorFlow itself takes for "no variables".
            if any(graph.restores_variables for graph in model.meta_graphs):
                raise
        else:
            bundle.check_shards()
            for graph in model.meta_graphs:
                _check_keys(bundle, graph)
        for graph in model.meta_graphs:
            for asset in graph.assets:
                _check_asset(path / "assets", asset)


def _saved_model_file(path: Path) -> Path:
    for file in (path / _BINARY, path / _TEXT):
        try:
            found = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _unreadable(file, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableExportError(str(file), "is not a regular file", hint=f"ls -ld {file}")
        return file
    if not path.exists():
        raise NotASavedModelError(str(path), "does not exist", hint=f"ls -ld {path}")
    raise NotASavedModelError(str(path), f"holds neither {_BINARY} nor {_TEXT}", hint=f"ls -l {path}")


def _unreadable(file: Path, error: OSError) -> UnreadableExportError:
    return UnreadableExportError(str(file), f"cannot be read: {error.strerror}", hint=f"ls -l {file}")


@contextlib.contextmanager
def _content(file: Path) -> Iterator[memoryview]:
    """The wire format of the SavedModel in `file`, for as long as the context lasts."""
    with file.open("rb") as stream:
        if file.name == _TEXT:
            yield memoryview(saved_model_bytes(stream.read(MAX_TEXT_BYTES + 1)))
        elif stream.seek(0, 2) <= MAX_READ_BYTES:
            stream.seek(0)
            yield memoryview(stream.read())
        else:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
                yield view


def _parse(data: memoryview) -> tuple[int, tuple[MetaGraph, ...]]:
    version, meta_graphs, walker = 0, [], wire.Walker(data)
    for field in walker.fields(0, len(data)):
        if field.number == _META_GRAPHS:
            meta_graphs.append(read_meta_graph(walker, *field.content()))
        elif field.number == _SCHEMA_VERSION and field.wire_type == wire.VARINT:
            version = field.value
    return version, tuple(meta_graphs)


def _checkpoint(path: Path) -> dict[str, TensorSpec] | None:
    """What the index lists; None without one, or with one that `check_complete` would refuse."""
    try:
        bundle = read_bundle(path / _VARIABLES)
    except (VariablesMissingError, VariablesTruncatedError):
        return None
    return {key: entry.spec for key, entry in bundle.tensors.items()}


def _check_keys(bundle: Bundle, graph: MetaGraph) -> None:
    missing = [key for key in graph.restored_keys if key not in bundle.tensors]
    if missing:
        index = f"{bundle.prefix}.index"
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise VariablesMissingError(
            index, f"lists no {missing[0]!r}{others}, which the graph restores", hint=f"sha256sum {index}"
        )


def _check_asset(folder: Path, name: str) -> None:
    parts = PurePosixPath(name)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\0" in name:
        raise UnsafeExportError(str(folder), f"would be left by the asset {name!r}", hint=f"ls -l {folder}")
    try:
        found = (folder / parts).is_file()
    except OSError as error:
        raise _unreadable(folder / parts, error) from error
    if not found:
        raise AssetMissingError(str(folder / parts), "is listed as an asset and absent", hint=f"ls -lR {folder}")
