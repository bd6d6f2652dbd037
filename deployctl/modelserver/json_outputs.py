"""Results as JSON bodies, laid out and numbered as upstream's util/json_tensor.cc writes them.

Arrays are printed whole: numbers by one vectorised pass, nesting by one `%` over a template of the shape.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from deployctl.modelserver.interface import Code, StatusError, VersionReport
from deployctl.modelserver.json_print import decimal_text, decimal_texts, escape, quote, to_float32
from deployctl.modelserver.json_walk import invalid, type_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deployctl.modelserver.interface import Tensor

# Below this many elements Python's own formatting is faster than NumPy's fixed costs.
_FEW = 24
# NumPy's type characters, since dtype.name takes longer than a small array's formatting.
_FLOATS = frozenset("fd")
_PRINTED_BY_ORJSON = frozenset("?bhilqBILQ")


def error_json(message: str) -> bytes:
    """The body of every error: an object with the single key "error"."""
    return f'{{\n    "error": {quote(message)}\n}}'.encode("utf-8", "surrogateescape")


def predict_json(outputs: Mapping[str, Tensor], *, by_row: bool) -> bytes:
    """The body of a predict response; outputs are in name order, a single one is unnamed.

    Raises:
        StatusError: INVALID_ARGUMENT in upstream's words, for a type that JSON cannot hold, or for rows when the
            outputs have no common batch size.
    """
    if not outputs:
        invalid("Cannot convert empty tensor map to JSON")
    names = sorted(outputs)
    if by_row:
        return b'{\n    "predictions": ' + _rows(names, outputs) + b"\n}"
    if len(names) == 1:
        return b'{\n    "outputs": ' + _column(names[0], outputs[names[0]], 1) + b"\n}"
    members = [b"        " + _name(name) + _column(name, outputs[name], 2) for name in names]
    return b'{\n    "outputs": {\n' + b",\n".join(members) + b"\n    }\n}"


def classify_json(results: Sequence[Sequence[tuple[str, float]]]) -> bytes:
    """The body of a classify response: for each example a list of [label, score]."""
    if not results:
        invalid("Cannot convert empty ClassificationResults to JSON")
    rows = [
        "[" + ", ".join(f"[{quote(label)}, {_score(score)}]" for label, score in classes) + "]" for classes in results
    ]
    return ('{\n    "results": [' + ", ".join(rows) + "\n    ]\n}").encode("utf-8", "surrogateescape")


def regress_json(values: Sequence[float]) -> bytes:
    """The body of a regress response: one number for each example."""
    if not values:
        invalid("Cannot convert empty RegressionResults to JSON")
    return ('{\n    "results": [' + ", ".join(map(_score, values)) + "]\n}").encode()


def status_json(reports: Sequence[VersionReport]) -> bytes:
    """The body of a status response, as protobuf's JSON printer lays out GetModelStatusResponse."""
    versions = [
        f'  {{\n   "version": "{report.version}",\n   "state": "{report.state.name}",\n   "status": {{\n'
        f'    "error_code": "{report.code.name}",\n    "error_message": {quote(report.message)}\n   }}\n  }}'
        for report in reports
    ]
    inner = "[\n" + ",\n".join(versions) + "\n ]" if versions else "[]"
    return f'{{\n "model_version_status": {inner}\n}}\n'.encode("utf-8", "surrogateescape")


def metadata_json(name: str, version: int, signature_def_map: bytes) -> bytes:
    """The body of a metadata response from a serialized SignatureDefMap.

    Raises:
        StatusError: INTERNAL when the map does not parse.
    """
    from google.protobuf.json_format import MessageToJson
    from google.protobuf.message import DecodeError

    from deployctl.protos import serving_pb2

    try:
        signatures = serving_pb2.SignatureDefMap.FromString(signature_def_map)
    except DecodeError as error:
        raise StatusError(Code.INTERNAL, "Failed to unpack 'Any' object to 'SignatureDefMap'.") from error
    text = MessageToJson(
        signatures,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=1,
        ensure_ascii=False,
    )
    spec = f'{{\n "name": {quote(name)},\n "signature_name": "",\n "version": "{version}"\n}}\n'
    body = f'{{\n"model_spec":{spec},\n"metadata": {{"signature_def": {text}\n}}\n}}\n'
    return body.encode("utf-8", "surrogateescape")


def _score(value: float) -> str:
    return decimal_text(to_float32(value), single=True)


def _name(name: str) -> bytes:
    return quote(name).encode("utf-8", "surrogateescape") + b": "


def _rows(names: Sequence[str], outputs: Mapping[str, Tensor]) -> bytes:
    batch = _batch_size(names, outputs)
    if batch == 0:
        return b"[]"
    if len(names) == 1:
        array = outputs[names[0]]
        # Upstream switches to one-line arrays only inside the list, so the last bracket stands on its own line.
        return _one_line(names[0], array)[:-1] + b"\n    ]"
    import numpy as np

    members, columns = [], []
    for name in names:
        array = outputs[name]
        members.append(b"            " + _name(name).replace(b"%", b"%%") + _template(array.shape[1:]))
        texts = np.empty(array.size, object)
        texts[:] = _texts(name, array, depth=2 + array.ndim)
        columns.append(texts.reshape(batch, -1))
    row = b"\n        {\n" + b",\n".join(members) + b"\n        }"
    cells = np.concatenate(columns, axis=1).ravel().tolist()
    return b"[" + b",".join([row] * batch) % tuple(cells) + b"\n    ]"


