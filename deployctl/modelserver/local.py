"""Runs a SavedModel or frozen graph in this process, without a server: `python -m deployctl.modelserver.local`.

One JSON request comes on stdin, one JSON answer goes to stdout. A "predict" request names its inputs by signature or
by tensor; a "compare" request replays recorded answers and says how far the new ones are from them.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deployctl.client.values import UnfitError, as_array, as_exact, as_texts, as_utf8, cast
from deployctl.domain.saved_model import DEFAULT_SIGNATURE, TensorSpec
from deployctl.errors import DeployctlError, InvalidRequestError
from deployctl.modelserver import wire
from deployctl.modelserver.difference import difference
from deployctl.modelserver.dtypes import BY_NAME, NAMES, STRING
from deployctl.modelserver.interface import StatusError
from deployctl.modelserver.packed import to_json, unpack
from deployctl.modelserver.parent import end_with_parent
from deployctl.modelserver.servable import TensorFlowServable
from deployctl.modelserver.session import Session, SessionOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_TIMEOUT_S = 600.0
# NumPy's own limit.
_MAX_DEPTH = 64
_IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp")


def main() -> None:
    """Answers the request and ends the process at once: freeing a session takes longer than running one."""
    end_with_parent(sys.argv[1:])
    stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with stdout:
        json.dump(answer(json.load(sys.stdin)), stdout)
    sys.stderr.flush()
    os._exit(0)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to one request; every error is {"error": …}."""
    try:
        with _directory(Path(request["path"])) as directory:
            session = Session(str(directory), SessionOptions(tags=tuple(request.get("tags") or ("serve",))))
            return _compare(session, request) if "compare" in request else _predict(session, request)
    except StatusError as error:
        return {"error": {"kind": "request", "message": f"TensorFlow says {error.code.name}: {_words(error.message)}"}}
    except DeployctlError as error:
        return {"error": {"kind": "request", "message": str(error), "hint": error.hint}}
    except MemoryError:
        return {"error": {"kind": "request", "message": "there is not enough memory for the tensors", "hint": None}}


def _words(message: str) -> str:
    """The message without the file names that TensorFlow's lines of context begin with."""
    return " ".join(message.split())[:600]


@contextmanager
def _directory(path: Path) -> Iterator[Path]:
    """The SavedModel at `path`; a frozen graph gets one around it, since only those can be loaded."""
    if path.is_dir():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="deployctl-graph-") as folder:
        write_around_graph(path.read_bytes(), Path(folder))
        yield Path(folder)


def write_around_graph(graph: bytes, folder: Path) -> None:
    """Writes a SavedModel without signatures, whose one MetaGraph, tagged "serve", is the GraphDef `graph`."""
    info = wire.length_delimited(1, wire.length_delimited(4, b"serve"))
    meta = info + wire.length_delimited(2, graph)
    # saved_model.proto: saved_model_schema_version = 1, meta_graphs = 2.
    (folder / "saved_model.pb").write_bytes(b"\x08\x01" + wire.length_delimited(2, meta))


