"""Writes the graph of a SavedModel, a frozen graph or a checkpoint's `.meta` file as protocol buffer text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from deployctl.errors import MalformedGraphError, NotFoundError
from deployctl.protos.saved_model_pb2 import GraphDef, MetaGraphDef, SavedModel
from deployctl.savedmodel.source import Source, SourceKind, content

if TYPE_CHECKING:
    from google.protobuf.message import Message


def pbtxt(source: Source) -> str:
    """Returns the message in text format; debug information, which nothing here reads, is left out.

    Raises:
        NotFoundError: the source holds no graph.
        MalformedGraphError: its file does not parse.
    """
    file, message = _file(source)
    if file.suffix == ".pbtxt":
        return file.read_text(encoding="utf-8")
    with content(file) as data:
        try:
            message.ParseFromString(bytes(data))
        except DecodeError as error:
            raise MalformedGraphError(str(file), f"does not parse: {error}", hint=f"sha256sum {file}") from error
    return text_format.MessageToString(message)


def _file(source: Source) -> tuple[Path, Message]:
    path = source.path
    if source.kind is SourceKind.SAVED_MODEL:
        binary = path / "saved_model.pb"
        return (binary if binary.exists() else path / "saved_model.pbtxt"), SavedModel()
    if source.kind is SourceKind.FROZEN_GRAPH:
        return path, GraphDef()
    meta = path.with_name(f"{path.name}.meta")
    if source.kind is SourceKind.CHECKPOINT and meta.is_file():
        return meta, MetaGraphDef()
    raise NotFoundError(f"{path} holds no TensorFlow graph that could be written as text")
