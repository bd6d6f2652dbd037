"""Promotions and rollbacks that are killed at every point, alone and in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from deployctl.domain.names import CANARY, STABLE
from deployctl.domain.revision import RevisionState, Routing
from deployctl.domain.transition import rollback_version
from deployctl.errors import RestoredError, RevisionNotFoundError, UsageError
from tests.support.memory_server import Killed
from tests.support.world import HALF, LOCAL, World

# More than a promotion or a rollback makes.
MOST_CALLS = 60


def calls_of(world: World) -> int:
    """Returns how many calls to the outside a promotion from 1 to 2 makes."""
    world.promote(1)
    world.fuse.calls.clear()
    world.promote(2)
    return len(world.fuse.calls)


def test_a_promotion_killed_at_any_call_leaves_old_or_new_and_the_next_command_settles_it(tmp_path: Path) -> None:
    probe = World(tmp_path / "probe")
    probe.add(1, 2)
    probe.up()
    count = calls_of(probe)
    assert count > 15

    for left in range(count):
        world = World(tmp_path / str(left))
        world.add(1, 2)
        world.up()
        world.promote(1)
        world.fuse.left = left
        with pytest.raises(Killed):
            world.promote(2)
        assert world.server.labels(HALF)[STABLE] in {1, 2}
        assert world.server.labels(HALF)[STABLE] in world.server.available(HALF)
        world.fuse.left = None

        world.up()

        assert world.unsettled() == ()
        assert world.server.labels(HALF) == world.recorded().labels
        assert world.server.available(HALF) == set(world.recorded().versions)
        assert world.promote(2).version == 2


def test_settling_that_is_killed_is_settled_by_the_command_after_it(world: World) -> None:
    world.promote(1)
    world.fuse.left = 14
    with pytest.raises(Killed):
        world.promote(2)

    for left in (1, 2, 3, 4, 5, 6):
        world.fuse.left = left
        with pytest.raises(Killed):
            world.promote(2)
    world.fuse.left = None

    assert world.promote(2).outcome == "serving"
    assert [each.state for each in world.lineage.revisions(LOCAL, HALF, limit=9)] == [
        RevisionState.SERVING,
        RevisionState.FAILED,
        RevisionState.SERVING,
    ]


class Operations(RuleBasedStateMachine):
    """Any sequence of commands; after each whole one the server serves the fold of what is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="operations-"))
        self.whole = True

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @initialize(routing=st.sampled_from(Routing), warm_standby=st.integers(0, 2))
    def start(self, routing: Routing, warm_standby: int) -> None:
        self.world = World(self.directory / "models", routing=routing, warm_standby=warm_standby)
        self.world.add(1, 2, 3, 4)
        self.world.up()

    @rule(version=st.integers(1, 4), label=st.sampled_from(["stable", "stable", "canary"]))
    def promote(self, version: int, label: str) -> None:
        try:
            self.world.promote(version, label=label)
        except UsageError:
            assert self.world.routing is Routing.LATEST
        except RestoredError:
            assert self.world.server.broken
        self.whole = True

    @rule()
    def roll_back(self) -> None:
        before = self.world.recorded()
        left = before.live(self.world.routing)
        try:
            result = self.world.rollback()
        except RevisionNotFoundError:
            pass
        except RestoredError:
            assert self.world.server.broken
        else:
            assert result.version != left or (CANARY in before.labels and result.undone_canary is not None)
            assert rollback_version(self.world.recorded(), self.world.routing) == result.version
        self.whole = True

    @rule(version=st.integers(1, 4), left=st.integers(0, MOST_CALLS), canary=st.booleans())
    def promote_and_be_killed(self, version: int, left: int, canary: bool) -> None:
        self.world.fuse.left = left
        self.whole = False
        try:
            self.promote(version, "canary" if canary else "stable")
        except Killed:
            self.whole = False
        self.world.fuse.left = None

    @rule(left=st.integers(0, MOST_CALLS))
    def roll_back_and_be_killed(self, left: int) -> None:
        self.world.fuse.left = left
        self.whole = False
        try:
            self.roll_back()
        except Killed:
            self.whole = False
        self.world.fuse.left = None

    @rule()
    def restart(self) -> None:
        self.world.down()
        self.world.up()
        self.whole = True

    @rule()
    def crash_and_start_again(self) -> None:
        self.world.server.crash()
        self.world.up()
        self.whole = True

    @rule(version=st.integers(1, 4))
    def break_a_version_that_is_not_served(self, version: int) -> None:
        if version not in self.world.server.available(HALF):
            self.world.break_version(version, "no such op")

    @rule()
    def mend_all(self) -> None:
        self.world.server.broken.clear()

    @invariant()
    def something_of_the_record_is_always_served(self) -> None:
        served = self.world.recorded().live(self.world.routing)
        if served is not None:
            labels = self.world.server.labels(HALF)
            assert STABLE not in labels or labels[STABLE] in self.world.server.available(HALF)

    @invariant()
    def the_server_serves_the_fold_of_the_record(self) -> None:
        if not self.whole:
            return
        recorded = self.world.recorded()
        assert self.world.unsettled() == ()
        assert self.world.server.labels(HALF) == recorded.labels
        assert self.world.server.available(HALF) == set(recorded.versions)
        assert set(recorded.labels.values()) <= set(recorded.versions)
        if self.world.routing is Routing.LATEST and STABLE in recorded.labels:
            assert max(recorded.versions) == recorded.labels[STABLE]

    @invariant()
    def the_file_holds_what_a_restart_must_serve(self) -> None:
        if self.whole:
            expected = self.world.target.config({HALF: self.world.recorded()})
            assert self.world.server.file == expected


TestOperations = Operations.TestCase
TestOperations.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
