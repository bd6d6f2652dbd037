"""`MODEL@REF`: how people name a version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployctl.domain.names import (
    LabelName,
    ModelName,
    VersionNumber,
    is_version_name,
    parse_label_name,
    parse_model_name,
    parse_version_number,
)
from deployctl.errors import InvalidNameError, InvalidReferenceError

_DIGEST_PREFIX = re.compile(r"sha256:[0-9a-f]{4,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Latest:
    """The highest published version."""

    def __str__(self) -> str:
        return "latest"


@dataclass(frozen=True, slots=True)
class DigestPrefix:
    """The version whose digest starts with `prefix` (`sha256:` and at least 4 hex digits)."""

    prefix: str

    def __str__(self) -> str:
        return self.prefix


@dataclass(frozen=True, slots=True)
class ByNumber:
    """One version by its number."""

    number: VersionNumber

    def __str__(self) -> str:
        return str(self.number)


@dataclass(frozen=True, slots=True)
class ByLabel:
    """The version that a label points to on a target."""

    label: LabelName

    def __str__(self) -> str:
        return self.label


Selector = Latest | ByNumber | ByLabel | DigestPrefix


@dataclass(frozen=True, slots=True)
class Reference:
    """A model and which of its versions is meant."""

    model: ModelName
    selector: Selector

    def __str__(self) -> str:
        return f"{self.model}@{self.selector}"


def parse_reference(text: str, *, default: Selector | None = None) -> Reference:
    """Returns the reference that `text` spells; `default` is meant where it has no `@`.

    Raises:
        InvalidReferenceError: `text` is not MODEL@REF, or has no `@` and there is no default.
        InvalidNameError: the model part cannot name a model.
    """
    model, at, selector = text.partition("@")
    if not at:
        if default is None:
            raise InvalidReferenceError(text, "say which version, as MODEL@REF")
        return Reference(parse_model_name(model), default)
    return Reference(parse_model_name(model), _parse_selector(text, selector))


def _parse_selector(text: str, selector: str) -> Selector:
    if selector == "latest":
        return Latest()
    if is_version_name(selector):
        return ByNumber(parse_version_number(selector))
    if selector.startswith("sha256:"):
        if not _DIGEST_PREFIX.fullmatch(selector):
            raise InvalidReferenceError(text, "a digest prefix is sha256: and 4 to 64 lower-case hex digits")
        return DigestPrefix(selector)
    try:
        return ByLabel(parse_label_name(selector))
    except InvalidNameError as error:
        raise InvalidReferenceError(text, "REF is a number, a label, 'latest' or sha256:PREFIX") from error
