"""Request bodies to Python values, accepting and refusing what TensorFlow Serving's parser does.

orjson reads almost every body. What it refuses is read again: NaN, Infinity and -Infinity are values here, bytes
that are no UTF-8 are kept, and everything else ends in rapidjson's own words and offset
(rapidjson/error/en.h, with kParseNanAndInfFlag and kParseIterativeFlag).

Two things differ on purpose. Nesting deeper than 1,024 is refused (upstream overflows its stack). Of a key that
occurs twice the last value counts (upstream takes the first).
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.json_print import value_text

MAX_DEPTH = 1024
# Above this, a body that orjson refuses is not read a second time just to name the fault in upstream's words.
_SECOND_READING_LIMIT = 8 << 20
_INT64_MIN, _UINT64_MAX = -(1 << 63), (1 << 64) - 1

_SPACE = re.compile(rb"[ \n\r\t]*")
_NUMBER = re.compile(rb"(-?(?:0|[1-9][0-9]*))((?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_NON_FINITE = re.compile(rb"(-?)(?:NaN|Inf(?:inity)?)")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX4 = re.compile(rb"[0-9a-fA-F]{4}")
# What json.loads may read differently from rapidjson: unpaired surrogates, and numbers beyond a double or a uint64.
_BEYOND_JSON_MODULE = re.compile(rb"\\u[dD][89a-fA-F]|[eE]\+?0*[1-9][0-9]{2}|[0-9]{19}")
_ESCAPES = {0x22: b'"', 0x5C: b"\\", 0x2F: b"/", 0x62: b"\b", 0x66: b"\f", 0x6E: b"\n", 0x72: b"\r", 0x74: b"\t"}
_LITERALS: dict[int, tuple[bytes, bool | None]] = {
    0x6E: (b"null", None),
    0x74: (b"true", True),
    0x66: (b"false", False),
}

_INVALID_VALUE = "Invalid value."
_MISS_NAME = "Missing a name for object member."
_MISS_COLON = "Missing a colon after a name of object member."
_MISS_CURLY = "Missing a comma or } after an object member."
_MISS_SQUARE = "Missing a comma or ] after an array element."


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses a request body, whose top level must be an object.

    Bytes in strings that are no UTF-8 come as lone surrogates ("surrogateescape").

    Raises:
        StatusError: INVALID_ARGUMENT in upstream's words.
    """
    if not body:
        raise StatusError(Code.INVALID_ARGUMENT, "JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = _read_again(body, error)
    if not isinstance(value, dict):
        raise StatusError(Code.INVALID_ARGUMENT, f"JSON Value: {value_text(value)} Is not object")
    return value


def _read_again(body: bytes, refused: orjson.JSONDecodeError) -> object:
    if (b"NaN" in body or b"Infinity" in body) and not _BEYOND_JSON_MODULE.search(body):
        try:
            return json.loads(body.decode())
        except (ValueError, RecursionError):
            pass
    if len(body) > _SECOND_READING_LIMIT:
        _fail(_INVALID_VALUE, refused.pos)
    return _Reader(body).read()


def _fail(reason: str, offset: int) -> NoReturn:
    raise StatusError(Code.INVALID_ARGUMENT, f"JSON Parse error: {reason} at offset: {offset}")


_Container = list[object] | dict[str, object]


class _Reader:
    """Reads one document as rapidjson does, without recursion."""

    def __init__(self, body: bytes) -> None:
        self._body = body + b"\0"  # rapidjson takes a NUL for the end, and its stream gives one there
        self._at = 3 if body.startswith(b"\xef\xbb\xbf") else 0
        self._open: list[_Container] = []
        self._keys: list[str] = []

    def read(self) -> object:
        while True:
            value, complete = self._start()
            while complete:
                if not self._open:
                    if self._peek():
                        _fail("The document root must not be followed by other values.", self._at)
                    return value
                value, complete = self._put(value)

    def _peek(self) -> int:
        match = _SPACE.match(self._body, self._at)
        self._at = match.end() if match else self._at
        return self._body[self._at]

    def _start(self) -> tuple[object, bool]:
        """Reads a scalar, an empty container, or the opening of a container, which is then not complete."""
        char = self._peek()
        if char not in b"{[":
            return self._scalar(char), True
        container: _Container = {} if char == 0x7B else []
        self._at += 1
        if len(self._open) == MAX_DEPTH:
            _fail(f"Nested deeper than {MAX_DEPTH} levels.", self._at - 1)
        if self._peek() == (0x7D if isinstance(container, dict) else 0x5D):
            self._at += 1
            return container, True
        self._open.append(container)
        if isinstance(container, dict):
            self._keys.append(self._key())
        return container, False

    def _put(self, value: object) -> tuple[object, bool]:
        """Puts a complete value into the innermost container and reads what follows it."""
        container = self._open[-1]
        if isinstance(container, dict):
            container[self._keys[-1]] = value
        else:
            container.append(value)
        char = self._peek()
        self._at += 1
        if isinstance(container, dict):
            if char == 0x2C:
                self._keys[-1] = self._key()
                return None, False
            if char != 0x7D:
                _fail(_MISS_CURLY, self._at - 1)
            self._keys.pop()
        elif char == 0x2C:
            return None, False
        elif char != 0x5D:
            _fail(_MISS_SQUARE, self._at - 1)
        return self._open.pop(), True

    def _key(self) -> str:
        if self._peek() != 0x22:
            _fail(_MISS_NAME, self._at)
        key = self._string()
        if self._peek() != 0x3A:
            _fail(_MISS_COLON, self._at)
        self._at += 1
        return key

    def _scalar(self, char: int) -> object:
        if char == 0x22:
            return self._string()
        if char in _LITERALS:
            word, value = _LITERALS[char]
            for expected in word:
                if self._body[self._at] != expected:
                    _fail(_INVALID_VALUE, self._at)
                self._at += 1
            return value
        if char == 0 and not self._open:
            _fail("The document is empty.", self._at)
        return self._number()

    def _number(self) -> float:
        start = self._at
        match = _NUMBER.match(self._body, start)
        if not match:
            return self._non_finite()
        self._at = match.end()
        whole, rest = match.groups()
        self._refuse_half_a_number(rest)
        if not rest and len(whole) <= 20 and _INT64_MIN <= int(whole) <= _UINT64_MAX:
            return int(whole)
        value = float(match.group())
        if value in (float("inf"), float("-inf")):
            _fail("Number too big to be stored in double.", start)
        return value

    def _refuse_half_a_number(self, rest: bytes) -> None:
        following = self._body[self._at]
        if following == 0x2E and not rest:
            _fail("Miss fraction part in number.", self._at + 1)
        if following in b"eE" and b"e" not in rest.lower():
            signed = self._body[self._at + 1 : self._at + 2] in (b"+", b"-")
            _fail("Miss exponent in number.", self._at + (2 if signed else 1))

    def _non_finite(self) -> float:
        match = _NON_FINITE.match(self._body, self._at)
        if not match:
            _fail(_INVALID_VALUE, self._at + self._matching_prefix())
        self._at = match.end()
        word = match.group()
        if word.endswith(b"Inf") and self._body[self._at] == 0x69:
            _fail(_INVALID_VALUE, self._at + self._matching_prefix(b"inity"))
        return float(word.decode().replace("-NaN", "NaN"))

    def _matching_prefix(self, *words: bytes) -> int:
        """How many bytes from here could still begin a value, which is where rapidjson says the fault is."""
        signed = 1 if not words and self._body[self._at] == 0x2D else 0
        rest = self._body[self._at + signed : self._at + signed + 8]
        lengths = [0]
        for word in words or (b"NaN", b"Infinity"):
            lengths += [size for size in range(1, len(word)) if rest.startswith(word[:size])]
        return signed + max(lengths)

    def _string(self) -> str:
        self._at += 1
        pieces: list[bytes] = []
        while True:
            match = _PLAIN.match(self._body, self._at)
            if match:
                pieces.append(match.group())
                self._at = match.end()
            char = self._body[self._at]
            if char == 0x22:
                self._at += 1
                return b"".join(pieces).decode("utf-8", "surrogateescape")
            if char != 0x5C:
                reason = "Invalid encoding in string." if char else "Missing a closing quotation mark in string."
                _fail(reason, self._at)
            pieces.append(self._escape())

    def _escape(self) -> bytes:
        start = self._at
        char = self._body[start + 1]
        self._at += 2
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char != 0x75:
            _fail("Invalid escape character in string.", start)
        code = self._hex4(start)
        if 0xD800 <= code <= 0xDFFF:
            paired = code <= 0xDBFF and self._body[self._at : self._at + 2] == b"\\u"
            if paired:
                self._at += 2
            low = self._hex4(start) if paired else 0
            if not 0xDC00 <= low <= 0xDFFF:
                _fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return chr(code).encode()

    def _hex4(self, start: int) -> int:
        match = _HEX4.match(self._body, self._at)
        if not match:
            _fail("Incorrect hex digit after \\u escape in string.", start)
        self._at = match.end()
        return int(match.group(), 16)