def _batch_size(names: Sequence[str], outputs: Mapping[str, Tensor]) -> int:
    batch = -1
    for name in names:
        shape = outputs[name].shape
        if not shape:
            invalid(f"Tensor name: {name} has no shape information ")
        if batch not in (-1, shape[0]):
            invalid(f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: {batch}")
        batch = shape[0]
    return batch


def _one_line(name: str, array: Tensor) -> bytes:
    whole = _printable(array) if array.size > _FEW else None
    if whole is not None:
        return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY).replace(b",", b", ")
    texts = _texts(name, array, depth=1 + array.ndim)
    if array.ndim == 1:
        return b"[" + b", ".join(texts) + b"]"
    return _template(array.shape) % tuple(texts)


def _template(shape: Sequence[int]) -> bytes:
    cell = b"%s"
    for size in reversed(shape):
        cell = b"[" + b", ".join([cell] * size) + b"]"
    return cell


def _column(name: str, array: Tensor, depth: int) -> bytes:
    """One output with every element on a line of its own, `depth` containers deep."""
    texts = _texts(name, array, depth=depth + array.ndim)
    cell = b"%s"
    for axis in range(array.ndim - 1, -1, -1):
        outside = b"\n" + b"    " * (depth + axis)
        cell = b"[" + b",".join([outside + b"    " + cell] * array.shape[axis]) + outside + b"]"
        if not array.shape[axis]:
            cell = b"[]"
    return cell % tuple(texts)


def _texts(name: str, array: Tensor, *, depth: int) -> list[bytes]:
    """Each element as JSON, in row-major order."""
    if array.dtype.hasobject or array.dtype.kind in "SU":
        return _string_texts(name, array, depth)
    kind = array.dtype.char
    if kind not in _FLOATS and kind not in _PRINTED_BY_ORJSON:
        invalid(f"Failed to write JSON value for tensor type: {type_name(array.dtype.name)}")
    if not array.size:
        return []
    if kind in _FLOATS and array.size <= _FEW:
        return decimal_texts(array.ravel().tolist(), single=kind == "f")
    if kind in _FLOATS:
        return _float_texts(array.ravel())
    return _split(array.ravel())


def _split(array: NDArray[Any]) -> list[bytes]:
    import numpy as np

    whole = np.ascontiguousarray(array)
    return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _string_texts(name: str, array: Tensor, depth: int) -> list[bytes]:
    values: list[bytes] = [
        value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        for value in array.ravel().tolist()
    ]
    if not name.endswith("_bytes"):
        return [b'"' + escape(value) + b'"' for value in values]
    inner, outer = b"    " * (depth + 1), b"    " * depth
    return [b'{\n%s"b64": "%s"\n%s}' % (inner, binascii.b2a_base64(value, newline=False), outer) for value in values]


def _printable(array: Tensor) -> NDArray[Any] | None:
    """An array that orjson prints just as upstream prints `array`, or None."""
    import numpy as np

    kind = array.dtype.char
    if kind in _PRINTED_BY_ORJSON:
        return np.ascontiguousarray(array)
    if kind not in _FLOATS:
        return None
    decimals, other = _decimals(array)
    return None if other.any() else decimals


def _decimals(array: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The doubles whose shortest text is upstream's text for `array`, and where there is none.

    "%.6g" or "%.9g" of a float32 is the decimal m / 10**k with a whole m. The double nearest to that decimal prints
    as it, in plain notation, between 1e-4 and 1e6. Doubles that need more than six digits have no such neighbour.
    """
    import numpy as np

    with np.errstate(all="ignore"):  # signalling NaNs
        values = array.astype(np.float64)
    size = np.abs(values)
    plain = (size >= 1.1e-4) & (size < 9.9e5)
    places = 5 - np.floor(np.log10(np.where(plain, size, 1.0)))
    scale = np.power(10.0, places)
    values = np.where(plain, values, 0.0)
    six = np.rint(values * scale) / scale
    short = six.astype(array.dtype) == values
    zero = array == 0
    if array.dtype != np.float32:
        return np.where(zero, array, six), ~((plain & short) | zero)
    scaled = values * (scale * 1000.0)
    nine = np.rint(scaled)
    # So near the middle of two decimals that the product's own rounding could decide.
    unsure = np.abs(np.abs(scaled - nine) - 0.5) < 1e-5
    decimals = np.where(zero, array, np.where(short, six, nine / (scale * 1000.0)))
    return decimals.astype(np.float64), ~((plain & (short | ~unsure)) | zero)


def _float_texts(array: NDArray[Any]) -> list[bytes]:
    import numpy as np

    decimals, other = _decimals(array)
    texts = _split(decimals)
    if not other.any():
        return texts
    single = array.dtype == np.float32
    changed = np.empty(array.size, object)
    changed[:] = texts
    size = np.abs(array)
    # Tiny numbers and long doubles always print with a point or an exponent, so one format prints them all.
    bulk = other & np.isfinite(array) & (size < 9.9e5)
    rest = other & ~bulk
    if bulk.any():
        changed[bulk] = _formatted(array[bulk], single=single)
    if rest.any():
        changed[rest] = [decimal_text(value, single=single).encode() for value in array[rest].tolist()]
    return changed.tolist()


def _formatted(array: NDArray[Any], *, single: bool) -> list[bytes]:
    import numpy as np

    values = tuple(array.tolist())
    short = (b"%g " * len(values) % values).split()
    exact = np.array(list(map(float, short))).astype(array.dtype) == array
    if exact.all():
        return short
    full = ((b"%.9g " if single else b"%.17g ") * len(values) % values).split()
    chosen: list[bytes] = np.where(exact, np.array(short, object), np.array(full, object)).tolist()
    return chosen
