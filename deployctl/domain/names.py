"""Names and numbers, each made once at the edge by a `parse_…` that raises InvalidNameError."""

from __future__ import annotations

import re
from typing import NewType

from deployctl.errors import InvalidNameError

ModelName = NewType("ModelName", str)
VersionNumber = NewType("VersionNumber", int)
TargetName = NewType("TargetName", str)
LabelName = NewType("LabelName", str)
Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits."""

STABLE = LabelName("stable")
CANARY = LabelName("canary")

# TensorFlow Serving keeps versions in an int64 (tensorflow_serving/util/…, ParseVersionNumber).
MAX_VERSION = 2**63 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_NAME_RULE = "use 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit"
_VERSION = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def parse_model_name(text: str) -> ModelName:
    """Returns `text` as a model name; it is also a directory name and part of a URL."""
    return ModelName(_parse_name("model", text))


def parse_target_name(text: str) -> TargetName:
    """Returns `text` as a target name."""
    return TargetName(_parse_name("target", text))


def parse_table_name(text: str) -> str:
    """Returns `text` as the name of another table of the settings: an inbox, a rule, a notification."""
    return _parse_name("table", text)


def parse_label_name(text: str) -> LabelName:
    """Returns `text` as a version label; a number would read as a version, and `latest` is a word of ours."""
    if text == "latest" or text.isdigit():
        raise InvalidNameError("label", text, "it would read as a version")
    return LabelName(_parse_name("label", text))


def parse_version_number(text: str) -> VersionNumber:
    """Returns the version that the canonical directory name `text` names.

    Only canonical names are ours: `7`, not `007`, `+7` or ` 7`, which TensorFlow Serving would also take.
    """
    if not is_version_name(text):
        raise InvalidNameError("version", text, f"use a whole number from 0 to {MAX_VERSION}, without leading zeros")
    return VersionNumber(int(text))


def is_version_name(text: str) -> bool:
    """Whether `text` is the canonical directory name of a version."""
    return _VERSION.fullmatch(text) is not None and int(text) <= MAX_VERSION


def server_takes_for_version(text: str) -> bool:
    """Whether TensorFlow Serving would take a directory entry of this name for a version.

    absl::SimpleAtoi<int64>: surrounding ASCII white space, a sign and leading zeros are accepted
    (tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc, ParseVersionNumber).
    """
    match = re.fullmatch(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*", text, re.ASCII)
    return match is not None and -(2**63) <= int(match[1]) <= MAX_VERSION


def parse_digest(text: str) -> Digest:
    """Returns `text` as a content digest."""
    if not _DIGEST.fullmatch(text):
        raise InvalidNameError("digest", text, "use sha256: and 64 lower-case hex digits")
    return Digest(text)


def _parse_name(noun: str, text: str) -> str:
    if not _NAME.fullmatch(text):
        raise InvalidNameError(noun, text, _NAME_RULE)
    return text
