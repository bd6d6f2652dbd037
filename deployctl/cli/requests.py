"""Prediction requests as words on the command line or as a file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployctl.errors import InvalidRequestError
from deployctl.serving.interface import PredictionRequest, ServedSpec

# What a body may hold (tensorflow/serving g3doc/api_rest.md, "Predict API").
_KEYS = ("signature_name", "instances", "inputs")


@dataclass(frozen=True, slots=True)
class Body:
    """A REST-shaped body: exactly one of instances and inputs is not None.

    Attributes:
        signature: "" for the default one.
    """

    instances: list[Any] | None
    inputs: Any
    signature: str = ""

    def to_request(self, spec: ServedSpec) -> PredictionRequest:
        """Returns the request for `spec`."""
        return PredictionRequest(spec, self.signature, self.instances, self.inputs)


def read_request(instances: str | None, inputs: str | None, file: Path | None, *, signature: str = "") -> Body:
    """Returns the body that the options give; `signature` is that of --signature, a file may name one as well.

    Raises:
        InvalidRequestError: not exactly one of them is given, it is not JSON of the right form, or it names another
            signature than `signature`.
    """
    given = [each for each in (instances, inputs, file) if each is not None]
    if len(given) != 1:
        raise InvalidRequestError("give exactly one of --instances, --inputs and --file")
    if instances is not None:
        return _body({"instances": _parse(instances, "--instances")}, "--instances", signature)
    if inputs is not None:
        return _body({"inputs": _parse(inputs, "--inputs")}, "--inputs", signature)
    return _body(_parse(_text(file), f"--file {file}"), f"--file {file}", signature)


def _text(file: Path | None) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else Path(str(file)).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{file} is not UTF-8 text") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InvalidRequestError(f"{where} is nested too deeply for a tensor") from error
    except ValueError as error:
        raise InvalidRequestError(f"{where} is not JSON: {error}") from error


def _body(document: Any, where: str, signature: str) -> Body:
    if not isinstance(document, dict) or len({"instances", "inputs"} & set(document)) != 1:
        raise InvalidRequestError(f'{where} is not an object with "instances" or "inputs"')
    unknown = next((key for key in document if key not in _KEYS), None)
    if unknown is not None:
        raise InvalidRequestError(f"{where} holds {unknown!r}, which is none of {', '.join(_KEYS)}")
    instances = document.get("instances")
    if "instances" in document and not isinstance(instances, list):
        raise InvalidRequestError(f"{where} holds instances that are not a list")
    if "inputs" in document and document["inputs"] is None:
        raise InvalidRequestError(f"{where} holds inputs that are null")
    named = document.get("signature_name", "")
    if not isinstance(named, str):
        raise InvalidRequestError(f"{where} holds a signature_name that is not a text")
    if signature and named not in ("", signature):
        raise InvalidRequestError(f"{where} names signature {named!r}, and --signature {signature!r}")
    return Body(instances, document.get("inputs"), signature or named)
