"""Turns what a file, a variable or a flag says into the type that the setting has."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import Field
from enum import Enum
from functools import cache
from typing import Any

from deployctl.config.definition import DURATION, SIZE
from deployctl.config.settings import NAMED, SECTIONS, Settings, leaves
from deployctl.domain.duration import parse_duration
from deployctl.domain.size import parse_size
from deployctl.errors import SettingsError, UsageError


def coerce(key: str, value: Any, where: str) -> Any:
    """Returns a TOML value as the type of setting `key`; `where` names the source in errors.

    Raises:
        SettingsError: no such setting, or a value that does not fit it.
    """
    kind, definition = _setting(key, where)
    if definition.metadata["kind"] == DURATION and isinstance(value, str):
        return _duration(key, value, where)
    if definition.metadata["kind"] == SIZE and isinstance(value, str):
        return _size(key, value, where)
    if isinstance(value, str) and issubclass(kind, Enum):
        return _choice(key, kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = tuple(value)
    if type(value) is not kind:
        raise SettingsError(f"{key} = {value!r} in {where} is not {_described(kind, definition)}")
    return _in_range(key, value, where)


def from_text(key: str, text: str, where: str) -> Any:
    """Returns the value that `text` spells for setting `key`, as `coerce`; list items are parted by white space."""
    kind, definition = _setting(key, where)
    if definition.metadata["kind"] in {DURATION, SIZE} or kind is str or issubclass(kind, Enum):
        return coerce(key, text, where)
    try:
        value: Any = _READ[kind](text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{key} = {text!r} in {where} is not {_described(kind, definition)}") from error
    return coerce(key, value, where)


_READ: Mapping[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: lambda text: {"true": True, "false": False, "1": True, "0": False}[text.lower()],
    tuple: lambda text: text.split(),
}
_DESCRIBED: Mapping[type, str] = {
    int: "a whole number",
    bool: "true or false",
    tuple: "a list of texts",
    float: "a number",
    str: "a text in quotes",
}


_A_DURATION = 'a duration such as 90, "90s" or "5m"'


def _described(kind: type, definition: Field[Any]) -> str:
    return _A_DURATION if definition.metadata["kind"] == DURATION else _DESCRIBED.get(kind, "a text")


def _setting(key: str, where: str) -> tuple[type, Field[Any]]:
    section, _, rest = key.partition(".")
    owner: type | None = SECTIONS.get(section)
    name = rest
    if section in NAMED and "." in rest:
        owner, name = NAMED[section], rest.partition(".")[2]
    elif not rest:
        owner, name = Settings, key
    found = _leaves(owner).get(name) if owner else None
    if found is None:
        raise SettingsError(f"there is no setting {key!r} ({where})", hint="deployctl config show")
    return found


@cache
def _leaves(owner: type) -> dict[str, tuple[type, Field[Any]]]:
    return {name: (typing.get_origin(kind) or kind, each) for name, each, kind in leaves(owner)}


def _duration(key: str, value: str, where: str) -> float:
    try:
        return parse_duration(value)
    except UsageError as error:
        raise SettingsError(f"{key} = {value!r} in {where} is not {_A_DURATION}") from error


def _size(key: str, value: str, where: str) -> int:
    try:
        return parse_size(value)
    except UsageError as error:
        raise SettingsError(f'{key} = {value!r} in {where} is not an amount of bytes such as "20GiB"') from error


def _choice(key: str, kind: type[Enum], value: str, where: str) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(repr(each.value) for each in kind)
        raise SettingsError(f"{key} = {value!r} in {where} is not one of {choices}") from error


def _in_range(key: str, value: Any, where: str) -> Any:
    if key.endswith("_port") and not 0 <= value <= 65535:
        raise SettingsError(f"{key} = {value} in {where} is not a port from 0 to 65535")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{key} = {value} in {where} is not a finite number")
    if isinstance(value, int | float) and value < 0:
        raise SettingsError(f"{key} = {value} in {where} is negative")
    return value
