from __future__ import annotations

from deployctl.daemon.api.guard import FailureCounter, KnownTokens
from deployctl.domain.authority import Token


class Watch:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_address_waits_after_twenty_failures_until_the_first_of_them_is_a_minute_old() -> None:
    watch = Watch()
    counter = FailureCounter(watch)
    for _ in range(20):
        assert counter.wait_s("10.0.0.1") == 0.0
        counter.failed("10.0.0.1")
        watch.now += 1

    assert counter.wait_s("10.0.0.1") == 40.0
    assert counter.wait_s("10.0.0.2") == 0.0
    watch.now += 40
    assert counter.wait_s("10.0.0.1") == 0.0


def test_failures_of_a_million_addresses_are_not_all_remembered() -> None:
    counter = FailureCounter(Watch())
    for _ in range(20):
        counter.failed("first")
    for number in range(4096):
        assert counter.wait_s("first") > 0
        counter.failed(str(number))

    assert counter.wait_s("first") == 0.0


def test_tokens_are_asked_for_once_a_second_however_many_are_refused() -> None:
    watch, asked = Watch(), []

    def tokens() -> tuple[Token, ...]:
        asked.append(watch.now)
        return ()

    known = KnownTokens(tokens, watch)
    for _ in range(100):
        assert known() == ()
        watch.now += 0.1

    assert len(asked) <= 10
