"""Values that JSON can say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any


def finite(value: Any, *, other: Callable[[Any], Any] = str) -> Any:
    """Returns `value` as JSON values, with what JSON cannot say as texts: "nan", "inf", and what `other` makes."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): finite(each, other=other) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each, other=other) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(str(each) for each in value)
    return other(value)
