from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.compatibility import Level, compare
from deployctl.domain.saved_model import CLASSIFY_METHOD, Signature
from tests.support.gates import signature

PAIR = signature({"x": "float32 ?,4"}, {"y": "float32 ?", "z": "int64 ?"})


def changes(before: Signature | None, after: Signature | None) -> list[str]:
    """Returns each change's level and words."""
    old, new = ({"s": each} if each else {} for each in (before, after))
    return [f"{change.level.value}: {change}" for change in compare(old, new).changes]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param(PAIR, None, "breaking: signature s tensorflow/serving/predict became absent", id="no signature"),
        pytest.param(None, PAIR, "compatible: signature s absent became", id="new signature"),
        pytest.param(
            PAIR,
            dataclasses.replace(PAIR, method=CLASSIFY_METHOD),
            "breaking: method of s tensorflow/serving/predict became tensorflow/serving/classify",
            id="method",
        ),
        pytest.param(
            PAIR,
            signature({}, {"y": "float32 ?", "z": "int64 ?"}),
            'breaking: input "x" of s float32 (?,4) became absent: clients that send it are refused',
            id="input removed",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,4", "k": "int32 ()"}, {"y": "float32 ?", "z": "int64 ?"}),
            'breaking: input "k" of s absent became int32 (): clients do not send it',
            id="new required input",
        ),
        pytest.param(
            PAIR,
            signature(
                {"x": "float32 ?,4", "k": "int32 ()"}, {"y": "float32 ?", "z": "int64 ?"}, optional=frozenset({"k"})
            ),
            'compatible: input "k" of s absent became int32 (): it is new and optional',
            id="new optional input",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float64 ?,4"}, {"y": "float32 ?", "z": "int64 ?"}),
            'breaking: input "x" of s float32 (?,4) became float64 (?,4): clients send another type',
            id="input type",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,5"}, {"y": "float32 ?", "z": "int64 ?"}),
            'breaking: input "x" of s float32 (?,4) became float32 (?,5): shapes that clients send are refused',
            id="fixed size changed",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 8,4"}, {"y": "float32 ?", "z": "int64 ?"}),
            'breaking: input "x" of s float32 (?,4) became float32 (8,4)',
            id="input narrowed",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,?"}, {"y": "float32 ?", "z": "int64 ?"}),
            'compatible: input "x" of s float32 (?,4) became float32 (?,?): it takes every shape that it took',
            id="input widened",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32"}, {"y": "float32 ?", "z": "int64 ?"}),
            'compatible: input "x" of s float32 (?,4) became float32 (any shape)',
            id="input of any rank",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,4,1"}, {"y": "float32 ?", "z": "int64 ?"}),
            "breaking: ",
            id="rank changed",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,4"}, {"y": "float32 ?"}),
            'breaking: output "z" of s int64 (?) became absent: clients that read it would fail',
            id="output removed",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,4"}, {"y": "float32 ?", "z": "int64 ?", "w": "bool ?"}),
            'compatible: output "w" of s absent became bool (?): it is new',
            id="new output",
        ),
        pytest.param(
            signature({"x": "float32 ?"}, {"y": "float32 ?"}),
            signature({"x": "float32 ?"}, {"y": "float32 ?", "z": "int64 ?"}),
            'breaking: output "z" of s absent became int64 (?): a sole output has no name in REST answers',
            id="second output",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,4"}, {"y": "float32 ?", "z": "int32 ?"}),
            'breaking: output "z" of s int64 (?) became int32 (?): clients read another type',
            id="output type",
        ),
        pytest.param(
            PAIR,
            signature({"x": "float32 ?,4"}, {"y": "float32 7", "z": "int64 ?"}),
            'compatible: output "y" of s float32 (?) became float32 (7): every shape is one that clients know',
            id="output narrowed",
        ),
        pytest.param(
            signature({"x": "float32 ?"}, {"y": "float32 ?,10"}),
            signature({"x": "float32 ?"}, {"y": "float32 ?,12"}),
            'breaking: output "y" of s float32 (?,10) became float32 (?,12): clients may read another shape',
            id="other number of classes",
        ),
        pytest.param(
            signature({"k": "int32 ()"}, {"y": "float32 ?"}, optional=frozenset({"k"})),
            signature({"k": "int32 ()"}, {"y": "float32 ?"}),
            'breaking: input "k" of s optional became required: clients that leave it out are refused',
            id="no longer optional",
        ),
        pytest.param(
            signature({"k": "int32 ()"}, {"y": "float32 ?"}, optional=frozenset({"k"}), defaults={"k": "3"}),
            signature({"k": "int32 ()"}, {"y": "float32 ?"}, optional=frozenset({"k"}), defaults={"k": "4"}),
            'breaking: default of input "k" of s 3 became 4: clients that leave it out get other answers',
            id="default changed",
        ),
    ],
)
def test_one_change_is_named_with_before_and_after(
    before: Signature | None, after: Signature | None, words: str
) -> None:
    (change,) = changes(before, after)
    assert change.startswith(words)


def test_breaking_changes_come_first() -> None:
    after = signature({"x": "float32 ?,4", "k": "int32 ?"}, {"a": "float32 ?", "y": "float32 ?", "z": "int64 ?"})
    found = compare({"s": PAIR}, {"s": after})
    assert [change.level for change in found.changes] == [Level.BREAKING, Level.COMPATIBLE]
    assert found.level is Level.BREAKING


def test_a_renamed_tensor_is_one_that_went_and_one_that_came() -> None:
    after = signature({"features": "float32 ?,4"}, {"y": "float32 ?", "z": "int64 ?"})
    assert [change.partition(" became")[0] for change in changes(PAIR, after)] == [
        'breaking: input "features" of s absent',
        'breaking: input "x" of s float32 (?,4)',
    ]


SPECS = st.builds(
    "{} {}".format,
    st.sampled_from(["float32", "int64"]),
    st.lists(st.sampled_from(["?", "1", "2"]), max_size=3).map(lambda sizes: ",".join(sizes) or "()"),
)
SIGNATURES = st.builds(
    signature,
    st.dictionaries(st.sampled_from("abc"), SPECS, max_size=3),
    st.dictionaries(st.sampled_from("xyz"), SPECS, min_size=1, max_size=3),
)


@given(SIGNATURES)
def test_a_signature_is_identical_to_itself(one: Signature) -> None:
    assert compare({"s": one}, {"s": one}).level is Level.IDENTICAL


@given(SIGNATURES, SIGNATURES)
def test_identical_both_ways_or_not_at_all(one: Signature, other: Signature) -> None:
    there = compare({"s": one}, {"s": other}).level is Level.IDENTICAL
    assert there == (compare({"s": other}, {"s": one}).level is Level.IDENTICAL) == (one == other)


@given(SIGNATURES, SIGNATURES, SIGNATURES)
def test_compatible_steps_never_add_up_to_a_break(one: Signature, two: Signature, three: Signature) -> None:
    steps = compare({"s": one}, {"s": two}), compare({"s": two}, {"s": three})
    if not any(step.breaking for step in steps):
        assert not compare({"s": one}, {"s": three}).breaking
