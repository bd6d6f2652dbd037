"""The form that all documents share."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from deployctl.domain.json_values import finite
from deployctl.domain.manifest import format_time


def with_schema(noun: str, document: dict[str, Any]) -> dict[str, Any]:
    """Returns `document` with its `schema`, `deployctl.<noun>/1`, in front."""
    return {"schema": f"deployctl.{noun}/1", **document}


def as_text(noun: str, document: dict[str, Any], *, indent: int | None = None) -> str:
    """Returns `document`, with its schema, as JSON; times are RFC 3339 in UTC, infinities are texts."""
    return json.dumps(finite(with_schema(noun, document), other=_plain), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    return str(value)
