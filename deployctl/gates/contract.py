"""Reads contracts: signatures that clients count on, written and owned by them, in `contracts/MODEL.toml`.

    [serving_default]
    method = "tensorflow/serving/predict"      # the default
    [serving_default.inputs]
    image = { dtype = "float32", shape = [-1, 224, 224, 3] }
    [serving_default.outputs]
    scores = { dtype = "float32", shape = [-1, 1000] }

-1 is an axis of free size; without a shape, any rank. An input with `optional = true` may be left out by clients.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployctl.domain.saved_model import PREDICT_METHOD, Signature, TensorSpec
from deployctl.errors import SettingsError

_SIGNATURE_KEYS = frozenset({"method", "inputs", "outputs"})
_TENSOR_KEYS = frozenset({"dtype", "shape", "optional"})


def read_contract(file: Path) -> dict[str, Signature] | None:
    """Returns the signatures of a contract by key, None where there is no such file.

    Raises:
        SettingsError: it is not a contract.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not TOML: {error}") from error
    return {key: _signature(f"{file}: {key}", table) for key, table in document.items()}


def _signature(where: str, table: Any) -> Signature:
    _check_keys(where, table, _SIGNATURE_KEYS)
    inputs = table.get("inputs", {})
    optional = frozenset(name for name, each in inputs.items() if isinstance(each, dict) and each.get("optional"))
    return Signature(
        method=str(table.get("method", PREDICT_METHOD)),
        inputs=_specs(f"{where}.inputs", inputs),
        outputs=_specs(f"{where}.outputs", table.get("outputs", {})),
        optional_inputs=optional,
    )


def _specs(where: str, table: Mapping[str, Any]) -> dict[str, TensorSpec]:
    return {name: _spec(f"{where}.{name}", table[name]) for name in sorted(table)}


def _spec(where: str, table: Any) -> TensorSpec:
    _check_keys(where, table, _TENSOR_KEYS)
    dtype, shape = table.get("dtype"), table.get("shape")
    if not isinstance(dtype, str):
        raise SettingsError(f'{where} has no dtype such as "float32"')
    if shape is None:
        return TensorSpec(dtype, None)
    if not isinstance(shape, list) or not all(type(size) is int and size >= -1 for size in shape):
        raise SettingsError(f"{where} has the shape {shape!r}, not a list of sizes with -1 for any")
    return TensorSpec(dtype, tuple(None if size == -1 else size for size in shape))


def _check_keys(where: str, table: Any, known: frozenset[str]) -> None:
    if not isinstance(table, dict):
        raise SettingsError(f"{where} is not a table")
    unknown = sorted(set(table) - known)
    if unknown:
        raise SettingsError(f"{where} has the unknown key {unknown[0]!r}", hint=f"one of {', '.join(sorted(known))}")
