"""Expressions of a command line: each has a value, or a sentence that says why not."""

from __future__ import annotations

from typing import Any

import pytest

from deployctl.errors import InvalidRequestError
from deployctl.modelserver.expressions import evaluate


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-(1 + 2) * 3", -9),
        ("ones(2) * [1, 2] / 2", [0.5, 1.0]),
        ("[18446744073709551615, 1]", [2**64 - 1, 1]),
        ("[9007199254740993, 0.0]", [2**53 + 1, 0.0]),
        ("-9223372036854775808", -(2**63)),
        ('["a", "\\u00e4"]', ["a", "ä"]),
        ("[]", []),
    ],
)
def test_has_a_value(text: str, value: Any) -> None:
    assert evaluate(text).tolist() == value


@pytest.mark.parametrize(
    "text",
    [
        "rand(1e400)",
        "zeros(1e999)",
        "zeros(0, 1e20)",
        f"zeros({', '.join(['1'] * 70)})",
        r'"\x"',
        '"a" + 1',
        '-"a"',
        "-true",
        "true * 2",
        "ones(2) + ones(3)",
        "ones(100000, 1) * ones(1, 100000)",
        "1" * 5000,
        "9223372036854775807 + 1",
        "9223372036854775807 * [2]",
        "arange(1e400, 1e400)",
        "[[1], [1, 2]]",
        "(" * 100,
    ],
)
def test_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no tensor expression: .") as refused:
        evaluate(text)

    assert len(str(refused.value)) < 400
