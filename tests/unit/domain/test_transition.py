from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.event import Actor
from deployctl.domain.names import CANARY, STABLE, LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, RevisionState, Routing, desired_from_json
from deployctl.domain.transition import last_known_good, promoted, restored, rollback_version, together
from deployctl.errors import UsageError


def desired(*versions: int, **labels: int) -> Desired:
    return Desired(
        tuple(VersionNumber(version) for version in versions),
        {LabelName(label): VersionNumber(version) for label, version in labels.items()},
    )


def promote(before: Desired, version: int, label: LabelName = STABLE, *, routing: Routing, warm: int = 1) -> Desired:
    return promoted(before, VersionNumber(version), label, routing=routing, warm_standby=warm)


@dataclass
class Record:
    """What a target's record would be after promotions and rollbacks that all served."""

    routing: Routing
    warm: int
    revisions: list[Revision] = field(default_factory=list)

    @property
    def now(self) -> Desired:
        return self.revisions[-1].desired if self.revisions else Desired()

    def add(self, after: Desired, kind: RevisionKind, restores: int | None = None) -> None:
        number = len(self.revisions) + 1
        at = datetime(2026, 11, 21, tzinfo=UTC)
        self.revisions.append(
            Revision(
                TargetName("local"),
                ModelName("m"),
                number,
                kind,
                after,
                self.now,
                RevisionState.SERVING,
                Actor("ada", "build-1"),
                f"op-{number}",
                "",
                at,
                restores=restores,
            )
        )

    def promote(self, version: int, label: LabelName = STABLE) -> None:
        self.add(promote(self.now, version, label, routing=self.routing, warm=self.warm), RevisionKind.PROMOTE)

    def roll_back(self, goal: Revision) -> None:
        after = restored(self.now, goal.desired, routing=self.routing, warm_standby=self.warm)
        self.add(after, RevisionKind.ROLLBACK, goal.number)

    def good(self) -> Revision | None:
        return last_known_good(list(reversed(self.revisions)), self.routing)


steps = st.lists(
    st.tuples(st.sampled_from(["promote", "promote", "canary", "rollback", "to"]), st.integers(1, 6)), max_size=15
)


def played(routing: Routing, warm: int, moves: list[tuple[str, int]]) -> Record:
    """Returns the record after `moves`, as far as they are possible."""
    record = Record(routing, warm)
    for move, number in moves:
        try:
            if move in ("promote", "canary"):
                record.promote(number, STABLE if move == "promote" else CANARY)
            else:
                goal = record.good() if move == "rollback" else None
                if move == "to" and number <= len(record.revisions):
                    goal = record.revisions[number - 1]
                if goal is not None and rollback_version(goal.desired, routing) is not None:
                    record.roll_back(goal)
        except UsageError:
            assert routing is Routing.LATEST
    return record


@given(st.sampled_from(Routing), st.integers(0, 3), steps)
def test_the_live_version_and_every_label_are_loaded_after_any_sequence(
    routing: Routing, warm: int, moves: list[tuple[str, int]]
) -> None:
    for revision in played(routing, warm, moves).revisions:
        after = revision.desired
        assert set(after.labels.values()) <= set(after.versions)
        assert after.live(routing) in (*after.versions, None)
        assert list(after.versions) == sorted(set(after.versions))


@given(st.sampled_from(Routing), st.integers(0, 3), steps)
def test_no_more_versions_stay_warm_than_are_allowed(routing: Routing, warm: int, moves: list[tuple[str, int]]) -> None:
    for revision in played(routing, warm, moves).revisions:
        assert len(revision.desired.standby(routing)) <= warm


@given(st.integers(0, 3), steps)
def test_with_routing_latest_nothing_is_loaded_above_the_live_version(warm: int, moves: list[tuple[str, int]]) -> None:
    for revision in played(Routing.LATEST, warm, moves).revisions:
        if STABLE in revision.desired.labels:
            assert max(revision.desired.versions) == revision.desired.labels[STABLE]


