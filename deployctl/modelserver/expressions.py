"""Tensor values as short words on a command line: `zeros(1,128,128,3)`, `rand(7, 2, 4) * 255`, `[[1, 2]]`.

    value   = term (("+" | "-") term)*
    term    = factor (("*" | "/") factor)*
    factor  = "-" factor | "(" value ")" | call | literal
    call    = ("zeros" | "ones" | "rand" | "arange" | "full") "(" [number ("," number)*] ")"
    literal = a number, a string in quotes, true, false, or a list of literals, as in JSON

It is parsed here and never evaluated as Python.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deployctl.client.values import UnfitError, as_array, as_exact
from deployctl.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# A tensor of this many elements takes a gigabyte as float32.
MAX_ELEMENTS = 1 << 28
_MAX_DEPTH = 64
_SHOWN = 200
_MOST_DIGITS = 400
# What int64 holds, whatever the sign.
_LARGEST = (1 << 63) - 1
_OPERATIONS = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r'|(?P<string>"(?:[^"\\]|\\.)*")|(?P<name>[A-Za-z_]\w*)|(?P<mark>[-+*/(),\[\]]))'
)

Shape = tuple[int | None, ...] | None


def evaluate(text: str, shape: Shape = None) -> Array:
    """Returns the value of the expression `text`.

    Args:
        text: the expression.
        shape: of the input that it is for: what `zeros()`, `ones()` and `rand(seed)` give without sizes of their own;
            a free axis has size 1 there.

    Raises:
        InvalidRequestError: it is no expression, or its value would be too large.
    """
    parser = _Parser(text, shape)
    value = parser.value(0)
    parser.end()
    return value


class _Parser:
    """A recursive descent over the tokens of one expression."""

    def __init__(self, text: str, shape: Shape) -> None:
        self._text = text
        self._shape = shape
        self._tokens = _tokens(text)
        self._next = 0

    def end(self) -> None:
        if self._next < len(self._tokens):
            raise self._error(f"{self._tokens[self._next][1]!r} stands where nothing may follow")

    def value(self, depth: int) -> Array:
        result = self._term(depth)
        while sign := self._taken("+", "-"):
            result = self._combined(sign, result, self._term(depth))
        return result

    def _term(self, depth: int) -> Array:
        result = self._factor(depth)
        while sign := self._taken("*", "/"):
            result = self._combined(sign, result, self._factor(depth))
        return result

    def _combined(self, sign: str, left: Array, right: Array) -> Array:
        if any(side.dtype.kind not in "iuf" for side in (left, right)):
            raise self._error(f"{sign!r} stands between what are not both numbers")
        try:
            shape = np.broadcast_shapes(left.shape, right.shape)
        except ValueError as error:
            raise self._error(f"{left.shape} and {right.shape} are no shapes for {sign!r}") from error
        self._bounded(shape)
        if sign != "/" and left.dtype.kind in "iu" and right.dtype.kind in "iu":
            largest = _magnitude(left), _magnitude(right)
            if (largest[0] * largest[1] if sign == "*" else sum(largest)) > _LARGEST:
                raise self._error("it would have integers of more than 64 bits")
        with np.errstate(all="ignore"):
            result: Array = _OPERATIONS[sign](left, right)
        return result

    def _factor(self, depth: int) -> Array:
        if depth > _MAX_DEPTH:
            raise self._error("it is nested too deeply")
        if self._taken("-"):
            return self._negative(self._factor(depth + 1))
        if self._taken("("):
            inner = self.value(depth + 1)
            self._expect(")")
            return inner
        kind, word = self._peek()
        if kind == "name" and word not in ("true", "false"):
            self._next += 1
            return self._call(word)
        return _array(self._literal(depth), self._error)

    def _negative(self, value: Array) -> Array:
        if value.dtype.kind not in "iuf":
            raise self._error("'-' stands before what is no number")
        if value.dtype.kind != "u":
            return -value
        # NumPy's negative of an unsigned number wraps.
        return np.array([-item for item in value.ravel().tolist()]).reshape(value.shape)

    def _call(self, name: str) -> Array:
        self._expect("(")
        arguments: list[float] = []
        while not self._taken(")"):
            if arguments:
                self._expect(",")
            sign = -1 if self._taken("-") else 1
            kind, word = self._peek()
            if kind != "number":
                raise self._error(f"{name}() takes numbers, not {word!r}")
            self._next += 1
            arguments.append(sign * _number(word, self._error))
            if not math.isfinite(arguments[-1]):
                raise self._error(f"{word} is too large")
        try:
            return self._made(name, arguments)
        except (OverflowError, TypeError, ValueError) as error:
            raise self._error(f"{name}() cannot be made: {error}") from error

    def _made(self, name: str, arguments: list[float]) -> Array:
        if name == "zeros":
            return np.zeros(self._sizes(arguments))
        if name == "ones":
            return np.ones(self._sizes(arguments))
        if name == "rand" and arguments:
            seed, *sizes = arguments
            return np.random.default_rng(_whole(seed, self._error)).random(self._sizes(sizes))
        if name == "full" and arguments:
            value, *sizes = arguments
            return np.full(self._sizes(sizes), value)
        if name == "arange" and 1 <= len(arguments) <= 3:
            start, stop, step = {1: (0, *arguments, 1), 2: (*arguments, 1), 3: tuple(arguments)}[len(arguments)]
            if not step or abs((stop - start) / step) > MAX_ELEMENTS:
                raise self._error("arange() would not end")
            return np.arange(start, stop, step)
        raise self._error(f"{name}({', '.join(map(str, arguments))}) is none of zeros, ones, full, rand and arange")

    def _sizes(self, arguments: list[float]) -> tuple[int, ...]:
        if arguments:
            sizes = tuple(_whole(size, self._error) for size in arguments)
        elif self._shape is None:
            raise self._error("sizes are needed, since the input has none of its own")
        else:
            sizes = tuple(1 if size is None else size for size in self._shape)
        return self._bounded(sizes)

    def _bounded(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(sizes) > _MAX_DEPTH:
            raise self._error(f"it would have {len(sizes)} axes")
        if math.prod(sizes) > MAX_ELEMENTS or max(sizes, default=0) > MAX_ELEMENTS:
            raise self._error(f"it would have {' x '.join(map(str, sizes))} elements")
        return sizes

    def _literal(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._error("it is nested too deeply")
        if self._taken("["):
            items: list[Any] = []
            while not self._taken("]"):
                if items:
                    self._expect(",")
                items.append(self._literal(depth + 1))
            return items
        sign = -1 if self._taken("-") else 1
        kind, word = self._peek()
        self._next += 1
        if kind == "number":
            return sign * _number(word, self._error)
        if kind == "string" and sign == 1:
            return self._text_of(word)
        if kind == "name" and word in ("true", "false"):
            return word == "true"
        raise self._error(f"{word or 'the end'!r} stands where a value should")

    def _text_of(self, word: str) -> Any:
        try:
            return json.loads(word)
        except ValueError as error:
            raise self._error(f"{word} is no string of JSON") from error

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "")

    def _taken(self, *marks: str) -> str:
        kind, word = self._peek()
        if kind == "mark" and word in marks:
            self._next += 1
            return word
        return ""

    def _expect(self, mark: str) -> None:
        if not self._taken(mark):
            raise self._error(f"{self._peek()[1] or 'the end'!r} stands where {mark!r} should")

    def _error(self, reason: str) -> InvalidRequestError:
        text = self._text if len(self._text) <= _SHOWN else f"{self._text[:_SHOWN]}…"
        return InvalidRequestError(f"{text!r} is no tensor expression: {reason}")


def _tokens(text: str) -> list[tuple[str, str]]:
    found, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise InvalidRequestError(
                f"{text!r} is no tensor expression: {text[position:].strip()[:10]!r} has no meaning"
            )
        found.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


def _magnitude(array: Array) -> int:
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def _number(word: str, error: Callable[[str], InvalidRequestError]) -> int | float:
    if len(word) > _MOST_DIGITS:
        raise error(f"{word[:10]}… has {len(word)} digits")
    return int(word) if word.isdigit() else float(word)


def _whole(number: float, error: Callable[[str], InvalidRequestError]) -> int:
    if number != int(number) or number < 0:
        raise error(f"{number} is neither a size nor a seed")
    return int(number)


def _array(literal: Any, error: Callable[[str], InvalidRequestError]) -> Array:
    try:
        return as_exact(literal, as_array(literal))
    except UnfitError as problem:
        raise error(f"it {problem}") from problem


def read_array(file: Path, name: str) -> Array:
    """Returns the array in a `.npy` file, or the one called `name`, or the only one, of a `.npz` file.

    Pickles are never loaded, since they run code.

    Raises:
        InvalidRequestError: it cannot be read, or needs pickle.
    """
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            key = name if name in loaded.files else loaded.files[0] if len(loaded.files) == 1 else None
            if key is None:
                raise InvalidRequestError(f"{file} has no array {name!r}, only {', '.join(loaded.files)}")
            array: Array = loaded[key]
            return array
    except (OSError, ValueError, EOFError, KeyError) as error:
        reason = "it holds pickled objects, which are never loaded" if "pickle" in str(error) else str(error)
        raise InvalidRequestError(f"{file} cannot be read as an array: {reason}") from error
