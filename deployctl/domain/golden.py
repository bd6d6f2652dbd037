"""Golden records: requests with the answers that a version must give, one JSON object a line.

    {"signature": "serving_default", "inputs": {"x": [1.0]}, "outputs": {"y": [2.5]}, "dtypes": {"y": "float32"},
     "rtol": 1e-5, "atol": 1e-6, "tolerances": {"y": {"rtol": 1e-3}}, "compare": {"y": "argmax"}}

A request is `inputs` (columns) or `instances` (rows), as in TensorFlow Serving's REST API. `outputs` is always by name
and in columns. Without `outputs`, an answer is only looked at: whether its shape, type and numbers can be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deployctl.errors import InvalidRequestError

# Where an export may bring golden records of its own, below its directory; `convert` writes them.
OWN_GOLDEN_PATH = "assets.extra/deployctl/golden.jsonl"

_KEYS = frozenset(
    ("signature", "inputs", "instances", "outputs", "dtypes", "rtol", "atol", "tolerances", "compare", "name")
)


class Comparison(StrEnum):
    """What must be the same: the values within tolerance, the order of the last axis, or only its first."""

    VALUES = "values"
    RANKING = "ranking"
    ARGMAX = "argmax"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Two numbers are the same where |a - b| <= atol + rtol * |expected|, as in numpy.isclose."""

    rtol: float
    atol: float

    def accepts(self, expected: float, found: float) -> bool:
        """Whether `found` will do for `expected`; infinities only for themselves, and what is no number never."""
        if math.isinf(expected) or math.isinf(found):
            return expected == found
        return abs(expected - found) <= self.atol + self.rtol * abs(expected)


