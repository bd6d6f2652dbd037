"""Outputs as JSON has them, as arrays of their signature's types."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from deployctl.client.call import Array
from deployctl.client.values import UnfitError, cast


def named_arrays(values: Any, types: Mapping[str, str]) -> dict[str, Array]:
    """Returns the outputs `values` by name; a single one comes without its name.

    Args:
        values: what stands under "outputs".
        types: names of NumPy types, by output.

    Raises:
        UnfitError: they are not of these names and types.
    """
    bare = not isinstance(values, dict) or set(values) == {"b64"}
    if bare and len(types) > 1:
        raise UnfitError("one output came, and the signature has more")
    named = {next(iter(types), "outputs"): values} if bare else values
    if not set(named) <= set(types):
        raise UnfitError(f"{min(set(named) - set(types))!r} came, which the signature does not have")
    return {name: _array(value, types[name]) for name, value in named.items()}


def _array(value: Any, dtype: str) -> Array:
    if dtype == "object":
        return _strings(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UnfitError("its lists differ in length") from error
    if not dtype:
        return array
    whole = np.dtype(dtype).kind in "iu"
    if whole and array.dtype.kind == "f" and any(isinstance(leaf, float) for leaf in _leaves(value)):
        # 1.0 is no integer in JSON.
        raise UnfitError(f"has fractions, and the type is {dtype}")
    if array.size and (array.dtype.kind == "b") is not (dtype == "bool"):
        raise UnfitError(f"is {array.dtype}, and the type is {dtype}")
    found = cast(value if whole and array.dtype.kind == "f" else array, dtype)
    if array.dtype.kind in "iu" and not whole and not np.array_equal(found, array):
        raise UnfitError(f"has integers that {dtype} cannot hold")
    return found


def _strings(value: Any) -> Array:
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    leaves = _leaves(value)
    flat = np.empty(len(leaves), dtype=object)
    flat[:] = [_bytes(item) for item in leaves]
    if flat.size != int(np.prod(shape)):
        raise UnfitError("its lists differ in length")
    return flat.reshape(shape)


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]


def _bytes(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(item["b64"], validate=True)
    except (TypeError, KeyError, binascii.Error) as error:
        raise UnfitError("has what is no string") from error
