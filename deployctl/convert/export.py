"""Writes parts as a SavedModel: one signature each, weights that are the same stored once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from deployctl.convert.part import Part, Tensors, VariablePool
from deployctl.domain.saved_model import PREDICT_METHOD, SERVE_TAG
from deployctl.errors import ConversionError
from deployctl.savedmodel.bundle import read_bundle
from deployctl.savedmodel.meta_graph import OBJECT_GRAPH_KEY

_FILE = "saved_model.pb"


@dataclass(frozen=True)
class Export:
    """One signature to be.

    Attributes:
        key: its name.
        part: what it computes.
    """

    key: str
    part: Part


@dataclass(frozen=True)
class TaggedExports:
    """One MetaGraph to be.

    Attributes:
        tags: what it is loaded by.
        exports: its signatures.
    """

    tags: tuple[str, ...]
    exports: Sequence[Export]


def write_saved_model(graphs: Sequence[TaggedExports], directory: Path) -> int:
    """Writes `graphs` to `directory` and returns how many bytes of weights were the same as others.

    All of them have the same variables and files, each with signatures of its own. TensorFlow 2 writes one MetaGraph,
    tagged "serve", so several are written one by one and put into one file, as TensorFlow 1 did.

    Raises:
        ConversionError: TensorFlow does not store their weights alike.
    """
    pool = VariablePool()
    module = tf.Module()
    signatures = [{each.key: _signature(each.part, pool) for each in graph.exports} for graph in graphs]
    module.variables_once = pool.variables
    module.resources = _distinct(
        [each for graph in graphs for export in graph.exports for each in export.part.resources]
    )
    tf.saved_model.save(module, str(directory), signatures=signatures[0])
    if any(graph.tags != (SERVE_TAG,) for graph in graphs):
        _put_together(module, signatures, [graph.tags for graph in graphs], directory)
    exports = [each for graph in graphs for each in graph.exports]
    if any(each.part.method != PREDICT_METHOD or each.part.defaults for each in exports):
        _declare(directory / _FILE, graphs)
    return pool.saved_bytes


def _put_together(
    module: Any, signatures: Sequence[Mapping[str, Any]], tags: Sequence[tuple[str, ...]], directory: Path
) -> None:
    """Adds a MetaGraph for each of `signatures` but the first to the SavedModel of `module` in `directory`."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((directory / _FILE).read_bytes())
    for index, more in enumerate(signatures[1:], start=1):
        other = directory.with_name(f"{directory.name}-{index}")
        tf.saved_model.save(module, str(other), signatures=dict(more))
        if _stored(other) != _stored(directory):
            raise ConversionError("TensorFlow does not store the weights of the MetaGraphs alike")
        model.meta_graphs.extend(saved_model_pb2.SavedModel.FromString((other / _FILE).read_bytes()).meta_graphs)
        shutil.rmtree(other)
    for meta_graph, words in zip(model.meta_graphs, tags, strict=True):
        meta_graph.meta_info_def.tags[:] = words
        if len(tags) > 1:
            # Python's objects are restored of one MetaGraph alone (tensorflow/python/saved_model/load.py).
            meta_graph.ClearField("object_graph_def")
    (directory / _FILE).write_bytes(model.SerializeToString(deterministic=True))
    # It is of the file as it was.
    (directory / "fingerprint.pb").unlink(missing_ok=True)


def _stored(directory: Path) -> Any:
    tensors = read_bundle(directory / "variables" / "variables").tensors
    return {key: entry for key, entry in tensors.items() if key != OBJECT_GRAPH_KEY}


def _signature(part: Part, pool: VariablePool) -> Any:
    bound = pool.adopt(part)

    def call(**inputs: Any) -> Tensors:
        return dict(bound(dict(inputs)))

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in part.inputs.items()}
    return tf.function(call, autograph=False).get_concrete_function(**specs)


def _distinct(resources: list[Any]) -> list[Any]:
    return list({id(resource): resource for resource in resources}.values())


def _declare(file: Path, graphs: Sequence[TaggedExports]) -> None:
    """Sets what TensorFlow 2 does not write: methods other than Predict, and the values of inputs that are left out."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph, graph in zip(model.meta_graphs, graphs, strict=True):
        for each in graph.exports:
            signature = meta_graph.signature_def[each.key]
            signature.method_name = each.part.method
            for name, value in each.part.defaults.items():
                signature.defaults[name].ParseFromString(value)
    file.write_bytes(model.SerializeToString(deterministic=True))


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files of a SavedModel; what is there for deployctl does not count."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files if "assets.extra" not in file.parts)
