"""Writes ONNX files with tf2onnx, where that is installed, and runs them with what runs such files here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.part import Part
from deployctl.errors import ConversionError

Runner = Callable[[Mapping[str, Any]], dict[str, Any]]


class NotRunError(Exception):
    """An ONNX file cannot be run here; the words say why."""


def write_onnx(part: Part, file: Path) -> None:
    """Writes `part` as an ONNX model.

    Raises:
        ConversionError: tf2onnx is not installed.
    """
    try:
        import tf2onnx
    except ImportError as error:
        raise ConversionError(
            "tf2onnx, which writes ONNX files, is not installed", kind="missing", hint="pip install tf2onnx"
        ) from error
    names = sorted(part.inputs)
    specs = [tf.TensorSpec(part.inputs[name].shape, part.inputs[name].dtype, name=name) for name in names]
    function = tf.function(lambda *values: dict(part.function(dict(zip(names, values, strict=True)))))
    tf2onnx.convert.from_function(function, input_signature=specs, output_path=str(file))


def run_onnx(file: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the outputs of an ONNX file, by ONNX Runtime, or else by the reference evaluator of the package onnx.

    Raises:
        NotRunError: neither is installed, or the one that is cannot run the file.
    """
    name, run = _runner(file)
    given = {key: _with_text(value) for key, value in inputs.items()}
    try:
        return {key: _with_bytes(value) for key, value in run(given).items()}
    # Every runtime and every op of one has errors of its own, and none is about the conversion's answers.
    except Exception as error:
        raise NotRunError(f"{name} cannot run the file: {' '.join(str(error).split())[:200]}") from error


def _runner(file: Path) -> tuple[str, Runner]:
    try:
        import onnxruntime
    except ImportError:
        return "the package onnx", _by_reference(file)

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return "onnxruntime", run


def _by_reference(file: Path) -> Runner:
    try:
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise NotRunError("neither onnxruntime nor onnx is installed: pip install onnxruntime") from error

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        evaluator = ReferenceEvaluator(str(file))
        return dict(zip(evaluator.output_names, evaluator.run(None, dict(inputs)), strict=True))

    return run


def _with_text(value: Any) -> Any:
    """Strings as runtimes of ONNX take them; `_with_bytes` goes back."""
    if np.asarray(value).dtype.kind != "O":
        return np.asarray(value)
    flat = [each.decode("utf-8", "surrogateescape") if isinstance(each, bytes) else each for each in np.ravel(value)]
    return np.array(flat, dtype=object).reshape(np.shape(value))


def _with_bytes(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in "OU":
        return array
    flat = [each.encode("utf-8", "surrogateescape") if isinstance(each, str) else each for each in np.ravel(array)]
    return np.array(flat, dtype=object).reshape(array.shape)
