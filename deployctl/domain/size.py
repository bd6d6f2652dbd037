"""Amounts of bytes as people write them."""

from __future__ import annotations

import re

from deployctl.errors import UsageError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("KMGT", start=1)
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?i?B|)", re.ASCII)


def parse_size(text: str) -> int:
    """Returns the bytes that `text` means: "20GiB", "500 MB", or a bare number of bytes.

    Raises:
        UsageError: it is none of these.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise UsageError(f"{text!r} is not an amount of bytes: write it as 20GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])
