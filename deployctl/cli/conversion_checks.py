"""What the commands of `convert` refuse before anything is converted: options that would be ignored, or say nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from deployctl.cli.conversion_options import Ending
from deployctl.errors import UsageError

# Options by the field of the request that they set, with what they change nothing without, and how that is asked for.
_NEEDED = (
    ("scale", "--scale", ("images",), "--decode-image"),
    ("offset", "--offset", ("images",), "--decode-image"),
    ("unknown", "--unknown", ("vectors",), "--vectors"),
    ("tokens", "--tokens", ("vocabulary", "vectors"), "--vocabulary or --vectors"),
    ("length", "--length", ("vocabulary", "vectors"), "--vocabulary or --vectors"),
    ("scores", "--scores", ("labels", "classify", "regress"), "--labels, --classify or --regress"),
)


def check_options(ending: Ending, models: Mapping[str, Path], more: Mapping[str, Any]) -> None:
    """Looks at what a command was told.

    Args:
        ending: what all commands are told.
        models: to be converted, by name.
        more: fields of the `ConversionRequest`, and "inputs" and "outputs" by name.

    Raises:
        UsageError: a number is none, a name is empty or cannot be written, or an option would be ignored.
    """
    numbers = {"--rtol": ending.rtol, "--atol": ending.atol, "--scale": more.get("scale")}
    for option, number in (numbers | {"--offset": more.get("offset")}).items():
        if number is not None and not math.isfinite(number):
            raise UsageError(f"{option} {number} is no finite number")
    if more.get("signature") == "":
        raise UsageError("--signature '' is no name of a signature")
    for path in (*([ending.out] if ending.out is not None else []), *models.values()):
        _check_writable(path)
    _check_needed(more)
    for side in ("inputs", "outputs"):
        _check_prefixes(f"--{side}", more.get(side) or {}, models)


def _check_writable(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the path {str(path)!r} is not UTF-8, and TensorFlow takes no other") from error


def _check_needed(more: Mapping[str, Any]) -> None:
    from deployctl.convert.request import ConversionRequest

    defaults = {each.name: each.default for each in fields(ConversionRequest)}
    for field, option, needed, words in _NEEDED:
        if more.get(field, defaults[field]) != defaults[field] and not any(more.get(each) for each in needed):
            raise UsageError(f"{option} {more[field]} changes nothing without {words}")


def _check_prefixes(option: str, tensors: Mapping[str, str], models: Mapping[str, Path]) -> None:
    for name in tensors:
        if "/" in name and not any(name.startswith(f"{model}/") for model in models):
            raise UsageError(f"{option} {name!r} is for none of the models, which are {', '.join(models)}")