def _predict(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    fetches = request.get("fetch") or []
    if fetches:
        feeds = _by_tensor(session, request)
        outputs = dict(zip(fetches, session.run(feeds, fetches, timeout_s=_TIMEOUT_S), strict=True))
    else:
        servable = TensorFlowServable("local", 1, session)
        key = request.get("signature") or DEFAULT_SIGNATURE
        signature = servable.signatures.get(key)
        if signature is None:
            known = ", ".join(name for name in servable.signatures if not name.startswith("__"))
            raise InvalidRequestError(f"the model has no signature {key!r}, only {known or 'none'}")
        inputs = _inputs(session, request, signature.inputs)
        outputs = servable.predict(key, inputs, [], timeout_s=_TIMEOUT_S)
    if request.get("save"):
        _save(Path(request["save"]), outputs)
    values = _rows(outputs) if request.get("instances") is not None else _columns(outputs)
    if isinstance(values, dict) and len(values) == 1 and not fetches:
        # As the server's column format has it.
        (values,) = values.values()
    return {"outputs": values, "shapes": _shapes(outputs)}


def _by_tensor(session: Session, request: Mapping[str, Any]) -> list[tuple[str, Array]]:
    inputs = request.get("inputs") or {}
    if request.get("instances") is not None or not isinstance(inputs, dict) or set(inputs) == {"b64"}:
        raise InvalidRequestError("name the inputs by their tensors: with --fetch no signature says what they are")
    given = {**(request.get("expressions") or {}), **inputs}
    specs = {}
    for name in given:
        tensor = name if ":" in name else f"{name}:0"
        specs[name] = TensorSpec(NAMES.get(session.element_type(tensor), "unknown"), None, tensor)
    return [(specs[name].tensor, value) for name, value in _inputs(session, request, specs).items()]


def _inputs(session: Session, request: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    values: dict[str, Array] = {}
    for name, text in (request.get("expressions") or {}).items():
        values[name] = _expression(name, text, _spec(name, specs))
    for name, value in _given(request, specs).items():
        values[name] = _typed(name, _from_json(name, value), _spec(name, specs))
    return values


def _spec(name: str, specs: Mapping[str, TensorSpec]) -> TensorSpec:
    if name not in specs:
        raise InvalidRequestError(f"there is no input {name!r}, only {', '.join(specs) or 'none'}")
    return specs[name]


def _given(request: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The JSON inputs by name; the one input of a signature may stand without its name."""
    rows = request.get("instances")
    if rows is not None:
        if not rows or not isinstance(rows[0], dict) or set(rows[0]) == {"b64"}:
            return {_only(specs): rows}
        if any(not isinstance(row, dict) or row.keys() != rows[0].keys() for row in rows):
            raise InvalidRequestError("the instances do not all give the same inputs")
        return {name: [row[name] for row in rows] for name in rows[0]}
    value = request.get("inputs")
    if value is None:
        return {}
    named = isinstance(value, dict) and set(value) != {"b64"}
    return value if named else {_only(specs): value}


def _only(specs: Mapping[str, TensorSpec]) -> str:
    if len(specs) != 1:
        raise InvalidRequestError(f"name the inputs: the signature takes {', '.join(specs)}")
    return next(iter(specs))


def _from_json(name: str, value: Any) -> Array:
    try:
        decoded = _decoded_strings(name, value, 0)
        return as_exact(decoded, as_array(decoded))
    except UnfitError as error:
        raise InvalidRequestError(f"input {name!r} {error}") from error


def _decoded_strings(name: str, item: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidRequestError(f"input {name!r} is nested more than {_MAX_DEPTH} deep")
    if isinstance(item, list):
        return [_decoded_strings(name, each, depth + 1) for each in item]
    if not isinstance(item, dict):
        return item
    text = item.get("b64")
    if not isinstance(text, str) or len(item) > 1:
        raise InvalidRequestError(f'input {name!r} has {json.dumps(item)[:80]}, which is not {{"b64": TEXT}}')
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidRequestError(f"input {name!r} has {text[:80]!r}, which is no base64: {error}") from error


def _expression(name: str, text: str, spec: TensorSpec) -> Array:
    from deployctl.modelserver.expressions import evaluate, read_array

    if not text.startswith("@"):
        return _typed(name, evaluate(text, spec.shape), spec)
    file = Path(text[1:])
    if file.suffix in (".npy", ".npz"):
        return _typed(name, read_array(file, name), spec)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"cannot read {file}: {error.strerror}") from error
    if file.suffix.lower() in _IMAGES:
        return _image(data, file, spec)
    if file.suffix == ".json":
        try:
            return _typed(name, _from_json(name, json.loads(data)), spec)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{file} is not JSON: {error}") from error
    raise InvalidRequestError(f"{file} is neither .npy, .npz, .json nor an image ({', '.join(_IMAGES)})")


def _image(data: bytes, file: Path, spec: TensorSpec) -> Array:
    """The bytes of the file for a string input, its pixels for any other, with the batch axis that the input has."""
    rank = None if spec.shape is None else len(spec.shape)
    if spec.dtype == "string":
        array = np.empty((), dtype=object)
        array[()] = data
        return array if rank == 0 else array.reshape([1] * (rank or 1))
    channels = (spec.shape or (None,))[-1] or 3
    try:
        pixels = _decoded(data, channels)
    except StatusError as error:
        raise InvalidRequestError(f"{file} is no image that TensorFlow can read: {_words(error.message)}") from error
    return _typed(file.name, pixels if rank == 3 else pixels[np.newaxis], spec)


def _decoded(data: bytes, channels: int) -> Array:
    from deployctl.protos.saved_model_pb2 import AttrValue, GraphDef, NodeDef
    from deployctl.protos.tensor_pb2 import DT_STRING, DT_UINT8

    source = NodeDef(name="bytes", op="Placeholder", attr={"dtype": AttrValue(type=DT_STRING)})
    attributes = {
        "channels": AttrValue(i=channels),
        "dtype": AttrValue(type=DT_UINT8),
        "expand_animations": AttrValue(b=False),
    }
    decode = NodeDef(name="pixels", op="DecodeImage", input=["bytes"], attr=attributes)
    with tempfile.TemporaryDirectory(prefix="deployctl-image-") as folder:
        write_around_graph(GraphDef(node=[source, decode]).SerializeToString(), Path(folder))
        session = Session(folder, SessionOptions())
    feed = np.empty((), dtype=object)
    feed[()] = data
    (pixels,) = session.run([("bytes:0", feed)], ["pixels:0"], timeout_s=_TIMEOUT_S)
    return pixels


def _typed(name: str, value: Array, spec: TensorSpec) -> Array:
    """`value` as the input's type, refused where that would change it."""
    try:
        if spec.dtype == "string":
            return _strings(value)
        dtype = BY_NAME.get(spec.dtype)
        if dtype is None or dtype.number == STRING or dtype.numpy.names is not None:
            raise InvalidRequestError(f"input {name!r} is {spec.dtype}, which cannot be given here")
        return cast(value, dtype.numpy)
    except UnfitError as error:
        raise InvalidRequestError(f"input {name!r} {error}") from error


def _strings(value: Array) -> Array:
    if value.dtype.kind not in "OSU" and value.size:
        raise UnfitError(f"is string, and the value is {value.dtype}")
    texts = as_texts(value.astype(object))
    flat = np.empty(len(texts), dtype=object)
    flat[:] = [item if isinstance(item, bytes) else as_utf8(item) for item in texts]
    return flat.reshape(value.shape)


def _columns(outputs: Mapping[str, Array]) -> Any:
    return {name: to_json(value, as_bytes=name.endswith("_bytes")) for name, value in sorted(outputs.items())}


def _rows(outputs: Mapping[str, Array]) -> list[Any]:
    if len({value.shape[:1] for value in outputs.values()}) != 1 or any(not value.ndim for value in outputs.values()):
        raise InvalidRequestError("the outputs do not have one row for each instance: ask with --inputs instead")
    columns = _columns(outputs)
    if len(columns) == 1:
        rows: list[Any] = next(iter(columns.values()))
        return rows
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _shapes(outputs: Mapping[str, Array]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in outputs.items()}


def _save(file: Path, outputs: Mapping[str, Array]) -> None:
    plain = {name: _plain(file, name, value) for name, value in outputs.items()}
    try:
        if file.suffix == ".npy" and len(plain) == 1:
            np.save(file, next(iter(plain.values())))
        elif file.suffix == ".npz":
            with file.open("wb") as stream:
                np.savez(stream, **plain)  # type: ignore[arg-type]
        else:
            raise InvalidRequestError(f"--save {file} is neither .npz nor, for one output, .npy")
    except OSError as error:
        raise InvalidRequestError(f"cannot write {file}: {error.strerror}") from error


def _plain(file: Path, name: str, value: Array) -> Array:
    """Strings as bytes of one length, since others are pickled; NumPy fills them up with NUL bytes."""
    if value.dtype.kind != "O":
        return value
    if any(item.endswith(b"\0") for item in value.ravel().tolist()):
        raise InvalidRequestError(f"the output {name!r} has bytes that end in NUL, which {file} cannot hold")
    return np.array(value, dtype="S")


def _compare(session: Session, request: Mapping[str, Any]) -> dict[str, Any]:
    """Replays the calls recorded in the file request["compare"] and tells how far each output is off."""
    servable = TensorFlowServable("local", 1, session)
    found = []
    for call in json.loads(Path(request["compare"]).read_text(encoding="utf-8")):
        inputs = {name: unpack(value) for name, value in call["inputs"].items()}
        expected = {name: unpack(value) for name, value in call["outputs"].items()}
        if call.get("feeds"):
            feeds = [(call["feeds"][name], value) for name, value in inputs.items()]
            names = [call["fetches"][name] for name in expected]
            actual = dict(zip(expected, session.run(feeds, names, timeout_s=_TIMEOUT_S), strict=True))
        else:
            actual = servable.predict(call["signature"], inputs, list(expected), timeout_s=_TIMEOUT_S)
        found += [
            {"signature": call["signature"], "output": name}
            | difference(expected[name], actual[name], rtol=call["rtol"], atol=call["atol"])
            for name in expected
        ]
    return {"outputs": found}


if __name__ == "__main__":
    main()
