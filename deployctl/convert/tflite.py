"""Writes TFLite files, and runs them in TensorFlow's own interpreter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.export import Export, TaggedExports, write_saved_model
from deployctl.convert.part import Part
from deployctl.domain.saved_model import SERVE_TAG
from deployctl.errors import ConversionError, InvalidRequestError
from deployctl.modelserver.expressions import evaluate, read_array
from deployctl.modelserver.packed import to_json

QUANTIZATIONS = ("float", "dynamic", "float16", "int8")


def write_tflite(
    part: Part, file: Path, work: Path, *, quantization: str, representative: Path | None, seed: int
) -> None:
    """Writes `part` as a TFLite file with the signature serving_default.

    Args:
        part: the model.
        file: to be written.
        work: for what is made on the way.
        quantization: one of QUANTIZATIONS.
        representative: for int8, a `.npz` of inputs by name, rows along the first axis; random rows without it.
        seed: of the random rows.

    Raises:
        ConversionError: TFLite cannot hold the model.
    """
    source = work / "tflite-source"
    write_saved_model([TaggedExports((SERVE_TAG,), [Export("serving_default", part)])], source)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(source), signature_keys=["serving_default"])
    if quantization != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = lambda: _rows(part, representative, seed)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        file.write_bytes(converter.convert())
    except Exception as error:  # noqa: BLE001 - the converter has an error class of its own beside every other
        # MLIR tells where, at length, before it tells what.
        told = re.search(r"'tf\.\w+' op [^\n]*", str(error))
        words = " ".join((told[0] if told else str(error)).split())[:400]
        free = any(spec.shape.rank and spec.shape[0] is None for spec in part.inputs.values())
        more = "; a fixed number of rows, --batch 1, may help" if free else ""
        raise ConversionError(f"TFLite cannot hold this model: {words}{more}", kind="unsupported") from error


def _rows(part: Part, representative: Path | None, seed: int) -> Iterator[dict[str, Any]]:
    from deployctl.convert.samples import samples

    if representative is None:
        for place in range(16):
            yield samples(part.inputs, count=1, seed=seed + place, given={})
        return
    arrays = {name: read_array(representative, name) for name in part.inputs}
    for row in range(min(len(array) for array in arrays.values())):
        yield {
            name: array[row : row + 1].astype(part.inputs[name].dtype.as_numpy_dtype) for name, array in arrays.items()
        }


def run_file(file: Path, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the outputs of a TFLite file for these inputs, by its first signature.

    Raises:
        InvalidRequestError: the inputs do not fit.
    """
    runner = _runner(file)
    details = runner.get_input_details()
    stray = sorted(set(inputs) ^ set(details))
    if stray:
        raise InvalidRequestError(f"the file takes {', '.join(details)}, and {stray[0]!r} is too much or missing")
    given = {name: np.asarray(value, details[name]["dtype"]) for name, value in inputs.items()}
    try:
        return dict(runner(**given))
    except ValueError as error:
        raise InvalidRequestError(f"TFLite says {' '.join(str(error).split())}") from error


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answers "run_tflite": predict with the file at request["path"]."""
    file = Path(request["path"])
    try:
        inputs = _inputs(file, request)
        outputs = run_file(file, inputs)
    except InvalidRequestError as error:
        raise ConversionError(str(error), kind="request", hint=error.hint) from error
    values = {name: to_json(value) for name, value in sorted(outputs.items())}
    only = next(iter(values.values())) if len(values) == 1 else values
    return {"outputs": only, "shapes": {name: list(value.shape) for name, value in outputs.items()}}


def _inputs(file: Path, request: dict[str, Any]) -> dict[str, Any]:
    details = _runner(file).get_input_details()
    found: dict[str, Any] = {}
    for name, text in (request.get("expressions") or {}).items():
        shape = tuple(int(size) for size in details[name]["shape"]) if name in details else None
        found[name] = read_array(Path(text[1:]), name) if text.startswith("@") else evaluate(text, shape)
    value = request.get("instances") if request.get("inputs") is None else request["inputs"]
    if value is not None:
        found |= value if isinstance(value, dict) else {next(iter(details)): np.array(value)}
    return found


def _runner(file: Path) -> Any:
    try:
        interpreter = tf.lite.Interpreter(model_path=str(file))
        keys = list(interpreter.get_signature_list())
    except (ValueError, RuntimeError) as error:
        raise InvalidRequestError(f"{file} is not a whole TFLite file: {error}") from error
    if not keys:
        raise InvalidRequestError(f"{file} has no signature")
    return interpreter.get_signature_runner(keys[0])