@dataclass(frozen=True, slots=True)
class GoldenRecord:
    """One request, and what is expected of its answer.

    Attributes:
        signature: "" for the default.
        instances: rows, None where the request is `inputs`.
        outputs: by name, in columns; None where nothing is expected.
        dtypes: TensorFlow's name of an output's type, for those that are known.
        tolerances: for outputs that have their own.
    """

    signature: str = ""
    instances: list[Any] | None = None
    inputs: Any = None
    outputs: Mapping[str, Any] | None = None
    dtypes: Mapping[str, str] = field(default_factory=dict)
    rtol: float | None = None
    atol: float | None = None
    tolerances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    compare: Mapping[str, Comparison] = field(default_factory=dict)

    def tolerance(self, output: str, default: Tolerance) -> Tolerance:
        """Returns what is tolerated of an output: its own, else the record's, else the default."""
        own = self.tolerances.get(output, {})
        rtol = own.get("rtol", default.rtol if self.rtol is None else self.rtol)
        atol = own.get("atol", default.atol if self.atol is None else self.atol)
        return Tolerance(rtol, atol)

    def comparison(self, output: str) -> Comparison:
        """Returns how an output is compared."""
        return self.compare.get(output, Comparison.VALUES)

    def to_json(self) -> str:
        """Returns the record as one line; `parse_golden` gives it back."""
        document: dict[str, Any] = {}
        if self.signature:
            document["signature"] = self.signature
        if self.instances is not None:
            document["instances"] = self.instances
        else:
            document["inputs"] = self.inputs
        if self.outputs is not None:
            document["outputs"] = dict(self.outputs)
        for name in ("rtol", "atol"):
            if getattr(self, name) is not None:
                document[name] = getattr(self, name)
        for name in ("dtypes", "tolerances"):
            if getattr(self, name):
                document[name] = dict(getattr(self, name))
        if self.compare:
            document["compare"] = {key: value.value for key, value in self.compare.items()}
        return json.dumps(document)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an output is from what is expected.

    Attributes:
        problem: why it is not the same, "" where it is.
        max_abs: the largest difference of two numbers, 0 where there are none; so `mean_abs`.
        rows: along the last axis, where there are scores; `agreeing`, how many have the same first place.
    """

    problem: str = ""
    max_abs: float = 0.0
    mean_abs: float = 0.0
    rows: int = 0
    agreeing: int = 0


def parse_golden(text: str, where: str) -> tuple[GoldenRecord, ...]:
    """Returns the records of a file; `where` names it in errors, with the line.

    Raises:
        InvalidRequestError: a line is no golden record.
    """
    return tuple(
        _record(line, f"{where}:{number}") for number, line in enumerate(text.splitlines(), start=1) if line.strip()
    )


def _record(line: str, where: str) -> GoldenRecord:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong(where, f"is not JSON: {error}") from error
    if not isinstance(document, dict) or len({"inputs", "instances"} & set(document)) != 1:
        raise _wrong(where, 'is not an object with "inputs" or "instances"')
    unknown = sorted(set(document) - _KEYS)
    if unknown:
        raise _wrong(where, f"has the unknown key {unknown[0]!r}")
    for key, kinds in (("instances", list), ("outputs", dict), ("dtypes", dict), ("tolerances", dict)):
        if key in document and not isinstance(document[key], kinds):
            raise _wrong(where, f"has {key} that is no {'list' if kinds is list else 'object'}")
    try:
        return GoldenRecord(
            signature=str(document.get("signature", "")),
            instances=document.get("instances"),
            inputs=document.get("inputs"),
            outputs=document.get("outputs"),
            dtypes={str(name): str(value) for name, value in document.get("dtypes", {}).items()},
            rtol=_number(document, "rtol"),
            atol=_number(document, "atol"),
            tolerances={
                name: {key: float(value) for key, value in own.items()}
                for name, own in document.get("tolerances", {}).items()
            },
            compare={name: Comparison(value) for name, value in document.get("compare", {}).items()},
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise _wrong(where, f"is no golden record: {error}") from error


def _wrong(where: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where} {reason}", hint="deployctl golden record --help")


def _number(document: Mapping[str, Any], key: str) -> float | None:
    return float(document[key]) if key in document else None


def columns(answer: Any, *, rows: bool, outputs: Sequence[str]) -> dict[str, Any]:
    """Returns a server's answer by output and in columns; `outputs` are the signature's.

    Answers name no output where there is one, and give rows to a request of rows.
    """
    if not rows:
        return dict(answer) if isinstance(answer, dict) and set(answer) == set(outputs) else {outputs[0]: answer}
    if answer and isinstance(answer[0], dict) and set(answer[0]) == set(outputs):
        return {name: [row[name] for row in answer] for name in outputs}
    return {outputs[0]: answer}


def shape_of(value: Any) -> tuple[int, ...]:
    """Returns the shape of nested lists, as far as the first elements tell."""
    sizes = []
    while isinstance(value, list):
        sizes.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(sizes)


def elements(value: Any) -> Iterator[Any]:
    """Yields the elements of nested lists in order."""
    if isinstance(value, list):
        for each in value:
            yield from elements(each)
    else:
        yield value


def not_finite(value: Any) -> float | None:
    """Returns the first number of `value` that is not finite, None without one."""
    return next((each for each in elements(value) if isinstance(each, float) and not math.isfinite(each)), None)


def difference(expected: Any, found: Any, tolerance: Tolerance, comparison: Comparison) -> Difference:
    """Returns how far `found` is from `expected`, both nested lists or scalars."""
    if shape_of(expected) != shape_of(found):
        return Difference(f"has the shape {_shape(found)}, not {_shape(expected)}")
    pairs = list(zip(elements(expected), elements(found), strict=False))
    distances = [abs(a - b) for a, b in pairs if _numeric(a) and _numeric(b) and math.isfinite(a) and math.isfinite(b)]
    agreeing, total = _agreement(expected, found)
    return Difference(
        problem=_problem(expected, found, pairs, tolerance, comparison),
        max_abs=max(distances, default=0.0),
        mean_abs=math.fsum(distances) / len(distances) if distances else 0.0,
        rows=total,
        agreeing=agreeing,
    )


def _problem(
    expected: Any, found: Any, pairs: Sequence[tuple[Any, Any]], tolerance: Tolerance, comparison: Comparison
) -> str:
    if comparison is Comparison.VALUES:
        wrong = [(a, b) for a, b in pairs if not _same(a, b, tolerance)]
        if not wrong:
            return ""
        a, b = max(wrong, key=lambda pair: abs(pair[0] - pair[1]) if _numeric(pair[0]) and _numeric(pair[1]) else 0.0)
        return f"is {_shown(b)}, not {_shown(a)}" + (f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else "")
    for row, (a, b) in enumerate(zip(_rows(expected), _rows(found), strict=False)):
        one, other = _order(a), _order(b)
        if comparison is Comparison.ARGMAX:
            one, other = one[:1], other[:1]
        if one != other:
            return f"ranks {other[:5]} first in row {row}, not {one[:5]}"
    return ""


def _same(expected: Any, found: Any, tolerance: Tolerance) -> bool:
    if _numeric(expected) and _numeric(found):
        return tolerance.accepts(expected, found)
    return type(expected) is type(found) and bool(expected == found)


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rows(value: Any) -> Iterable[list[Any]]:
    """The lists of scores in `value`: what is innermost."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        for each in value:
            yield from _rows(each)
    elif isinstance(value, list):
        yield value


def _order(scores: Sequence[Any]) -> list[int]:
    """Returns the places of `scores` by score, the highest first; what is no score stays where it is."""
    return sorted(range(len(scores)), key=lambda index: -scores[index] if _numeric(scores[index]) else 0)


def _agreement(expected: Any, found: Any) -> tuple[int, int]:
    """Returns how many rows of scores have the same first place, and how many there are."""
    pairs = [
        (a, b)
        for a, b in zip(_rows(expected), _rows(found), strict=False)
        if len(a) > 1 and len(a) == len(b) and all(map(_numeric, (*a, *b)))
    ]
    if len(shape_of(expected)) < 2:
        return 0, 0
    return sum(_order(a)[0] == _order(b)[0] for a, b in pairs), len(pairs)


def _shape(value: Any) -> str:
    return f"({','.join(map(str, shape_of(value)))})"


def _shown(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else repr(value)[:60]
