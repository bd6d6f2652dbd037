"""Numbers in answers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployctl.modelserver.json_print import decimal_text, decimal_texts


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(width=32) | st.integers(-(10**6), 10**6).map(float), max_size=24))
def test_several_floats_print_as_each_alone(values: list[float]) -> None:
    assert decimal_texts(values, single=True) == [decimal_text(value, single=True).encode() for value in values]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats() | st.integers(-(10**6), 10**6).map(float), max_size=24))
def test_several_doubles_print_as_each_alone(values: list[float]) -> None:
    assert decimal_texts(values, single=False) == [decimal_text(value, single=False).encode() for value in values]
