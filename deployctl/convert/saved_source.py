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
    definition = _definition(path, tags)
    # TensorFlow 2 says what its variables and functions are in Python's terms.
    if not definition.HasField("object_graph_def"):
        parts = _of_tensorflow_1(path, name, tags, declared.callable_signatures, signature, size)
        return _with_defaults(parts, definition)
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
    parts = {
        key: replace(
            _part(loaded, key, name, variables=variables, resources=resources, size=size),
            method=declared.signatures[key].method or PREDICT_METHOD,
        )
        for key in wanted
        if _plain(loaded.signatures[key])
    }
    return _with_defaults(parts, definition)


def _definition(path: Path, tags: Sequence[str]) -> Any:
    """The MetaGraphDef `tags` as TensorFlow reads it."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    binary = path / "saved_model.pb"
    if binary.is_file():
        model = saved_model_pb2.SavedModel.FromString(binary.read_bytes())
    else:
        text = (path / "saved_model.pbtxt").read_text(encoding="utf-8")
        model = text_format.Parse(text, saved_model_pb2.SavedModel())
    return next(each for each in model.meta_graphs if set(each.meta_info_def.tags) == set(tags))


def _with_defaults(parts: Mapping[str, Part], definition: Any) -> dict[str, Part]:
    """The parts with the values of the inputs that requests may leave out."""
    found = {}
    for key, part in parts.items():
        given = definition.signature_def[key].defaults
        defaults = {name: given[name].SerializeToString(deterministic=True) for name in given if name in part.inputs}
        found[key] = replace(part, defaults=defaults)
    return found


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
