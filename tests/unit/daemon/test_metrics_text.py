from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.daemon.metrics_text import BUCKETS_S, METRICS, Durations, Kind, Page


def lines(page: Page, durations: Durations | None = None) -> list[str]:
    return [line for line in page.text(durations or Durations()).splitlines() if not line.startswith("#")]


def test_a_page_has_help_and_type_of_each_metric_before_its_samples() -> None:
    page = Page()
    page.add("deployctl_target_up", True, "local")

    text = page.text(Durations())

    assert '# TYPE deployctl_target_up gauge\ndeployctl_target_up{target="local"} 1\n' in text
    assert [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")] == list(METRICS)


def test_what_is_not_known_has_no_sample() -> None:
    page = Page()
    page.add("deployctl_target_memory_bytes", None, "local")

    assert lines(page) == []


def test_a_sample_with_other_labels_than_its_metric_is_a_bug() -> None:
    with pytest.raises(ValueError, match="deployctl_target_up has the labels"):
        Page().add("deployctl_target_up", 1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1795266041.0, "1795266041"), (0.25, "0.25"), (1e15, "1000000000000000"), (math.nan, "NaN"), (math.inf, "+Inf")],
)
def test_numbers_are_written_in_full(value: float, text: str) -> None:
    page = Page()
    page.add("deployctl_target_memory_bytes", value, "local")

    assert lines(page) == [f'deployctl_target_memory_bytes{{target="local"}} {text}']


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_label_can_be_read_back(name: str) -> None:
    page = Page()
    page.add("deployctl_target_up", 1, name)

    # The format parts lines by line feeds only.
    (sample,) = (line for line in page.text(Durations()).split("\n") if line and not line.startswith("#"))
    found = re.fullmatch(r'deployctl_target_up\{target="((?:[^"\\]|\\.)*)"\} 1', sample, re.DOTALL)

    assert found is not None
    assert re.sub(r"\\(.)", lambda each: {"n": "\n"}.get(each[1], each[1]), found[1]) == name


@given(st.lists(st.floats(0, 2000)))
def test_a_histogram_counts_each_duration_in_every_bucket_that_holds_it(seconds: list[float]) -> None:
    durations = Durations()
    for each in seconds:
        durations.add(each, ("promote", "done"))

    found = [line for line in lines(Page(), durations) if "_bucket" in line]

    assert [float(line.split()[-1]) for line in found] == (
        [sum(each <= limit for each in seconds) for limit in (*BUCKETS_S, math.inf)] if seconds else []
    )


def test_names_end_as_their_kind_asks_for() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER), name
