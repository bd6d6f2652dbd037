"""Results as text: aligned tables for people, one JSON document for programs."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

from deployctl.documents.text import as_text
from deployctl.domain.manifest import format_time

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_STYLED = re.compile(r"(\x1b\[\d+m)?(.*?)(\x1b\[0m)?", re.DOTALL)
_GAP = "  "
# A column of fewer characters than these tells nothing.
_LEGIBLE = 3


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


def write_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, whole: Collection[str] = ()) -> None:
    """Writes aligned columns, narrowed to the width of a terminal so that all are seen; in a pipe they are whole.

    Args:
        header: the columns' names.
        rows: their cells, each of which may have a style.
        whole: the columns that are narrowed only where the others cannot be any more.
    """
    # A terminal that does not know its size says 0.
    room = os.get_terminal_size().columns if sys.stdout.isatty() else 0
    first, *others = table_lines(header, rows, whole=whole, room=room or None)
    write(style(first, "bold", sys.stdout))
    for line in others:
        write(line)


def table_lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, whole: Collection[str], room: int | None
) -> list[str]:
    """Returns the lines of a table, as `write_table`, in `room` columns; None for as many as it needs."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(header))]
    if room is not None:
        firm = [column for column, name in enumerate(header) if name in whole]
        widths = _narrowed(widths, room - len(_GAP) * (len(header) - 1), firm)
    return [
        _GAP.join(_padded(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def _narrowed(widths: Sequence[int], room: int, firm: Collection[int]) -> list[int]:
    """Returns `widths` with the widest made less until all are within `room`: those not `firm` first."""
    narrowed = list(widths)
    loose = [column for column in range(len(widths)) if column not in firm]
    for columns, least in ((loose, _LEGIBLE), (firm, _LEGIBLE), (range(len(widths)), 1)):
        while sum(narrowed) > room and any(narrowed[column] > least for column in columns):
            narrowed[max(columns, key=lambda column: (narrowed[column], column))] -= 1
    return narrowed


def _padded(cell: str, width: int) -> str:
    """Returns `cell` in `width` columns, its end replaced by an ellipsis where it has more."""
    before, text, after = _STYLED.fullmatch(cell).groups("")  # type: ignore[union-attr]
    if len(text) > width:
        text = text[: width - 1] + "…"
    return f"{before}{text}{after}{' ' * (width - len(text))}"


def _width(cell: str) -> int:
    """Returns how many columns `cell` takes; its style takes none."""
    return len(_STYLED.fullmatch(cell)[2])  # type: ignore[index]


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
