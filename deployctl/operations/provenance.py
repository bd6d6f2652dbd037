"""Where a version came from, as a document beside its export tells it: `deployctl.json` or `run.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from deployctl.domain.manifest import Provenance
from deployctl.domain.names import parse_digest
from deployctl.errors import InvalidNameError, UsageError

_WORDS = ("run", "code")
_MAPPINGS = ("datasets", "tags")
_FIELDS = (*_WORDS, *_MAPPINGS, "metrics", "parents")


def parse_provenance(document: bytes, *, where: str, source: str) -> Provenance:
    """Returns what a JSON document says of a version that comes from `source`.

    It is an object with any of `run`, `code` (text), `datasets`, `tags` (objects of text), `metrics` (an object of
    numbers) and `parents` (a list of digests of versions).

    Raises:
        UsageError: it is not that; `where` says which document it is.
    """
    try:
        said = json.loads(document)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON: {error}", hint=f"python3 -m json.tool {where}") from error
    if not isinstance(said, dict):
        raise _wrong(where, "is not an object")
    unknown = sorted(said.keys() - set(_FIELDS))
    if unknown:
        raise _wrong(where, f"says {unknown[0]!r}, which is none of {', '.join(_FIELDS)}")
    words: dict[str, Any] = {name: _word(said.get(name, ""), name, where) for name in _WORDS}
    mappings: dict[str, Any] = {
        name: {key: _word(value, f"{name}.{key}", where) for key, value in _object(said, name, where).items()}
        for name in _MAPPINGS
    }
    return Provenance(
        source=source,
        **words,
        **mappings,
        metrics={name: _number(value, name, where) for name, value in _object(said, "metrics", where).items()},
        parents=tuple(_parents(said.get("parents", []), where)),
    )


def finite(what: str, value: float) -> float:
    """Returns the value of a metric.

    Raises:
        UsageError: it is infinite or none at all, which JSON cannot say; `what` gave it.
    """
    if not math.isfinite(value):
        raise UsageError(f"{what} is not a finite number")
    return value


def _object(said: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = said.get(name, {})
    if not isinstance(found, dict):
        raise _wrong(where, f"says {name} = {found!r}, which is not an object")
    return found


def _word(value: object, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, f"says {name} = {value!r}, which is not text")
    return value


def _number(value: object, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, f"says metrics.{name} = {value!r}, which is not a number")
    try:
        return finite(name, float(value))
    except (OverflowError, UsageError) as error:
        raise _wrong(where, f"says metrics.{name} = {value!r}, which is not a finite number") from error


def _parents(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(where, f"says parents = {value!r}, which is not a list")
    try:
        return [parse_digest(_word(each, "parents", where)) for each in value]
    except InvalidNameError as error:
        raise _wrong(where, f"names a parent that is no digest: {error}") from error


def _wrong(where: str, problem: str) -> UsageError:
    return UsageError(f"{where} {problem}", hint=f"python3 -m json.tool {where}")
