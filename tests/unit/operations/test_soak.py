"""A promoted version is watched, and what served before it comes back where it does worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deployctl.domain.names import STABLE, LabelName
from deployctl.domain.operation import OperationRecord, OperationState, Phase
from deployctl.domain.reference import parse_reference
from deployctl.errors import DegradedError, PreconditionError, RestoredError, ServerUnavailableError
from deployctl.operations.promote import Promote, PromoteRequest, Promotion
from deployctl.operations.soak import Soak, SoakedPromote, take_back, taken_back, worse
from deployctl.serving.interface import RequestCounts
from tests.support.world import HALF, World

USUAL = RequestCounts(total=10_000, failed=10, latency_s=20.0, timed=9_990)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "models")
    world.add(1, 2, 3)
    world.up()
    world.promote(1)
    return world


def traffic(world: World, *, failed: float = 0.001, latency_s: float = 0.002) -> None:
    """100 requests a second from now on, of which a part fails."""
    began = world.clock.seconds

    def counted(now: float) -> RequestCounts:
        total = round((now - began) * 100)
        return RequestCounts(
            USUAL.total + total,
            USUAL.failed + int(total * failed),
            USUAL.latency_s + total * latency_s,
            USUAL.timed + total,
        )

    world.server.traffic = counted


def soaked(world: World, promotion: Promotion, before: RequestCounts = USUAL) -> None:
    Soak(world.target, world.context)(promotion, before, 60.0)


def test_a_version_that_does_as_well_stays(world: World) -> None:
    promotion = world.promote(2)
    traffic(world)
    began = world.clock.seconds

    soaked(world, promotion)

    assert world.clock.seconds == began + 60
    assert world.server.labels(HALF) == {"stable": 2}
    assert world.journal.steps[-1] == "soak 1 min: 6000 requests, 6 failed"


def test_a_version_that_fails_more_requests_is_taken_back_at_once(world: World) -> None:
    promotion = world.promote(2)
    traffic(world, failed=0.5)
    began = world.clock.seconds

    with pytest.raises(RestoredError, match=r"half@2 failed 50.0% of 100 requests, 0.1% before; @1 was restored"):
        soaked(world, promotion)

    assert world.clock.seconds < began + 5
    assert world.server.labels(HALF) == {"stable": 1}
    revision = world.lineage.revisions(world.target.name, HALF, limit=1)[0]
    assert (revision.number, revision.restores) == (3, 1)
    assert revision.reason == "soak: failed 50.0% of 100 requests, 0.1% before"


def test_a_version_that_answers_late_is_taken_back(world: World) -> None:
    promotion = world.promote(2)
    traffic(world, latency_s=0.02)

    with pytest.raises(RestoredError, match=r"took 20.0 ms a request, 2.0 ms before"):
        soaked(world, promotion)

    assert world.server.labels(HALF) == {"stable": 1}


def test_a_version_that_nobody_calls_stays(world: World) -> None:
    soaked(world, world.promote(2), RequestCounts())

    assert world.journal.steps[-1] == "soak 1 min: nobody called"


def test_what_somebody_else_changed_meanwhile_is_left_alone(world: World) -> None:
    promotion = world.promote(2)
    traffic(world, failed=0.5)
    world.promote(3)

    soaked(world, promotion)

    assert world.server.labels(HALF) == {"stable": 3}
    assert world.journal.warnings[-1] == "half was changed by somebody else; no longer watching"


def test_what_a_daemon_took_back_meanwhile_ends_as_if_it_was_taken_back_here(world: World) -> None:
    promotion = world.promote(2)
    traffic(world)
    take_back(world.target, world.context, HALF, promotion.revision, "answers otherwise")

    with pytest.raises(RestoredError, match="half@2 answers otherwise; @1 was restored and verified"):
        soaked(world, promotion)


def test_what_was_bad_before_is_not_returned_to(world: World) -> None:
    world.clock.pause(600.0)
    world.promote(2)
    world.clock.pause(10.0)
    promotion = world.promote(3)

    back = take_back(world.target, world.context, HALF, promotion.revision, "is slow", soak_s=300.0)

    assert back.version == 1


def test_a_revision_is_taken_back_once(world: World) -> None:
    world.promote(2)
    current = world.target.current(HALF)
    assert current is not None
    assert not taken_back(world.target, current)
    world.server.refuses = "no"
    with pytest.raises(DegradedError):
        take_back(world.target, world.context, HALF, current.number, "is slow")

    assert taken_back(world.target, current)


def test_what_somebody_changed_first_is_not_taken_back(world: World) -> None:
    promotion = world.promote(2)
    world.promote(3)

    with pytest.raises(PreconditionError):
        take_back(world.target, world.context, HALF, promotion.revision, "is slow")

    assert world.server.labels(HALF) == {"stable": 3}


def test_a_first_version_that_fails_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    world = World(tmp_path / "models")
    world.add(1)
    world.up()
    promotion = world.promote(1)
    traffic(world, failed=0.5)

    with pytest.raises(DegradedError, match="what served before could not be restored: half on local has no earlier"):
        soaked(world, promotion)


def promote_and_soak(world: World, request: PromoteRequest, soak_s: float = 60.0) -> Promotion:
    return SoakedPromote(Promote(world.target, world.context), Soak(world.target, world.context))(request, soak_s)


def request_for(version: int, label: str = "stable") -> PromoteRequest:
    return PromoteRequest(parse_reference(f"half@{version}"), LabelName(label), timeout_s=60.0)


def operations(world: World) -> dict[str, OperationRecord]:
    """Returns the newest operation of each request, by its words."""
    return {str(record.request): record for record in reversed(world.context.journal.operations())}


class TestOperation:
    """A promotion that is watched is one operation, which ends when the watching does; going back is another."""

    def test_it_runs_until_the_watching_is_over(self, world: World) -> None:
        states: list[OperationState] = []

        def counted(now: float) -> RequestCounts:
            states.extend(each.state for words, each in operations(world).items() if words == "promote half@2")
            return USUAL

        world.server.traffic = counted

        promote_and_soak(world, request_for(2))

        assert set(states) == {OperationState.RUNNING}
        ended = operations(world)["promote half@2"]
        assert (ended.state, ended.outcome, ended.phase) == (OperationState.DONE, "serving", Phase.SOAK)

    def test_what_was_taken_back_failed_and_going_back_is_an_operation_of_its_own(self, world: World) -> None:
        traffic(world, failed=0.5)
        world.clock.pause(5.0)

        with pytest.raises(RestoredError):
            promote_and_soak(world, request_for(2))

        promotion, back = operations(world)["promote half@2"], operations(world)["rollback half"]
        assert (promotion.state, promotion.exit_code) == (OperationState.FAILED, 5)
        assert promotion.outcome.endswith("@1 was restored and verified")
        assert (back.state, back.outcome) == (OperationState.DONE, "serving")

    def test_a_rollback_meanwhile_does_not_settle_it(self, world: World) -> None:
        states: list[OperationState] = []

        def counted(now: float) -> RequestCounts:
            if world.target.current(HALF) is not None and world.recorded().labels[STABLE] == 2:
                world.rollback()
                states.append(operations(world)["promote half@2"].state)
            return USUAL

        world.server.traffic = counted

        promote_and_soak(world, request_for(2))

        assert states == [OperationState.RUNNING]
        assert world.journal.warnings[-1] == "half was changed by somebody else; no longer watching"

    def test_a_promotion_that_fails_ends_at_once(self, world: World) -> None:
        world.break_version(2, "cut short")

        with pytest.raises(RestoredError):
            promote_and_soak(world, request_for(2))

        assert operations(world)["promote half@2"].exit_code == 5


class TestServerThatIsGone:
    def crash_at(self, world: World, after_s: float, act: Callable[[], object]) -> None:
        """Lets something happen to the server at a second of the watching."""
        began, done = world.clock.seconds, [False]

        def counted(now: float) -> RequestCounts:
            if now > began + after_s and not done[0]:
                done[0] = True
                act()
                raise ServerUnavailableError("nothing answers")
            return USUAL

        world.server.traffic = counted

    def test_a_version_under_which_the_server_ends_is_recorded_as_taken_back(self, world: World) -> None:
        promotion = world.promote(2)
        self.crash_at(world, 3, world.server.crash)

        with pytest.raises(
            RestoredError, match="half@2 lost its server: .*; @1 serves once the server is up"
        ) as raised:
            soaked(world, promotion)

        assert raised.value.hint == "deployctl up local"
        assert world.recorded().labels == {"stable": 1}
        world.up()
        assert world.server.labels(HALF) == {"stable": 1}

    def test_a_server_that_somebody_stopped_says_nothing_of_the_version(self, world: World) -> None:
        promotion = world.promote(2)
        self.crash_at(world, 3, world.down)

        soaked(world, promotion)

        assert world.recorded().labels == {"stable": 2}
        assert world.journal.warnings[-1] == "local was stopped by somebody else; no longer watching"

    def test_a_server_that_does_not_tell_for_a_moment_says_nothing_of_the_version(self, world: World) -> None:
        promotion = world.promote(2)
        self.crash_at(world, 3, lambda: None)

        soaked(world, promotion)

        assert world.server.labels(HALF) == {"stable": 2}
        assert world.journal.steps[-1] == "soak 1 min: nobody called"

    def test_a_server_that_ends_before_the_first_look_is_a_failure_too(self, world: World) -> None:
        promotion = world.promote(2)
        world.server.crash()

        with pytest.raises(RestoredError, match="lost its server"):
            soaked(world, promotion)


@pytest.mark.parametrize(("first", "after"), [(None, {"stable": 1}), (1, {"stable": 1, "blue": 1})])
def test_a_label_that_does_worse_goes_back_alone(world: World, first: int | None, after: dict[str, int]) -> None:
    world.promote(3)
    world.promote(1)
    if first is not None:
        world.promote(first, label="blue")
    promotion = world.promote(2, label="blue")
    traffic(world, failed=0.5)

    with pytest.raises(RestoredError, match=r"; @1 was restored|; label blue was taken from it"):
        soaked(world, promotion)

    assert world.server.labels(HALF) == after


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (RequestCounts(19, 19), None),
        (RequestCounts(20, 0), None),
        (RequestCounts(1000, 10), None),
        (RequestCounts(1000, 12), "failed 1.2% of 1000 requests, 0.1% before"),
        (RequestCounts(100, 0, 0.8, 100), None),
        (RequestCounts(100, 0, 1.0, 100), "took 10.0 ms a request, 2.0 ms before"),
        (RequestCounts(100, 0, 1.0, 19), None),
    ],
)
def test_chance_is_no_regression(seen: RequestCounts, problem: str | None) -> None:
    assert worse(USUAL, seen) == problem


def test_a_server_that_was_restarted_counts_from_nothing() -> None:
    assert RequestCounts(5, 1, 0.1, 4).since(USUAL) == RequestCounts(5, 1, 0.1, 4)
    assert RequestCounts(10_005, 11, 20.5, 9_994).since(USUAL) == RequestCounts(5, 1, 0.5, 4)
