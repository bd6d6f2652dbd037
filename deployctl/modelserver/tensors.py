"""NumPy arrays to TF_Tensor and back, without copying where the memory allows it.

String elements are TF_TString, 24 bytes each (tensorflow/tsl/platform/ctstring_internal.h): the two low bits of the
first byte say how the characters are held, the size is in the other bits.
"""

from __future__ import annotations

import ctypes
import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from deployctl.modelserver.capi import CApi, Deallocator
from deployctl.modelserver.dtypes import BY_NUMBER, STRING, dtype_of
from deployctl.modelserver.interface import Code, StatusError

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor

_TSTRING_BYTES = 24
_SMALL, _LARGE, _OFFSET, _VIEW = range(4)
# TensorFlow's kernels want this alignment, and TF_NewTensor copies what has less (EIGEN_MAX_ALIGN_BYTES).
_ALIGNMENT = 64
# Below this a copy costs less than handing over a reference to be released by a callback.
_WORTH_SHARING_BYTES = 1 << 16
_MAX_OFFSET = 2**32 - 1


class TensorConverter:
    """Makes TF_Tensors of arrays and arrays of TF_Tensors."""

    def __init__(self, api: CApi) -> None:
        self._api = api
        self._shared: dict[int, Tensor] = {}
        self._tokens = itertools.count(1)
        # ctypes callbacks die with their Python object, so this one lives as long as the converter.
        self._release = Deallocator(self._on_release)

    def to_tensorflow(self, array: Tensor) -> int:
        """Returns a new TF_Tensor, which the caller deletes, with the elements of `array`.

        Raises:
            StatusError: INVALID_ARGUMENT when TensorFlow has no such element type.
        """
        try:
            dtype = dtype_of(array)
        except KeyError:
            raise StatusError(Code.INVALID_ARGUMENT, f"TensorFlow has no element type {array.dtype}") from None
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        if dtype.number == STRING:
            return self._strings_to_tensorflow(array, dims)
        contiguous = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        address = contiguous.__array_interface__["data"][0]
        size = contiguous.nbytes
        if size >= _WORTH_SHARING_BYTES and address % _ALIGNMENT == 0:
            token = next(self._tokens)
            self._shared[token] = contiguous
            return self._new(
                self._api.new_tensor(dtype.number, dims, array.ndim, address, size, self._release, token), size
            )
        handle = self._new(self._api.allocate_tensor(dtype.number, dims, array.ndim, size), size)
        if size:
            self._api.memcpy(self._api.tensor_data(handle), address, size)
        return handle

    def to_numpy(self, handle: int) -> Tensor:
        """Returns the elements of the TF_Tensor `handle`, and takes it over.

        Arrays of numbers are read-only views of TensorFlow's memory, which is let go with the last of them.
        """
        api = self._api
        number = api.tensor_type(handle)
        shape = tuple(api.dim(handle, axis) for axis in range(api.num_dims(handle)))
        dtype = BY_NUMBER.get(number)
        if dtype is None:
            api.delete_tensor(handle)
            raise StatusError(Code.UNIMPLEMENTED, f"Cannot return a tensor of DataType {number}")
        address = api.tensor_data(handle)
        if number == STRING:
            strings = _read_strings(address, int(np.prod(shape, dtype=np.int64)))
            api.delete_tensor(handle)
            array = np.empty(len(strings), dtype=object)
            array[:] = strings
            return array.reshape(shape)
        if not address or 0 in shape:
            api.delete_tensor(handle)
            return np.empty(shape, dtype=dtype.numpy)
        view = np.asarray(_Owner(api, handle, shape, dtype.wire.str, address))
        return view if dtype.numpy is dtype.wire else view.view(dtype.numpy).reshape(shape)

    def _new(self, handle: int | None, size: int) -> int:
        if not handle:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"Cannot allocate a tensor of {size} bytes")
        return handle

    def _on_release(self, _data: int, _length: int, token: int) -> None:
        self._shared.pop(token, None)

    def _strings_to_tensorflow(self, array: Tensor, dims: ctypes.Array[ctypes.c_int64]) -> int:
        # One buffer: the headers, then all characters, which the headers find by their offset. TensorFlow copies
        # such a string when it keeps it, and there is nothing to free one by one.
        strings = [_as_bytes(item) for item in array.ravel().tolist()]
        count = len(strings)
        sizes = np.fromiter(map(len, strings), dtype=np.int64, count=count)
        headers = np.zeros((count, _TSTRING_BYTES // 4), dtype="<u4")
        starts = _TSTRING_BYTES * count + np.cumsum(sizes) - sizes
        offsets = starts - np.arange(count) * _TSTRING_BYTES
        total = _TSTRING_BYTES * count + int(sizes.sum())
        # A header's size field has 30 bits, its offset 32.
        if count and (total > _MAX_OFFSET or int(sizes.max()) >= 1 << 30):
            raise StatusError(Code.INVALID_ARGUMENT, f"A string tensor of {total} bytes is too large")
        headers[:, 0] = (sizes << 2) | _OFFSET
        headers[:, 1] = offsets
        headers[:, 2] = 1
        payload = headers.tobytes() + b"".join(strings)
        handle = self._new(self._api.allocate_tensor(STRING, dims, len(dims), total), total)
        if total:
            self._api.memcpy(self._api.tensor_data(handle), payload, total)
        return handle


class _Owner:
    """Deletes a TF_Tensor when the last array that views it is gone."""

    __slots__ = ("__array_interface__", "_api", "_handle")

    def __init__(self, api: CApi, handle: int, shape: tuple[int, ...], typestr: str, address: int) -> None:
        self._api = api
        self._handle = handle
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": shape,
            "typestr": typestr,
            # Read-only: the memory may be a variable of the model.
            "data": (address, True),
        }

    def __del__(self) -> None:
        self._api.delete_tensor(self._handle)


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise StatusError(Code.INVALID_ARGUMENT, f"An element of a string tensor is {type(item).__name__}, not bytes")


def _read_strings(address: int, count: int) -> list[bytes]:
    if count == 0:
        return []
    raw = ctypes.string_at(address, _TSTRING_BYTES * count)
    strings = []
    for index, (size, second, pointer) in enumerate(struct.iter_unpack("<QQQ", raw)):
        start = index * _TSTRING_BYTES
        kind = size & 3
        if kind == _SMALL:
            strings.append(raw[start + 1 : start + 1 + ((size & 0xFF) >> 2)])
        elif kind == _LARGE:
            strings.append(ctypes.string_at(pointer, size >> 2))
        elif kind == _VIEW:
            strings.append(ctypes.string_at(second, size >> 2))
        else:
            length, offset = (size & 0xFFFFFFFF) >> 2, size >> 32
            strings.append(ctypes.string_at(address + start + offset, length))
    return strings