@given(st.sampled_from(Routing), st.integers(0, 3), steps)
def test_a_rollback_never_returns_to_what_it_left(routing: Routing, warm: int, moves: list[tuple[str, int]]) -> None:
    record = played(routing, warm, moves)
    left = []

    while (goal := record.good()) is not None:
        left.append(rollback_version(record.now, routing))
        had_canary = CANARY in record.now.labels
        record.roll_back(goal)
        # Undone revisions are not come back to, or this would never end.
        assert len(left) <= len(record.revisions)
        assert rollback_version(record.now, routing) == rollback_version(goal.desired, routing)
        assert rollback_version(record.now, routing) != left[-1] or (had_canary and CANARY not in record.now.labels)
        assert len(left) <= len(moves)


@given(st.sampled_from(Routing), steps, st.integers(1, 15))
def test_the_newest_revisions_alone_never_tell_of_another_version_to_return_to(
    routing: Routing, moves: list[tuple[str, int]], window: int
) -> None:
    newest_first = list(reversed(played(routing, 1, moves).revisions))

    seen = last_known_good(newest_first[:window], routing, whole=window >= len(newest_first))
    whole = last_known_good(newest_first, routing)

    if seen is not None:
        assert whole is not None
        assert rollback_version(seen.desired, routing) == rollback_version(whole.desired, routing)


@given(st.sampled_from(Routing), st.integers(0, 3), steps)
def test_what_is_loaded_in_between_has_old_and_new_and_moves_no_label(
    routing: Routing, warm: int, moves: list[tuple[str, int]]
) -> None:
    for revision in played(routing, warm, moves).revisions:
        between = together(revision.before, revision.desired)
        assert set(between.versions) == {*revision.before.versions, *revision.desired.versions}
        assert between.labels == revision.before.labels


@given(st.sampled_from(Routing), st.integers(0, 3), steps)
def test_a_desired_state_comes_back_from_its_json(routing: Routing, warm: int, moves: list[tuple[str, int]]) -> None:
    for revision in played(routing, warm, moves).revisions:
        assert desired_from_json(revision.desired.to_json()) == revision.desired


def test_the_version_that_was_live_is_the_first_standby() -> None:
    assert promote(desired(2, 5, stable=2), 7, routing=Routing.LABEL) == desired(2, 7, stable=7)


def test_the_canary_stays_beside_a_new_stable_version() -> None:
    after = promote(desired(1, 2, stable=1, canary=2), 3, routing=Routing.LABEL)

    assert after == desired(1, 2, 3, stable=3, canary=2)


def test_with_routing_latest_a_lower_version_leaves_no_standby_above_it() -> None:
    assert promote(desired(3, 4, stable=4), 2, routing=Routing.LATEST) == desired(2, stable=2)


@pytest.mark.parametrize(
    ("before", "version", "label"),
    [(desired(1, stable=1), 2, CANARY), (desired(2, 3, stable=3, canary=2), 1, STABLE)],
)
def test_with_routing_latest_no_label_is_above_stable(before: Desired, version: int, label: LabelName) -> None:
    with pytest.raises(UsageError, match="it would take all traffic"):
        promote(before, version, label, routing=Routing.LATEST)


def test_a_revision_made_under_routing_label_loses_its_higher_labels_under_latest() -> None:
    goal = desired(1, 3, stable=1, canary=3)

    assert restored(desired(2, stable=2), goal, routing=Routing.LATEST, warm_standby=1) == desired(1, stable=1)


def test_there_is_nothing_good_before_the_first_promotion_or_after_it_alone() -> None:
    record = Record(Routing.LABEL, 1)
    assert record.good() is None

    record.promote(1)

    assert record.good() is None


def test_two_rollbacks_go_back_twice_and_a_promotion_starts_anew() -> None:
    record = played(Routing.LABEL, 1, [("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 0)])
    goal = record.good()
    assert goal is not None
    assert goal.number == 1

    record.promote(4)

    again = record.good()
    assert again is not None
    assert again.desired.labels[STABLE] == 2


def test_a_first_canary_is_not_known_good() -> None:
    assert played(Routing.LABEL, 1, [("canary", 1), ("promote", 2)]).good() is None
