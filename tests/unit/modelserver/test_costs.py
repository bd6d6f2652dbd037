"""Where the next call of a kind runs, by how long the last ones took."""

from __future__ import annotations

from deployctl.modelserver.costs import RecentCosts

QUICK, SLOW, HELD_UP = 0.0001, 0.002, 0.01


def elsewhere(costs: RecentCosts, most: int = 1000) -> int:
    """How many calls go elsewhere before one is called quick again."""
    return next(count for count in range(most) if costs.quick("kind"))


def test_a_kind_that_was_never_called_is_not_quick() -> None:
    assert not RecentCosts().quick("kind")


def test_a_kind_is_quick_by_itself_alone() -> None:
    costs = RecentCosts()
    costs.record("kind", QUICK, inline_busy=None)
    costs.record("slow kind", SLOW, inline_busy=None)

    assert (costs.quick("kind"), costs.quick("slow kind")) == (True, False)


def test_one_slow_call_elsewhere_changes_nothing_and_many_do() -> None:
    costs = RecentCosts()
    costs.record("kind", QUICK, inline_busy=None)

    costs.record("kind", SLOW, inline_busy=None)
    after_one = costs.quick("kind")
    for _ in range(40):
        costs.record("kind", SLOW, inline_busy=None)

    assert (after_one, costs.quick("kind")) == (True, False)


def test_a_call_that_held_up_its_caller_sends_the_next_ones_elsewhere_and_twice_as_many_each_time() -> None:
    costs = RecentCosts()
    counts = []
    for _ in range(3):
        costs.record("kind", QUICK, inline_busy=QUICK)
        costs.record("kind", HELD_UP, inline_busy=HELD_UP)
        counts.append(elsewhere(costs))

    assert counts == [64, 128, 256]


def test_a_thread_that_got_no_processor_says_nothing_of_its_call() -> None:
    costs = RecentCosts()
    costs.record("kind", QUICK, inline_busy=QUICK)
    costs.record("kind", HELD_UP, inline_busy=QUICK)

    assert costs.quick("kind")


def test_a_long_call_elsewhere_bans_nothing() -> None:
    costs = RecentCosts()
    costs.record("kind", QUICK, inline_busy=None)
    costs.record("kind", HELD_UP, inline_busy=None)

    assert costs.quick("kind")


def test_what_clients_can_name_is_forgotten_in_time() -> None:
    costs = RecentCosts()
    for number in range(10_000):
        costs.record(number, QUICK, inline_busy=None)

    assert not costs.quick(0)
    assert costs.quick(9_999)
