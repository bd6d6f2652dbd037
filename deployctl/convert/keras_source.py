"""Loads Keras models, `.keras` and `.h5`, with Keras' safe mode kept on."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.keras_file import refuse_lambdas
from deployctl.convert.part import Part, Tensors
from deployctl.errors import ConversionError


def load_keras(path: Path, name: str, *, custom: Sequence[str] = (), allow_lambda: Sequence[str] = ()) -> Part:
    """Returns the model in `path`.

    Args:
        path: a `.keras` or `.h5` file.
        name: of the part.
        custom: objects that the model needs, each "package.module:name", imported from the current directory too.
        allow_lambda: names of the Lambda layers whose code, which is in the file, may run.

    Raises:
        ConversionError: it is malformed, needs an object that is not given, or has a Lambda that is not allowed.
    """
    refuse_lambdas(path, allow_lambda)
    model = _loaded(path, {word.rpartition(":")[2]: import_object(word) for word in custom}, safe=not allow_lambda)
    if not getattr(model, "inputs", None):
        raise ConversionError(f"{path} has no inputs of known shape: call the model once and save it again")
    inputs = {
        given: tf.TensorSpec(tensor.shape, tensor.dtype, name=given)
        for given, tensor in zip(_input_names(model), model.inputs, strict=True)
    }
    outputs = _output_names(model)

    def function(values: Tensors) -> dict[str, Any]:
        return _called(model, [values[given] for given in inputs], outputs)

    def reference(arrays: Mapping[str, Any]) -> dict[str, Any]:
        answer = _called(model, [tf.constant(arrays[given]) for given in inputs], outputs)
        return {given: np.asarray(value) for given, value in answer.items()}

    return Part(
        name=name,
        inputs=inputs,
        outputs=outputs,
        function=function,
        reference=reference,
        resources=tuple(_resources(model)),
        variables=tuple(variable._value for variable in model.variables),
        source_bytes=path.stat().st_size,
    )


def import_object(word: str) -> Any:
    """Returns the object that "package.module:name" names.

    Raises:
        ConversionError: there is none.
    """
    module, colon, name = word.partition(":")
    if not colon or not module or not name:
        raise ConversionError(f"{word!r} is not package.module:name", kind="usage")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConversionError(f"{word!r} cannot be imported: {error}", kind="usage") from error


def _loaded(path: Path, custom: Mapping[str, Any], *, safe: bool) -> Any:
    import keras

    suffix = path.suffix if path.suffix in (".keras", ".h5", ".hdf5") else None
    if suffix is None:
        raise ConversionError(f"{path} is a Keras model and has to be named .keras or .h5", kind="usage")
    try:
        return keras.models.load_model(path, custom_objects=dict(custom), compile=False, safe_mode=safe)
    except (TypeError, ValueError, KeyError, ImportError, AttributeError, OSError) as error:
        unknown = re.search(r"(?:Could not locate|Unknown) (?:class|layer|function|object)?[: ]*'?(\w+)'?", str(error))
        if unknown:
            raise ConversionError(
                f"{path} uses {unknown[1]}, which Keras does not know",
                kind="unknown_object",
                hint=f"deployctl convert keras {path} --custom PACKAGE.MODULE:{unknown[1]} --out DIR",
            ) from error
        sentence = " ".join(str(error).split())[:400]
        raise ConversionError(f"{path} cannot be loaded by Keras: {sentence}", kind="malformed") from error


def _input_names(model: Any) -> list[str]:
    return _distinct([tensor.name for tensor in model.inputs])


def _output_names(model: Any) -> tuple[str, ...]:
    import keras

    # A Sequential model has a functional one inside.
    model = getattr(model, "_functional", None) or model
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, dict):
        paths = keras.tree.pack_sequence_as(structure, list(range(len(model.outputs))))
        ordered = sorted(paths.items(), key=lambda item: item[1])
        if len(ordered) == len(model.outputs):
            return tuple(name for name, _ in ordered)
    names = getattr(model, "output_names", None) or [f"output_{place}" for place in range(len(model.outputs))]
    return tuple(_distinct(list(names)))


def _distinct(names: list[str]) -> list[str]:
    """The names without characters that no client could write, and with a number where two are the same."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"\W+", "_", name)
        count = sum(each == plain or each.startswith(f"{plain}_") for each in found)
        found.append(f"{plain}_{count}" if plain in found else plain)
    return found


def _called(model: Any, values: list[Any], outputs: tuple[str, ...]) -> dict[str, Any]:
    import keras

    structure = getattr(getattr(model, "_functional", None) or model, "_inputs_struct", None)
    given = keras.tree.pack_sequence_as(structure, values) if structure is not None else values[0]
    return dict(zip(outputs, keras.tree.flatten(model(given, training=False)), strict=True))


def _resources(model: Any) -> list[Any]:
    """Tables of preprocessing layers (StringLookup, TextVectorization, …)."""
    from tensorflow.python.trackable.resource import CapturableResource

    return [each for each in tf.train.TrackableView(model).descendants() if isinstance(each, CapturableResource)]
