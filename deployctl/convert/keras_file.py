"""Reads the architecture and weights that a Keras file declares, without building the model or running its code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deployctl.domain.saved_model import TensorSpec
from deployctl.errors import ConversionError
from deployctl.protos.tensor_pb2 import TensorProto
from deployctl.savedmodel.statistics import statistics

# Weights in this form are read by NumPy with pickles allowed, which runs whatever the file says.
_PICKLED = (".npz", ".npy", ".pkl", ".pickle")
_MAX_CONFIG_BYTES = 64 << 20


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Answers "describe_keras": config and weights of the file at request["path"], or statistics of one weight."""
    path = Path(request["path"])
    config = read_config(path)
    if request.get("weight"):
        return {"weight": _weight(path, request["weight"])}
    layers = [_layer(each) for each in config.get("config", {}).get("layers", [])]
    return {
        "class": config.get("class_name", ""),
        "name": config.get("config", {}).get("name", ""),
        "layers": layers,
        "lambdas": lambda_names(config),
        "weights": _weights(path),
        "versions": _versions(path),
        "size_bytes": path.stat().st_size,
    }


def read_config(path: Path) -> dict[str, Any]:
    """Returns the model's configuration.

    Raises:
        ConversionError: there is none, it is malformed, or the file holds pickles.
    """
    try:
        text = _zip_config(path) if zipfile.is_zipfile(path) else _hdf5_config(path)
        config = json.loads(text)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise ConversionError(f"{path} is not a whole Keras model: {error}", kind="malformed") from error
    if not isinstance(config, dict):
        raise ConversionError(f"{path} has a configuration that is no object", kind="malformed")
    return config


def lambda_names(config: Any) -> list[str]:
    """Returns the names of the Lambda layers in `config`; "" for a function that stands outside of a named layer."""
    return sorted(set(_lambdas(config)))


def refuse_lambdas(path: Path, allowed: Sequence[str]) -> None:
    """Refuses a model whose Lambda layers are not all `allowed`.

    Raises:
        ConversionError: there is another one; or as `read_config`.
    """
    found = lambda_names(read_config(path))
    refused = [name for name in found if name not in allowed]
    if refused:
        words = f"the Lambda layer {refused[0]!r}" if refused[0] else "a function outside of a named layer"
        raise ConversionError(
            f"{path} holds {words}, whose code would run when it is loaded",
            kind="unsafe",
            hint=f"deployctl convert keras {path} --allow-lambda {refused[0]} --out DIR" if refused[0] else None,
        )


def _lambdas(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        name = value.get("class_name")
        if name == "Lambda":
            inner = value.get("config")
            yield str(inner.get("name", "")) if isinstance(inner, dict) else ""
            return
        if name == "__lambda__":
            yield ""
        for inner in value.values():
            yield from _lambdas(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _lambdas(inner)


def _zip_config(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in archive.namelist() if name.endswith(_PICKLED)]
        if pickled:
            raise ConversionError(
                f"{path} holds {pickled[0]}, which would be read as a pickle and could run any code", kind="unsafe"
            )
        if archive.getinfo("config.json").file_size > _MAX_CONFIG_BYTES:
            raise ConversionError(f"{path} has a configuration of more than {_MAX_CONFIG_BYTES} bytes", kind="unsafe")
        return archive.read("config.json")


def _hdf5_config(path: Path) -> bytes | str:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ConversionError(
                f"{path} holds weights without a model: save the whole model, not its weights alone", kind="unsupported"
            )
        text: bytes | str = file.attrs["model_config"]
        return text


def _layer(value: dict[str, Any]) -> dict[str, Any]:
    config = value.get("config", {})
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    return {
        "class": value.get("class_name", ""),
        "name": config.get("name", ""),
        "registered": value.get("registered_name"),
        "shape": shape,
        "dtype": config["dtype"] if isinstance(config.get("dtype"), str) else None,
    }


def _weights(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    _visit_weights(path, lambda name, node: found.append(_declared(name, node) | {"size": int(node.nbytes)}))
    return found


def _declared(name: str, node: Any) -> dict[str, Any]:
    return {"name": name, "dtype": str(node.dtype), "shape": list(node.shape)}


def _weight(path: Path, wanted: str) -> dict[str, Any] | None:
    """What the weight is and what its values are like; None where there is none of that name."""
    found: list[dict[str, Any]] = []

    def visit(name: str, node: Any) -> None:
        if name == wanted:
            declared = _declared(name, node)
            content = node[()].astype(node.dtype.newbyteorder("<")).tobytes()
            spec = TensorSpec(declared["dtype"], tuple(node.shape), name)
            found.append(declared | {"statistics": asdict(statistics(spec, TensorProto(tensor_content=content)))})

    _visit_weights(path, visit)
    return found[0] if found else None


def _visit_weights(path: Path, told: Callable[[str, Any], None]) -> None:
    """Calls `told` with the name of each weight and its dataset."""
    import h5py

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            told(name, node)

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".weights.h5")]
            for name in names:
                with h5py.File(io.BytesIO(archive.read(name)), "r") as file:
                    file.visititems(visit)
    else:
        with h5py.File(path, "r") as file:
            file.visititems(visit)


def _versions(path: Path) -> dict[str, str]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if "metadata.json" not in archive.namelist():
                return {}
            version = json.loads(archive.read("metadata.json")).get("keras_version")
            return {"keras": str(version)} if version else {}
    import h5py

    with h5py.File(path, "r") as file:
        version = file.attrs.get("keras_version")
        return {"keras": version.decode() if isinstance(version, bytes) else str(version)} if version else {}
