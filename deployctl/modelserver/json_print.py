"""JSON values as text, the way TensorFlow Serving prints them in its errors and numbers.

The layout is that of rapidjson's PrettyWriter (four spaces, one element a line) and of WriteDecimal in
tensorflow_serving/util/json_tensor.cc, which clients see in error bodies.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator

FLOAT_MAX = 3.4028234663852886e38
# Where rapidjson's IsFloat() draws the line, which is a little below FLT_MAX.
_PRINTS_AS_FLOAT = 3.4028234e38
# A value quoted in an error is cut here; a client that sent megabytes knows what it sent.
_QUOTED_LIMIT = 65536
_NEEDS_ESCAPE = re.compile(rb'["\\\x00-\x1f]')
_SHORT_ESCAPES = {
    b'"': b'\\"',
    b"\\": b"\\\\",
    b"\b": b"\\b",
    b"\f": b"\\f",
    b"\n": b"\\n",
    b"\r": b"\\r",
    b"\t": b"\\t",
}


def escape(text: bytes) -> bytes:
    """Escapes `text` for a JSON string; bytes that are no UTF-8 pass unchanged."""
    return _NEEDS_ESCAPE.sub(_escape_one, text)


def _escape_one(match: re.Match[bytes]) -> bytes:
    found = match.group()
    return _SHORT_ESCAPES.get(found) or b"\\u%04X" % found[0]


def quote(text: str) -> str:
    """`text` as a JSON string; lone surrogates stand for bytes that were no UTF-8."""
    return '"' + escape(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape") + '"'


def to_float32(value: float) -> float:
    """`value` rounded to the nearest float32; infinite beyond its range."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def decimal_text(value: float, *, single: bool) -> str:
    """Prints a float (`single`) or double: six significant digits where those read back as the same number.

    Otherwise nine or seventeen; ".0" is added to whole numbers without an exponent.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:g}"
    if (to_float32(float(text)) if single else float(text)) != value:
        text = f"{value:.9g}" if single else f"{value:.17g}"
    return text if "." in text or "e" in text else text + ".0"


def decimal_texts(values: list[float], *, single: bool) -> list[bytes]:
    """As `decimal_text` for each of the values, which are float32 already when `single`."""
    count = len(values)
    joined = b"%g " * count % tuple(values)
    if b"n" in joined:  # nan, inf
        return [decimal_text(value, single=single).encode() for value in values]
    texts = joined.split()
    read = map(float, texts)
    same = struct.unpack(f"{count}f", struct.pack(f"{count}f", *read)) if single else tuple(read)
    if same != tuple(values):
        full = b"%.9g" if single else b"%.17g"
        texts = [
            text if found == value else full % value for text, found, value in zip(texts, same, values, strict=True)
        ]
    return [text if b"." in text or b"e" in text else text + b".0" for text in texts]


def value_text(value: object) -> str:
    """Prints a parsed JSON value for an error message, cut after 64 KiB."""
    if isinstance(value, float):
        single = -_PRINTS_AS_FLOAT <= value <= _PRINTS_AS_FLOAT
        return decimal_text(to_float32(value) if single else value, single=single)
    pieces: list[str] = []
    size = 0
    for piece in _pieces(value):
        pieces.append(piece)
        size += len(piece)
        if size > _QUOTED_LIMIT:
            return "".join(pieces)[:_QUOTED_LIMIT] + "..."
    return "".join(pieces)


def _pieces(root: object) -> Iterator[str]:
    """Walks without recursion, since a client chooses the depth."""
    levels: list[tuple[Iterator[tuple[str, object]], str]] = []
    value = root
    while True:
        scalar = _scalar(value)
        if scalar is None:  # rapidjson stops at a NaN inside a value, and so ends the text there
            return
        yield scalar
        separator = ",\n"
        if scalar in ("{", "["):
            levels.append((_members(value), "}" if scalar == "{" else "]"))
            separator = "\n"
        while levels:
            member = next(levels[-1][0], None)
            if member is not None:
                break
            yield "\n" + "    " * (len(levels) - 1) + levels.pop()[1]
            separator = ",\n"
        else:
            return
        yield separator + "    " * len(levels) + member[0]
        value = member[1]


def _members(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        return ((quote(key) + ": ", member) for key, member in value.items())
    return (("", member) for member in value) if isinstance(value, list) else iter(())


def _scalar(value: object) -> str | None:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, float):
        return _double_text(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" if value else "{}"
    return "[" if value else "[]"


def _double_text(value: float) -> str:
    """The shortest text that reads back as `value`, in rapidjson's notation."""
    if value == 0:
        return "-0.0" if math.copysign(1, value) < 0 else "0.0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    power = int(exponent or 0) - len(fraction)
    stripped = digits.rstrip("0")
    power += len(digits) - len(stripped)
    point = len(stripped) + power
    if power >= 0 and point <= 21:
        return f"{sign}{stripped}{'0' * power}.0"
    if 0 < point <= 21:
        return f"{sign}{stripped[:point]}.{stripped[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{stripped}"
    rest = f".{stripped[1:]}" if len(stripped) > 1 else ""
    return f"{sign}{stripped[0]}{rest}e{point - 1}"
