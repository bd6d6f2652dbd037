"""What callers give as arrays, without what NumPy changes on the way: numbers that wrap and bytes that end in NUL."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

# From here on a double skips integers.
_WHOLE_FLOATS = 1 << 53


class UnfitError(ValueError):
    """A value cannot be sent as it is; the message is the rest of a sentence that begins with the input's name."""


def as_array(value: ArrayLike) -> Array:
    """Returns `value` as an array; str and bytes that were no array before become an object array.

    NumPy's own type for bytes drops the NUL bytes at the end of each.

    Raises:
        UnfitError: its lists differ in length.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        array = np.asarray(value)
    except UnicodeDecodeError:
        # Text and bytes beside each other.
        return _objects(value)
    except (ValueError, TypeError) as error:
        raise UnfitError("is ragged: its lists differ in length") from error
    return _objects(value) if array.dtype.kind in "SU" else array


def as_texts(array: Array) -> list[str | bytes]:
    """Returns the strings of an array of objects, str or bytes, flat.

    Raises:
        UnfitError: an item is neither, or is no Unicode text.
    """
    items = array.ravel().tolist()
    for item in items:
        if isinstance(item, list | tuple):
            raise UnfitError("is ragged: its lists differ in length")
        if not isinstance(item, str | bytes):
            raise UnfitError(f"has {item!r}, which is neither str nor bytes")
        if isinstance(item, str) and not item.isascii():
            as_utf8(item)
    return items


def as_utf8(text: str) -> bytes:
    """Returns the bytes of `text`.

    Raises:
        UnfitError: it has half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnfitError(f"has {text!r}, which UTF-8 cannot hold") from error


def as_exact(value: ArrayLike, array: Array) -> Array:
    """Returns `array`, or the Python numbers of `value` where NumPy made floats of integers too large for a float."""
    if isinstance(value, np.ndarray) or array.dtype.kind != "f" or not (np.abs(array) >= _WHOLE_FLOATS).any():
        return array
    flat = np.empty(array.size, dtype=object)
    flat[:] = [item.item() if isinstance(item, np.generic) else item for item in _objects(value).ravel()]
    return flat.reshape(array.shape)


def cast(value: ArrayLike, dtype: str | np.dtype[Any]) -> Array:
    """Returns `value` as an array of the number type `dtype`; floats are rounded to the precision that it has.

    Raises:
        UnfitError: `dtype` cannot hold a value: it is too large, no whole number or no number at all.
    """
    wanted = np.dtype(dtype)
    array = as_array(value)
    if array.dtype == wanted or not array.size:
        return array.astype(wanted, copy=False)
    if array.dtype.kind == "f" and wanted.kind in "iu" and not isinstance(value, np.ndarray):
        # NumPy makes floats of lists with large integers, and rounds them.
        array = _objects(value)
    if array.dtype.kind == "O":
        array = _numbers(array, wanted)
    if array.dtype.kind not in "fiubc":
        raise _unfit(array.ravel()[0], wanted)
    with np.errstate(all="ignore"):
        fits = _fits(array, wanted)
        if not fits.all():
            raise _unfit(array[~fits].ravel()[0], wanted)
        return array.astype(wanted)


def _fits(array: Array, wanted: np.dtype[Any]) -> Any:
    """Of each element, whether `wanted` can hold it."""
    kind = array.dtype.kind
    if wanted.kind == "b":
        return (array == 0) | (array == 1)
    if kind == "b" or (kind == "c" and wanted.kind != "c"):
        return np.zeros(array.shape, np.bool_)
    if wanted.kind in "fc":
        return np.isfinite(array.astype(wanted)) | ~np.isfinite(array)
    limits = np.iinfo(wanted)
    if kind == "f":
        exact = array.astype(np.float64)
        # The largest integer of 64 bits is no float, its successor is.
        return (exact == np.floor(exact)) & (exact >= float(limits.min)) & (exact < float(limits.max) + 1)
    if int(array.min()) >= limits.min and int(array.max()) <= limits.max:
        return np.ones(array.shape, np.bool_)
    objects = array.astype(object)
    return (objects >= limits.min) & (objects <= limits.max)


def _numbers(array: Array, wanted: np.dtype[Any]) -> Array:
    """The Python numbers in `array`, as integers of the type `wanted` or as floats."""
    flat = []
    for item in array.ravel().tolist():
        if isinstance(item, list | tuple):
            raise UnfitError("is ragged: its lists differ in length")
        if isinstance(item, bool | np.bool_) or not isinstance(item, int | float | np.number):
            raise _unfit(item, wanted)
        flat.append(_whole(item, wanted) if wanted.kind in "iu" else _float(item, wanted))
    return np.array(flat, wanted if wanted.kind in "iu" else np.float64).reshape(array.shape)


def _whole(item: Any, wanted: np.dtype[Any]) -> int:
    limits = np.iinfo(wanted)
    if item != item // 1 or not limits.min <= item <= limits.max:
        raise _unfit(item, wanted)
    return int(item)


def _float(item: Any, wanted: np.dtype[Any]) -> float:
    try:
        return float(item)
    except (OverflowError, TypeError) as error:
        raise _unfit(item, wanted) from error


def _objects(value: ArrayLike) -> Array:
    try:
        return np.asarray(value, dtype=object)
    except ValueError as error:
        raise UnfitError("is ragged: its lists differ in length") from error


def _unfit(item: Any, wanted: np.dtype[Any]) -> UnfitError:
    if isinstance(item, np.generic):
        item = item.item()
    text = repr(item) if not isinstance(item, int) or abs(item) < 1 << 128 else "the number"
    return UnfitError(f"has {text[:80]}, which {wanted} cannot hold")
