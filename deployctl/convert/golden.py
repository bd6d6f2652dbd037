"""Asks the sources of a conversion, and records the answers: what parity is held to, and the golden requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.convert.export import Export
from deployctl.convert.part import Part
from deployctl.convert.request import ConversionRequest, Result
from deployctl.convert.samples import samples
from deployctl.domain.saved_model import CLASSIFY_METHOD, DEFAULT_SIGNATURE, PREDICT_METHOD, REGRESS_METHOD
from deployctl.errors import ConversionError
from deployctl.modelserver.dtypes import BY_NAME, dtype_of
from deployctl.modelserver.packed import pack, to_json

# A recorded request is replayed at promotion and read by people; one of an image of 250 x 250 pixels is 2 MB of text.
_MAX_RECORDED_ELEMENTS = 200_000


@dataclass(frozen=True)
class Call:
    """One request to one signature, and what the source answers.

    Attributes:
        inputs, outputs: arrays by name; strings are object arrays of bytes.
    """

    signature: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    rtol: float
    atol: float

    @property
    def elements(self) -> int:
        """How many numbers and strings it holds."""
        return sum(np.size(value) for side in (self.inputs, self.outputs) for value in side.values())

    def document(self, coded: Callable[[str, Any], Any]) -> dict[str, Any]:
        """Returns it as JSON values, each array as `coded` has it."""
        return {
            "signature": self.signature,
            "inputs": {name: coded(name, value) for name, value in self.inputs.items()},
            "outputs": {name: coded(name, value) for name, value in self.outputs.items()},
            "rtol": self.rtol,
            "atol": self.atol,
        }


def ask(request: ConversionRequest, exports: Sequence[Export], words: Sequence[str]) -> list[Call]:
    """Returns a call for each signature, answered by the sources.

    Args:
        request: says how inputs are made.
        exports: the signatures.
        words: what string inputs are made of.

    Raises:
        ConversionError: the source refuses the inputs, or gives more outputs or other ones than it declares.
    """
    main = main_part(exports)
    calls = []
    for export in exports:
        inputs = _inputs(request, export, main, words)
        try:
            outputs = export.part.reference(inputs)
        except (tf.errors.OpError, ValueError) as error:
            sentence = " ".join(str(error).split())[:300]
            raise ConversionError(
                f"the source does not answer random inputs of its signature {export.key!r}: {sentence}; give some with "
                f"--sample {next(iter(export.part.inputs), 'NAME')}=VALUE",
                kind="usage",
            ) from error
        values = {name: np.asarray(value) for name, value in sorted(outputs.items())}
        calls.append(Call(export.key, inputs, values, request.rtol, request.atol))
    return calls


def main_part(exports: Sequence[Export]) -> Part | None:
    """Returns the model that tf.Examples are made for: the default Predict signature, or the first one."""
    predicting = [each for each in exports if each.part.method == PREDICT_METHOD]
    named = [each for each in predicting if each.key == DEFAULT_SIGNATURE]
    return next((each.part for each in named or predicting), None)


def _inputs(request: ConversionRequest, export: Export, main: Part | None, words: Sequence[str]) -> dict[str, Any]:
    over_examples = export.part.method in (CLASSIFY_METHOD, REGRESS_METHOD) and _takes_strings(export.part)
    part = main if over_examples and main is not None else export.part
    given = {name: text for name, text in request.sample.items() if name in part.inputs or part is main}
    made = samples(part.inputs, count=request.samples, seed=request.seed, given=given, words=words)
    for name, size in request.images.items():
        if name in made and name not in given:
            made[name] = _pictures(request.samples, size, request.seed)
    return {next(iter(export.part.inputs)): _examples(made)} if part is not export.part else made


def _takes_strings(part: Part) -> bool:
    return len(part.inputs) == 1 and all(spec.dtype == tf.string for spec in part.inputs.values())


def _pictures(count: int, size: str, seed: int) -> Any:
    height, _, width = (size or "16x16").partition("x")
    generator = np.random.default_rng(seed)
    pictures = np.empty(count, dtype=object)
    for row in range(count):
        pixels = generator.integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)
        pictures[row] = tf.io.encode_png(pixels).numpy()
    return pictures


def _examples(arrays: Mapping[str, Any]) -> Any:
    """One serialized tf.Example for each row."""
    count = len(next(iter(arrays.values())))
    examples = np.empty(count, dtype=object)
    for row in range(count):
        # A slice stays an array, and strings bytes of any kind, where each example has but one.
        features = {name: _feature(array[row : row + 1]) for name, array in arrays.items()}
        examples[row] = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
            deterministic=True
        )
    return examples


def _feature(value: Any) -> Any:
    flat = value.ravel().tolist()
    if value.dtype.kind == "O":
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=flat))
    if value.dtype.kind in "iub":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(each) for each in flat]))
    return tf.train.Feature(float_list=tf.train.FloatList(value=flat))


def record(file: Path, calls: Sequence[Call]) -> int:
    """Writes the calls as the version's golden requests, one JSON object a line; returns how many.

    Values are as in the REST API's column format. Calls too large to be read or replayed are left out, and those with
    types that JSON has no numbers for.
    """
    kept = [call for call in calls if call.elements <= _MAX_RECORDED_ELEMENTS and _has_json(call)]
    if kept:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(call.document(_as_rest) | {"dtypes": _types(call.outputs)}) for call in kept]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(kept)


def _has_json(call: Call) -> bool:
    values = [*call.inputs.values(), *call.outputs.values()]
    return all(value.dtype.kind in "biufOSU" and _plain(value) is value for value in values)


def _plain(value: Any) -> Any:
    """The array as `modelserver.dtypes` has its type; TensorFlow has types of its own for what NumPy lacks."""
    known = BY_NAME.get(value.dtype.name)
    return value.view(known.numpy) if known is not None and known.numpy.names is not None else value


def _types(outputs: Mapping[str, Any]) -> dict[str, str]:
    return {name: "string" if value.dtype.kind in "OSU" else dtype_of(value).name for name, value in outputs.items()}


def _as_rest(name: str, value: Any) -> Any:
    return to_json(value, as_bytes=name.endswith("_bytes"))


def write_calls(file: Path, calls: Sequence[Call], result: Result) -> None:
    """Writes the calls exactly, for the comparison by `modelserver.local`."""
    documents = []
    for call in calls:
        document = call.document(lambda _, value: pack(_plain(value)))
        if result is Result.GRAPH:
            document["feeds"] = {name: f"{name}:0" for name in call.inputs}
            document["fetches"] = {name: f"{name}:0" for name in call.outputs}
        documents.append(document)
    file.write_text(json.dumps(documents), encoding="utf-8")
