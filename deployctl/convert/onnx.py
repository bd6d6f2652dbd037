"""Writes ONNX files with tf2onnx, where that is installed."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from deployctl.convert.part import Part
from deployctl.errors import ConversionError


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
