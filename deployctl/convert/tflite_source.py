"""Reads TFLite files back into TensorFlow: each operator as the op of TensorFlow that it was made from.

Quantized weights become the numbers that they stand for, and the whole computes in float32, so that answers are those
of the file up to its own rounding. The operators and their options are those of tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.part import Arrays, Part, Tensors
from deployctl.convert.tflite import run_file
from deployctl.convert.tflite_operators import OPERATORS
from deployctl.errors import ConversionError

Function = Callable[[Tensors], dict[str, Any]]


def load_tflite(path: Path, name: str) -> Part:
    """Returns the first signature of the file, or its first subgraph where it has none.

    Raises:
        ConversionError: it is malformed, or has an operator that cannot be read back.
    """
    from tensorflow.lite.python import schema_py_generated as schema

    try:
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        graph = _Graph(schema, model)
    except (struct.error, IndexError, ValueError, TypeError, AttributeError) as error:
        raise ConversionError(f"{path} is not a whole TFLite file: {error}", kind="malformed") from error
    unknown = sorted({code for code, _ in graph.operators if code not in OPERATORS})
    if unknown:
        raise ConversionError(
            f"{path} has operators that cannot be read back: {', '.join(unknown)}", kind="unsupported"
        )

    def reference(arrays: Arrays) -> dict[str, Any]:
        return run_file(path, arrays)

    return Part(
        name=name,
        inputs={given: graph.spec(index, given) for given, index in graph.inputs.items()},
        outputs=tuple(graph.outputs),
        function=graph.run,
        reference=reference,
        variables=tuple(graph.variables.values()),
        source_bytes=path.stat().st_size,
    )


class _Graph:
    """The first subgraph, with weights as variables."""

    def __init__(self, schema: Any, model: Any) -> None:
        self._graph = model.subgraphs[0]
        self._tensors = self._graph.tensors
        self._dtypes = _dtypes(schema)
        self.inputs, self.outputs = _names(model, self._graph)
        names = {code: word for word, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        codes = [max(each.deprecatedBuiltinCode, each.builtinCode) for each in model.operatorCodes]
        self.operators = [(names[codes[each.opcodeIndex]], each) for each in self._graph.operators]
        self._constants: dict[int, Any] = {}
        self.variables: dict[int, Any] = {}
        for index, tensor in enumerate(self._tensors):
            data = model.buffers[tensor.buffer].data if tensor.buffer else None
            if data is not None and len(data):
                self._keep(index, self._value(tensor, data))

    def spec(self, index: int, name: str) -> Any:
        """Returns the type and shape of an input; a file's shapeSignature says which axes are free."""
        tensor = self._tensors[index]
        axes = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
        shape = [None if size < 0 else int(size) for size in (axes if axes is not None else [])]
        return tf.TensorSpec(shape, self._dtypes[tensor.type], name=name)

    def run(self, values: Tensors) -> dict[str, Any]:
        """Returns the outputs for these inputs."""
        held: dict[int, Any] = {**self._constants, **self.variables}
        for name, index in self.inputs.items():
            held[index] = self._real(index, values[name])
        for code, operator in self.operators:
            given = [held[index] if index >= 0 else None for index in operator.inputs]
            results = OPERATORS[code](given, operator.builtinOptions)
            several = results if isinstance(results, list | tuple) else [results]
            held.update(zip((int(index) for index in operator.outputs), several, strict=True))
        return {name: self._stored(index, held[index]) for name, index in self.outputs.items()}

    def _keep(self, index: int, value: Any) -> None:
        if value.dtype.kind == "f" and value.size > 1:
            self.variables[index] = tf.Variable(value, trainable=False, name=f"tensor_{index}")
        else:
            # Shapes, axes and the like have to be known when the graph is made.
            self._constants[index] = value

    def _value(self, tensor: Any, data: Any) -> Any:
        shape = tensor.shape if tensor.shape is not None else []
        dtype = self._dtypes[tensor.type]
        value = np.frombuffer(bytes(data), dtype.as_numpy_dtype).reshape(shape)
        scale, zero = _scaling(tensor, value.ndim)
        if scale is not None:
            return ((value.astype(np.float32) - zero) * scale).astype(np.float32)
        return value.astype(np.float32) if dtype == tf.float16 else value

    def _real(self, index: int, value: Any) -> Any:
        """The numbers that a quantized input stands for."""
        scale, zero = _scaling(self._tensors[index], 0)
        return value if scale is None else (tf.cast(value, tf.float32) - zero) * scale

    def _stored(self, index: int, value: Any) -> Any:
        """An output as its type has it: rounded, where that is quantized."""
        tensor = self._tensors[index]
        scale, zero = _scaling(tensor, 0)
        dtype = self._dtypes[tensor.type]
        if scale is None:
            return tf.cast(value, dtype)
        limits = np.iinfo(dtype.as_numpy_dtype)
        return tf.cast(tf.clip_by_value(tf.round(value / scale) + zero, limits.min, limits.max), dtype)


def _scaling(tensor: Any, rank: int) -> tuple[Any, Any]:
    """Scale and zero point, shaped to be applied along the axis that they are for."""
    found = tensor.quantization
    if found is None or found.scale is None or not len(found.scale):
        return None, None
    scale = np.asarray(found.scale, np.float32)
    zero = np.zeros(len(scale)) if found.zeroPoint is None else np.asarray(found.zeroPoint)
    if len(scale) == 1:
        return scale[0], np.float32(zero[0])
    shape = [1] * rank
    shape[found.quantizedDimension] = len(scale)
    return scale.reshape(shape), zero.astype(np.float32).reshape(shape)


def _names(model: Any, graph: Any) -> tuple[dict[str, int], dict[str, int]]:
    if model.signatureDefs:
        signature = model.signatureDefs[0]
        sides = (signature.inputs, signature.outputs)
        inputs, outputs = ({each.name.decode(): int(each.tensorIndex) for each in side} for side in sides)
        return inputs, outputs
    inputs, outputs = (
        {_plain(graph.tensors[index].name.decode()): int(index) for index in side}
        for side in (graph.inputs, graph.outputs)
    )
    return inputs, outputs


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.partition(":")[0])


def _dtypes(schema: Any) -> Mapping[int, Any]:
    known = ("FLOAT32", "FLOAT16", "FLOAT64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT32", "BOOL")
    return {getattr(schema.TensorType, name): tf.as_dtype(name.lower()) for name in known}
