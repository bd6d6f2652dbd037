"""Prediction requests as words on the command line or as a file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployctl.errors import InvalidRequestError
from deployctl.serving.interface import PredictionRequest, ServedSpec


@dataclass(frozen=True, slots=True)
class Body:
    """A REST-shaped body: exactly one is not None."""

    instances: list[Any] | None
    inputs: Any

    def to_request(self, spec: ServedSpec, signature: str) -> PredictionRequest:
        """Returns the request for `spec`."""
        return PredictionRequest(spec, signature, self.instances, self.inputs)


def read_request(instances: str | None, inputs: str | None, file: Path | None) -> Body:
    """Returns the body that the options give.

    Raises:
        InvalidRequestError: not exactly one of them is given, or it is not JSON of the right form.
    """
    given = [each for each in (instances, inputs, file) if each is not None]
    if len(given) != 1:
        raise InvalidRequestError("give exactly one of --instances, --inputs and --file")
    if instances is not None:
        return _body({"instances": _parse(instances, "--instances")}, "--instances")
    if inputs is not None:
        return _body({"inputs": _parse(inputs, "--inputs")}, "--inputs")
    return _body(_parse(_text(file), f"--file {file}"), f"--file {file}")


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


def _body(document: Any, where: str) -> Body:
    if not isinstance(document, dict) or len({"instances", "inputs"} & set(document)) != 1:
        raise InvalidRequestError(f'{where} is not an object with "instances" or "inputs"')
    instances = document.get("instances")
    if "instances" in document and not isinstance(instances, list):
        raise InvalidRequestError(f"{where} holds instances that are not a list")
    if "inputs" in document and document["inputs"] is None:
        raise InvalidRequestError(f"{where} holds inputs that are null")
    return Body(instances, document.get("inputs"))
