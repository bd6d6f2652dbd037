"""Inputs to compare a model and its conversion with: the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from deployctl.errors import ConversionError
from deployctl.modelserver.expressions import evaluate, read_array

# A free axis that is not the batch: long enough for what a model folds, short enough to be recorded.
_FREE_AXIS = 8
_WORDS = ("the", "of", "an unknown word", "", "a")


def samples(
    inputs: Mapping[str, Any], *, count: int, seed: int, given: Mapping[str, str], words: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns a value for each of `inputs`.

    Args:
        inputs: tf.TensorSpec by name.
        count: the size of each first axis that is free.
        seed: of the random numbers.
        given: expressions, or @FILE.npy and @FILE.npz, by input, in place of random values.
        words: what string inputs are made of.

    Raises:
        ConversionError: `given` names an input that is not there.
    """
    stray = next((name for name in given if name not in inputs), None)
    if stray is not None:
        raise ConversionError(f"--sample {stray!r} is no input; there are {', '.join(inputs)}", kind="usage")
    return {
        name: _given(given[name], name, spec)
        if name in given
        else _random(spec, count, np.random.default_rng([seed, place]), words or _WORDS)
        for place, (name, spec) in enumerate(inputs.items())
    }


def _given(text: str, name: str, spec: Any) -> Any:
    from pathlib import Path

    if text.startswith("@") and text.endswith((".npy", ".npz")):
        value = read_array(Path(text[1:]), name)
    elif text.startswith("@"):
        value = np.array([Path(text[1:]).read_bytes()], dtype=object)
    else:
        shape = None if spec.shape.rank is None else tuple(spec.shape.as_list())
        value = evaluate(text, shape)
    if spec.dtype == tf.string:
        flat = [item.encode() if isinstance(item, str) else item for item in value.ravel().tolist()]
        array = np.empty(len(flat), dtype=object)
        array[:] = flat
        return array.reshape(value.shape)
    return value.astype(spec.dtype.as_numpy_dtype)


def _random(spec: Any, count: int, generator: np.random.Generator, words: Sequence[str]) -> Any:
    if spec.shape.rank is None:
        shape: tuple[int, ...] = (count,)
    else:
        sizes = spec.shape.as_list()
        shape = tuple(size or (count if axis == 0 else _FREE_AXIS) for axis, size in enumerate(sizes))
    if spec.dtype == tf.string:
        picked = np.empty(int(np.prod(shape)), dtype=object)
        picked[:] = [words[index].encode() for index in generator.integers(0, len(words), picked.size)]
        return picked.reshape(shape)
    if spec.dtype.is_bool:
        return generator.random(shape) < 0.5
    kind = spec.dtype.as_numpy_dtype
    if spec.dtype.is_integer:
        # 0 and 1 are ids of every vocabulary; pixels have the whole range.
        return generator.integers(0, 256 if spec.dtype == tf.uint8 else 2, shape).astype(kind)
    return generator.random(shape).astype(kind)
