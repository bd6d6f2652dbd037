"""Reads `.meta` files, MetaGraphDefs that tf.train.Saver writes beside a checkpoint: its inputs and outputs."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError

from deployctl.errors import MalformedGraphError
from deployctl.savedmodel import wire
from deployctl.savedmodel.frozen import FrozenGraph, frozen_graph
from deployctl.savedmodel.source import content

# Field number of meta_graph.proto.
_GRAPH = 2


def read_meta_file(path: Path) -> FrozenGraph:
    """Returns what the graph in `path` declares; its outputs are the tensors that nothing but training takes.

    Raises:
        MalformedGraphError: it is not a whole MetaGraphDef.
        UnreadableExportError: it cannot be read.
    """
    with content(path) as data:
        try:
            for start, stop in wire.Walker(data).messages(0, len(data), _GRAPH):
                return frozen_graph(data[start:stop])
        except (wire.WireError, DecodeError, UnicodeDecodeError) as error:
            raise MalformedGraphError(
                str(path), f"is not a whole graph definition: {error}", hint=f"sha256sum {path}"
            ) from error
    raise MalformedGraphError(str(path), "holds no graph", hint=f"ls -l {path}")
