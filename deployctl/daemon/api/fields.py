"""What requests carry: each value read once, at the edge, by what it is; what a token may not know is refused here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, assert_never

from deployctl.domain.authority import Authority
from deployctl.domain.duration import parse_duration
from deployctl.domain.names import MAX_VERSION, parse_label_name, parse_model_name, parse_target_name
from deployctl.domain.reference import Latest, parse_reference
from deployctl.errors import UsageError

_MAX_TEXT, _MAX_ITEMS, _MAX_DEPTH = 2000, 100, 8
_OPERATION = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)


class Kind(Enum):
    """What a value is."""

    TEXT = auto()
    MODEL = auto()
    TARGET = auto()
    LABEL = auto()
    REFERENCE = auto()
    OPERATION = auto()
    INTEGER = auto()
    BOOLEAN = auto()
    DURATION = auto()
    TEXTS = auto()
    PAIRS = auto()
    NUMBERS = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """One value of a request.

    Attributes:
        doc: what it means.
        least: the smallest integer.
        most: the largest integer.
    """

    name: str
    kind: Kind
    doc: str
    required: bool = False
    least: int = 0
    most: int = MAX_VERSION

    def schema(self) -> dict[str, Any]:
        """Returns the JSON schema of the value."""
        text = {"type": "string", "maxLength": _MAX_TEXT}
        match self.kind:
            case Kind.MODEL | Kind.TARGET | Kind.LABEL:
                return {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"}
            case Kind.REFERENCE:
                return {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(@[A-Za-z0-9:._-]{1,128})?$"}
            case Kind.OPERATION:
                return {"type": "string", "pattern": "^[0-9A-Za-z-]{1,64}$"}
            case Kind.DURATION:
                return {"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"}
            case Kind.TEXT:
                return text | ({"minLength": 1} if self.required else {})
            case Kind.INTEGER:
                return {"type": "integer", "minimum": self.least, "maximum": self.most}
            case Kind.BOOLEAN:
                return {"type": "boolean"}
            case Kind.TEXTS:
                return {"type": "array", "maxItems": _MAX_ITEMS, "items": text}
            case Kind.PAIRS:
                return {"type": "object", "maxProperties": _MAX_ITEMS, "additionalProperties": text}
            case Kind.NUMBERS:
                return {"type": "object", "maxProperties": _MAX_ITEMS, "additionalProperties": {"type": "number"}}
        assert_never(self.kind)

    def from_text(self, text: str) -> Any:
        """Returns the value that a part of a URL means.

        Raises:
            UsageError: it is none of this kind.
        """
        if self.kind is Kind.INTEGER:
            if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
                raise self._wrong(text)
            return self.read(int(text))
        if self.kind is Kind.BOOLEAN:
            if text not in {"true", "false"}:
                raise self._wrong(text)
            return text == "true"
        return self.read(text)

    def read(self, value: Any) -> Any:
        """Returns the value that a JSON value means.

        Raises:
            UsageError: it is none of this kind.
        """
        match self.kind:
            case Kind.INTEGER:
                if type(value) is not int or not self.least <= value <= self.most:
                    raise self._wrong(value)
                return value
            case Kind.BOOLEAN:
                if type(value) is not bool:
                    raise self._wrong(value)
                return value
            case Kind.TEXTS:
                if not isinstance(value, list) or len(value) > _MAX_ITEMS:
                    raise self._wrong(value)
                return tuple(self._text(each) for each in value)
            case Kind.PAIRS | Kind.NUMBERS:
                if not isinstance(value, dict) or len(value) > _MAX_ITEMS:
                    raise self._wrong(value)
                one = self._text if self.kind is Kind.PAIRS else self._number
                return {self._text(name): one(each) for name, each in value.items()}
            case _:
                return self._word(self._text(value))

    def _word(self, text: str) -> Any:
        match self.kind:
            case Kind.MODEL:
                return parse_model_name(text)
            case Kind.TARGET:
                return parse_target_name(text)
            case Kind.LABEL:
                return parse_label_name(text)
            case Kind.REFERENCE:
                return parse_reference(text, default=Latest())
            case Kind.DURATION:
                if not re.fullmatch(r"[0-9]{1,9}(ms|s|m|h|d)", text, re.ASCII):
                    raise self._wrong(text)
                return parse_duration(text)
            case Kind.OPERATION:
                if not _OPERATION.fullmatch(text):
                    raise self._wrong(text)
        if self.required and not text:
            raise self._wrong(text)
        return text

    def _text(self, value: Any) -> str:
        if not isinstance(value, str) or len(value) > _MAX_TEXT or not _is_storable(value):
            raise self._wrong(value)
        return value

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise self._wrong(value)
        return float(value)

    def _wrong(self, value: Any) -> UsageError:
        shown = repr(value)
        return UsageError(f"{self.name} is {shown[:80]}{'…' if len(shown) > 80 else ''}: {self.doc}")


def read_body(raw: bytes, fields: Sequence[Field]) -> dict[str, Any]:
    """Returns the values of a JSON body by their names.

    Raises:
        UsageError: it is no object with these fields, or holds others.
    """
    if _depth(raw) > _MAX_DEPTH:
        raise UsageError(f"the body is nested more than {_MAX_DEPTH} deep")
    try:
        document = json.loads(raw or b"{}", object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError("the body is no JSON object")
    return _values({field.name: field for field in fields}, document, Field.read)


def read_texts(texts: Sequence[tuple[str, str]], fields: Sequence[Field]) -> dict[str, Any]:
    """Returns the values of a URL's query by their names.

    Raises:
        UsageError: it lacks a field, or holds others, or one twice.
    """
    said = _without_repeats(texts)
    return _values({field.name: field for field in fields}, said, Field.from_text)


def check_seen(authority: Authority, fields: Sequence[Field], values: Mapping[str, Any]) -> None:
    """Raises DeniedError where a value names a target or a model that the token is not for."""
    for field in fields:
        value = values.get(field.name)
        if value is None:
            continue
        if field.kind is Kind.TARGET:
            authority.check_target(value)
        elif field.kind is Kind.MODEL:
            authority.check_model(value)
        elif field.kind is Kind.REFERENCE:
            authority.check_model(value.model)


def _values(
    fields: Mapping[str, Field],
    said: Mapping[str, Any],
    read: Callable[[Field, Any], Any],
) -> dict[str, Any]:
    unknown = [name for name in said if name not in fields]
    if unknown:
        known = ", ".join(fields) or "none"
        raise UsageError(f"there is no {unknown[0][:80]!r} here, but: {known}")
    missing = [name for name, field in fields.items() if field.required and name not in said]
    if missing:
        raise UsageError(f"{missing[0]} is missing: {fields[missing[0]].doc}")
    return {name: read(fields[name], value) for name, value in said.items()}


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UsageError("something is said twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _depth(raw: bytes) -> int:
    """Returns how deep brackets are nested, those in texts included: more than any request of ours in either case."""
    depth = deepest = 0
    for byte in raw:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _is_storable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
