"""Writes parts as a SavedModel: one signature each, weights that are the same stored once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from deployctl.convert.part import Part, Tensors, VariablePool
from deployctl.domain.saved_model import PREDICT_METHOD


@dataclass(frozen=True)
class Export:
    """One signature to be.

    Attributes:
        key: its name.
        part: what it computes.
    """

    key: str
    part: Part


def write_saved_model(exports: Sequence[Export], directory: Path) -> int:
    """Writes `exports` to `directory` and returns how many bytes of weights were the same as others."""
    pool = VariablePool()
    module = tf.Module()
    signatures = {each.key: _signature(each.part, pool) for each in exports}
    module.variables_once = pool.variables
    module.resources = _distinct([resource for each in exports for resource in each.part.resources])
    tf.saved_model.save(module, str(directory), signatures=signatures)
    if any(each.part.method != PREDICT_METHOD or each.part.defaults for each in exports):
        _declare(directory / "saved_model.pb", exports)
    return pool.saved_bytes


def _signature(part: Part, pool: VariablePool) -> Any:
    bound = pool.adopt(part)

    def call(**inputs: Any) -> Tensors:
        return dict(bound(dict(inputs)))

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in part.inputs.items()}
    return tf.function(call, autograph=False).get_concrete_function(**specs)


def _distinct(resources: list[Any]) -> list[Any]:
    return list({id(resource): resource for resource in resources}.values())


def _declare(file: Path, exports: Sequence[Export]) -> None:
    """Sets what TensorFlow 2 does not write: methods other than Predict, and the values of inputs that are left out."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in model.meta_graphs:
        for each in exports:
            signature = meta_graph.signature_def[each.key]
            signature.method_name = each.part.method
            for name, value in each.part.defaults.items():
                signature.defaults[name].ParseFromString(value)
    file.write_bytes(model.SerializeToString(deterministic=True))


def size_of(path: Path) -> int:
    """Returns the bytes of a file, or of all files of a SavedModel; what is there for deployctl does not count."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files if "assets.extra" not in file.parts)
