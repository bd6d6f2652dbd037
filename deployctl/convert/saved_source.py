"""Loads SavedModels of both versions of TensorFlow, one part for each signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.graph_source import load_session
from deployctl.convert.part import Arrays, Part, Tensors
from deployctl.domain.saved_model import PREDICT_METHOD, Signature
from deployctl.errors import ConversionError
from deployctl.protos.saved_model_pb2 import SavedModel
from deployctl.savedmodel.reader import ProtobufSavedModelReader


def load_saved_model(
    path: Path, name: str, *, tags: Sequence[str] = ("serve",), signature: str | None = None
) -> dict[str, Part]:
    """Returns the signatures of the MetaGraph `tags` as parts, by key; only `signature` where it is given.

    Raises:
        ConversionError: there is no such MetaGraph or signature, or none has tensors for inputs and outputs.
    """
    model = ProtobufSavedModelReader().read(path)
    declared = model.tagged(*tags)
    if declared is None:
        found = ", ".join("{" + ",".join(each.tags) + "}" for each in model.meta_graphs)
        raise ConversionError(f"{path} has no MetaGraph tagged {','.join(tags)}, only {found}", kind="usage")
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if not _has_objects(path):
        return _of_tensorflow_1(path, name, tags, declared.callable_signatures, signature, size)
    loaded = _loaded(path, tags)
    keys = list(loaded.signatures)
    wanted = [signature] if signature is not None else keys
    if not keys or any(key not in keys for key in wanted):
        raise ConversionError(
            f"{path} has no signature {signature or ''!r}, only {', '.join(keys) or 'none'}", kind="usage"
        )
    descendants = tf.train.TrackableView(loaded).descendants()
    variables = tuple(each for each in descendants if isinstance(each, tf.Variable))
    resources = tuple(each for each in descendants if _is_resource(each))
    return {
        key: replace(
            _part(loaded, key, name, variables=variables, resources=resources, size=size),
            method=declared.signatures[key].method or PREDICT_METHOD,
        )
        for key in wanted
        if _plain(loaded.signatures[key])
    }


def _has_objects(path: Path) -> bool:
    """Whether TensorFlow 2 wrote it: then it says what its variables and functions are in Python's terms."""
    binary = path / "saved_model.pb"
    if not binary.is_file():
        return "object_graph_def" in (path / "saved_model.pbtxt").read_text(encoding="utf-8")
    model = SavedModel.FromString(binary.read_bytes())
    return any(meta_graph.HasField("object_graph_def") for meta_graph in model.meta_graphs)


def _of_tensorflow_1(
    path: Path, name: str, tags: Sequence[str], declared: Mapping[str, Signature], wanted: str | None, size: int
) -> dict[str, Part]:
    usable = {key for key, each in declared.items() if all(spec.tensor for spec in each.inputs.values())}
    keys = [wanted] if wanted is not None else sorted(usable)
    if not keys or keys[0] not in usable:
        raise ConversionError(f"{path} has no signature {wanted!r}, only {', '.join(sorted(usable))}", kind="usage")
    return {
        key: replace(load_session(path, tags, key).part(name, size), method=declared[key].method or PREDICT_METHOD)
        for key in keys
    }


def _loaded(path: Path, tags: Sequence[str]) -> Any:
    try:
        return tf.saved_model.load(str(path), tags=list(tags))
    except (OSError, ValueError, RuntimeError, KeyError, tf.errors.OpError) as error:
        words = " ".join(str(error).split())[:400]
        raise ConversionError(f"{path} cannot be loaded: {words}", kind="malformed") from error


def _part(
    loaded: Any, key: str, name: str, *, variables: tuple[Any, ...], resources: tuple[Any, ...], size: int
) -> Part:
    function = loaded.signatures[key]
    inputs = dict(function.structured_input_signature[1])

    def call(values: Tensors) -> dict[str, Any]:
        return dict(function(**values))

    def reference(arrays: Arrays) -> dict[str, Any]:
        given = {given: tf.constant(value, inputs[given].dtype) for given, value in arrays.items()}
        return {given: np.asarray(value) for given, value in function(**given).items()}

    return Part(
        name=name,
        inputs=inputs,
        outputs=tuple(sorted(function.structured_outputs)),
        function=call,
        reference=reference,
        # The loaded object is kept alive by its functions; what is saved is only what they need.
        resources=resources,
        variables=variables,
        source_bytes=size,
    )


def _is_resource(each: Any) -> bool:
    from tensorflow.python.trackable.asset import Asset
    from tensorflow.python.trackable.resource import CapturableResource

    return isinstance(each, CapturableResource | Asset)


def _plain(function: Any) -> bool:
    specs = [*function.structured_input_signature[1].values(), *function.structured_outputs.values()]
    return all(isinstance(spec, tf.TensorSpec | tf.Tensor) for spec in specs)
