from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.golden import (
    Comparison,
    GoldenRecord,
    Tolerance,
    columns,
    difference,
    parse_golden,
)
from deployctl.errors import InvalidRequestError

EXACT = Tolerance(0.0, 0.0)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TENSORS = st.recursive(NUMBERS | st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=8)
RECORDS = st.builds(
    GoldenRecord,
    signature=st.text(max_size=5),
    inputs=st.dictionaries(st.text(max_size=3), TENSORS, max_size=2),
    outputs=st.none() | st.dictionaries(st.text(max_size=3), TENSORS, max_size=2),
    dtypes=st.dictionaries(st.text(max_size=3), st.sampled_from(["float32", "string"]), max_size=2),
    rtol=st.none() | NUMBERS,
    atol=st.none() | NUMBERS,
    tolerances=st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"rtol": NUMBERS}), max_size=2),
    compare=st.dictionaries(st.text(max_size=3), st.sampled_from(Comparison), max_size=2),
)


@given(st.lists(RECORDS, max_size=4))
def test_records_come_back_as_they_were_written(records: list[GoldenRecord]) -> None:
    text = "".join(f"{record.to_json()}\n" for record in records)
    assert parse_golden(text, "golden.jsonl") == tuple(records)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", r"golden.jsonl:2 is not JSON"),
        ("[" * 100_000, r"golden.jsonl:2 is not JSON"),
        ("3", 'is not an object with "inputs" or "instances"'),
        ('{"inputs": 1, "instances": [1]}', "is not an object"),
        ('{"inputs": 1, "rtoll": 1}', "has the unknown key 'rtoll'"),
        ('{"instances": 1}', "has instances that is no list"),
        ('{"inputs": 1, "outputs": [1]}', "has outputs that is no object"),
        ('{"inputs": 1, "compare": {"y": "nearly"}}', "is no golden record"),
        ('{"inputs": 1, "tolerances": {"y": 3}}', "is no golden record"),
        ('{"inputs": 1, "rtol": "much"}', "is no golden record"),
    ],
)
def test_what_is_no_record_is_refused_with_its_line(line: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        parse_golden(f'{{"inputs": 1}}\n{line}\n', "golden.jsonl")


def test_an_output_has_its_own_tolerance_or_the_records_or_the_default() -> None:
    record = GoldenRecord(inputs=1, rtol=0.1, tolerances={"y": {"atol": 5.0}})
    default = Tolerance(0.5, 0.25)
    assert record.tolerance("y", default) == Tolerance(0.1, 5.0)
    assert record.tolerance("z", default) == Tolerance(0.1, 0.25)


@pytest.mark.parametrize(
    ("answer", "rows", "outputs", "found"),
    [
        ([1.0, 2.0], False, ["y"], {"y": [1.0, 2.0]}),
        ({"y": [1.0], "z": [2]}, False, ["y", "z"], {"y": [1.0], "z": [2]}),
        ([1.0, 2.0], True, ["y"], {"y": [1.0, 2.0]}),
        ([{"y": 1.0, "z": 3}, {"y": 2.0, "z": 4}], True, ["y", "z"], {"y": [1.0, 2.0], "z": [3, 4]}),
        ([{"b64": "AA=="}], True, ["y"], {"y": [{"b64": "AA=="}]}),
        ({"b64": "AA=="}, False, ["y"], {"y": {"b64": "AA=="}}),
    ],
)
def test_answers_are_taken_by_output_and_in_columns(
    answer: object, rows: bool, outputs: list[str], found: dict[str, object]
) -> None:
    assert columns(answer, rows=rows, outputs=outputs) == found


@given(TENSORS)
def test_an_answer_is_as_expected_where_it_is_the_same(value: object) -> None:
    assert difference(value, value, EXACT, Comparison.VALUES).problem == ""


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        ([1.0, 2.0], [1.0, 2.5], "is 2.5, not 2"),
        ([1.0, 2.0], [9.0, 2.5], "is 9, not 1, and 1 more differ"),
        ([1.0], [1.0, 2.0], "has the shape (2), not (1)"),
        ([[1.0]], [1.0], "has the shape (1), not (1,1)"),
        (["cat"], ["dog"], "is 'dog', not 'cat'"),
        ([True], [False], "is False, not True"),
        ([1], [True], "is True, not 1"),
        ([math.inf], [1e308], "is 1e+308, not inf"),
        ([1.0], [math.nan], "is nan, not 1"),
    ],
)
def test_what_differs_is_told(expected: object, found: object, words: str) -> None:
    assert difference(expected, found, EXACT, Comparison.VALUES).problem == words


def test_numbers_may_differ_by_the_tolerance() -> None:
    assert difference([100.0], [100.9], Tolerance(0.01, 0.0), Comparison.VALUES).problem == ""
    assert difference([100.0], [101.1], Tolerance(0.01, 0.0), Comparison.VALUES).problem == "is 101.1, not 100"
    assert difference([0.0], [0.01], Tolerance(0.01, 0.0), Comparison.VALUES).problem != ""


@pytest.mark.parametrize(
    ("found", "argmax", "ranking"),
    [
        ([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]], True, True),
        ([[0.6, 0.1, 0.3], [0.1, 0.2, 0.7]], True, False),
        ([[0.3, 0.6, 0.1], [0.1, 0.2, 0.7]], False, False),
    ],
)
def test_only_the_order_may_count(found: object, argmax: bool, ranking: bool) -> None:
    expected = [[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]]
    assert (difference(expected, found, EXACT, Comparison.ARGMAX).problem == "") is argmax
    assert (difference(expected, found, EXACT, Comparison.RANKING).problem == "") is ranking


def test_differences_are_measured() -> None:
    measured = difference([[1.0, 2.0], [3.0, 4.0]], [[1.5, 2.0], [4.5, 4.0]], EXACT, Comparison.VALUES)
    assert (measured.max_abs, measured.mean_abs) == (1.5, 0.5)
    assert (measured.agreeing, measured.rows) == (1, 2)


def test_one_line_is_one_record() -> None:
    record = GoldenRecord(signature="s", instances=[1.0], outputs={"y": [2.0]}, compare={"y": Comparison.ARGMAX})
    assert json.loads(record.to_json()) == {
        "signature": "s",
        "instances": [1.0],
        "outputs": {"y": [2.0]},
        "compare": {"y": "argmax"},
    }
