"""How one setting is defined: its reference text, its default, and how it may be written."""

from __future__ import annotations

from dataclasses import field
from typing import Any

# The mark of a float field that takes durations, and of a whole number that takes amounts of bytes.
DURATION = "duration"
SIZE = "size"


def setting(doc: str, *, default: Any, kind: str = "") -> Any:
    """Returns a dataclass field with its reference text; `kind` is DURATION for seconds, SIZE for bytes."""
    return field(default=default, metadata={"doc": doc, "kind": kind})
