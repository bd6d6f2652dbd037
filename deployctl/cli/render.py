"""Results as text: aligned tables for people, one JSON document for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

from deployctl.documents.text import as_text
from deployctl.domain.manifest import format_time

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


def coloured(stream: TextIO) -> bool:
    """Whether `stream` gets colour: a terminal does, unless NO_COLOR is set (https://no-color.org) or it is dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, name: str, stream: TextIO) -> str:
    """Returns `text` in the style, where `stream` gets colour."""
    return f"\x1b[{_STYLES[name]}m{text}\x1b[0m" if coloured(stream) else text


def write(text: str, *, end: str = "\n") -> None:
    """Writes one line of results."""
    print(text, end=end, flush=not end)


def write_json(noun: str, document: dict[str, Any]) -> None:
    """Writes one JSON document whose `schema` is `deployctl.<noun>/1`; never wrapped or coloured."""
    print(as_text(noun, document, indent=2))


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes aligned columns; the last one is cut to the width of a terminal, and never in a pipe."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    room = os.get_terminal_size().columns if sys.stdout.isatty() else None
    for index, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        if room is not None and len(text) > room:
            text = text[: max(room - 1, 1)] + "…"
        write(style(text, "bold", sys.stdout) if index == 0 else text)


def size(count: int) -> str:
    """Returns a number of bytes for people, in powers of 1000: "412 kB"."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 9.95 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def short_digest(digest: str) -> str:
    """Returns the start of a digest, enough to name the version by."""
    return f"{digest[:15]}…"


def short_time(at: datetime) -> str:
    """Returns a time in UTC to the second."""
    return format_time(at)[:19] + "Z"
