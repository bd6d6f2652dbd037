"""What servers counted is held against what was usual; chance and single slow moments are no regression."""

from __future__ import annotations

import pytest

from deployctl.daemon.patience import Patience
from deployctl.daemon.traffic import Traffic, Watch
from deployctl.serving.interface import RequestCounts
from tests.support.memory_server import ManualClock

USUAL = RequestCounts(1000, 1, 10.0, 999)
NOTHING = RequestCounts()
AS_USUAL = RequestCounts(100, 0, 1.0, 100)
SLOW = RequestCounts(100, 0, 2.1, 100)
FAILING = RequestCounts(100, 60, 0.4, 40)


def judged(before: RequestCounts, *parts: RequestCounts, wrong: str = "") -> str | None:
    """What is thought of a version after the last of some samples."""
    watch, found = Watch(revision=2, before=before, starts=0), None
    for part in parts:
        found = watch.judge(part, wrong, 0)
    return found


def test_only_what_is_new_is_counted_and_a_restarted_server_counts_from_nothing() -> None:
    traffic = Traffic()

    assert traffic.count(0.0, USUAL) == NOTHING
    assert traffic.count(5.0, RequestCounts(1010, 3, 10.5, 1007)) == RequestCounts(10, 2, 0.5, 8)
    assert traffic.count(10.0, RequestCounts(4, 0, 0.1, 4)) == RequestCounts(4, 0, 0.1, 4)
    assert traffic.usual().total == 14
    assert traffic.total.total == 4


def test_what_was_long_ago_is_neither_usual_nor_late() -> None:
    traffic = Traffic()
    traffic.count(0.0, NOTHING)
    traffic.count(10.0, RequestCounts(10))
    traffic.count(100.0, RequestCounts(30))

    assert (traffic.lately(100.0).total, traffic.usual().total) == (20, 30)
    traffic.count(611.0, RequestCounts(31))
    assert (traffic.lately(611.0).total, traffic.usual().total) == (1, 21)


def test_memory_does_not_grow_with_time() -> None:
    traffic = Traffic()
    for second in range(2000):
        traffic.count(second / 10, RequestCounts(second))

    assert len(traffic._parts) <= 240


@pytest.mark.parametrize(
    ("before", "parts", "problem"),
    [
        (USUAL, (AS_USUAL, AS_USUAL), None),
        (USUAL, (SLOW, SLOW), "took 21.0 ms a request, 10.0 ms before"),
        (USUAL, (SLOW,), None),
        (USUAL, (SLOW, NOTHING, NOTHING), None),
        (USUAL, (SLOW, AS_USUAL, SLOW, AS_USUAL), None),
        (USUAL, (FAILING, FAILING), "failed 60.0% of 200 requests, 0.1% before"),
        (NOTHING, (SLOW, SLOW), None),
        (NOTHING, (FAILING, FAILING), "failed 60.0% of 200 requests"),
        (NOTHING, (RequestCounts(100, 40, 0.6, 60), RequestCounts(100, 40, 0.6, 60)), None),
        (USUAL, (RequestCounts(5, 5), RequestCounts(5, 5)), None),
    ],
)
def test_a_version_is_blamed_for_what_is_sure(
    before: RequestCounts, parts: tuple[RequestCounts, ...], problem: str | None
) -> None:
    assert judged(before, *parts) == problem


def test_wrong_answers_count_when_they_are_given_twice() -> None:
    assert judged(USUAL, AS_USUAL, wrong="y is 4") is None
    assert judged(USUAL, AS_USUAL, NOTHING, wrong="y is 4") == "answers otherwise than is recorded: y is 4"


def test_a_version_that_lets_the_server_end_again_and_again_is_blamed() -> None:
    watch = Watch(revision=2, before=USUAL, starts=1)

    assert watch.judge(NOTHING, "", 2) is None
    assert watch.judge(NOTHING, "", 3) == "let the server end 2 times"


def test_patience_grows_with_attempts_and_is_forgotten_after_a_steady_time() -> None:
    clock = ManualClock()
    patience = Patience(clock)
    waited = []
    for _ in range(9):
        began = clock.seconds
        while not patience.allows():
            clock.pause(0.5)
        waited.append(clock.seconds - began)
        patience.used()
    assert waited == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]

    clock.pause(71.0)
    patience.used()
    clock.pause(1.0)

    assert patience.allows()


def test_an_attempt_that_something_was_in_the_way_of_costs_no_patience() -> None:
    clock = ManualClock()
    patience = Patience(clock)
    patience.used()

    patience.forgiven()

    assert patience.allows()
