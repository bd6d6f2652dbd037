"""What channels are still to be told, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from deployctl.domain.event import NewEvent
from deployctl.domain.revision import RevisionKind
from deployctl.lineage import deliveries as module
from deployctl.lineage.deliveries import Deliveries, Happening
from deployctl.lineage.migrate import upgrade
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import NOW, frozen, pending, published, settled
from tests.support.memory_server import ManualClock

pytest_plugins = ["tests.support.postgres"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/lineage.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    upgrade(found, now=NOW)
    return str(found)


@pytest.fixture
def store(url: str) -> Iterator[SqlLineageStore]:
    with SqlLineageStore(url) as store:
        yield store


@pytest.fixture
def deliveries(url: str, clock: ManualClock) -> Iterator[Deliveries]:
    found = Deliveries(url, clock, busy_timeout_s=5.0)
    yield found
    found.close()


def append(store: SqlLineageStore, *events: NewEvent) -> None:
    with store.transaction() as transaction:
        for event in events:
            transaction.append(event)


def everything(happening: Happening) -> bool:
    return True


def nothing(happening: Happening) -> bool:
    return False


def test_a_new_channel_begins_with_what_happens_from_then_on(store: SqlLineageStore, deliveries: Deliveries) -> None:
    append(store, published())
    deliveries.begin("ops")
    assert deliveries.look() == frozenset()
    append(store, frozen())

    assert deliveries.look() == {"ops"}
    assert deliveries.take_in("ops", everything) == 1
    delivery = deliveries.due("ops")

    assert delivery is not None
    assert (delivery.sequence, delivery.attempts, delivery.dead) == (2, 0, False)


def test_a_channel_that_is_known_goes_on_where_it_was(store: SqlLineageStore, deliveries: Deliveries) -> None:
    deliveries.begin("ops")
    append(store, frozen())
    deliveries.begin("ops")

    assert deliveries.take_in("ops", everything) == 1


def test_what_is_not_wanted_is_passed_over_once(store: SqlLineageStore, deliveries: Deliveries) -> None:
    deliveries.begin("ops")
    append(store, frozen(), frozen())

    assert deliveries.take_in("ops", nothing) == 2
    assert deliveries.take_in("ops", everything) == 0
    assert deliveries.look() == frozenset()


def test_a_delivery_is_due_until_its_receiver_has_it(store: SqlLineageStore, deliveries: Deliveries) -> None:
    deliveries.begin("ops")
    append(store, frozen())
    deliveries.take_in("ops", everything)
    first, again = deliveries.due("ops"), deliveries.due("ops")
    assert first is not None
    assert first == again

    deliveries.delivered(first)

    assert deliveries.due("ops") is None


def test_a_failed_delivery_waits_and_lets_others_pass(
    store: SqlLineageStore, deliveries: Deliveries, clock: ManualClock
) -> None:
    deliveries.begin("ops")
    append(store, frozen(), frozen())
    deliveries.take_in("ops", everything)
    first = deliveries.due("ops")
    assert first is not None

    deliveries.failed(first, "it answered 500", again_at=clock.now() + timedelta(seconds=10))

    second = deliveries.due("ops")
    assert second is not None
    assert second.sequence == 2
    deliveries.delivered(second)
    assert deliveries.due("ops") is None
    assert deliveries.look() == frozenset()
    clock.pause(10)
    assert deliveries.look() == {"ops"}
    once_more = deliveries.due("ops")
    assert once_more is not None
    assert (once_more.sequence, once_more.attempts, once_more.error) == (1, 1, "it answered 500")


def test_a_dead_delivery_is_kept_until_somebody_revives_it(store: SqlLineageStore, deliveries: Deliveries) -> None:
    deliveries.begin("ops")
    append(store, frozen())
    deliveries.take_in("ops", everything)
    delivery = deliveries.due("ops")
    assert delivery is not None

    deliveries.failed(delivery, "it answered 500", again_at=None)

    assert deliveries.due("ops") is None
    (dead,) = deliveries.dead("ops")
    assert (dead.sequence, dead.attempts, dead.dead) == (1, 1, True)
    assert deliveries.dead("other") == ()
    assert deliveries.revive("ops", [1, 99]) == 1
    revived = deliveries.due("ops")
    assert revived is not None
    assert (revived.attempts, revived.dead) == (0, False)
    assert deliveries.dead() == ()


def test_the_state_of_a_channel_counts_what_it_waits_for(
    store: SqlLineageStore, deliveries: Deliveries, clock: ManualClock
) -> None:
    deliveries.begin("ops")
    deliveries.begin("quiet")
    append(store, frozen(), frozen(), frozen())
    deliveries.take_in("ops", everything)
    append(store, frozen())
    for again_at in (None, clock.now() + timedelta(seconds=5)):
        delivery = deliveries.due("ops")
        assert delivery is not None
        deliveries.failed(delivery, f"again at {again_at}", again_at=again_at)

    states = deliveries.states()

    assert list(states) == ["ops", "quiet"]
    ops = states["ops"]
    assert (ops.sequence, ops.behind, ops.outstanding, ops.failing, ops.dead) == (3, 1, 2, 1, 1)
    assert ops.due_at == clock.now()
    assert ops.error.startswith("again at 2026")
    assert (states["quiet"].outstanding, states["quiet"].behind, states["quiet"].error) == (0, 4, "")


def test_a_change_is_given_with_its_revision(store: SqlLineageStore, deliveries: Deliveries) -> None:
    append(store, pending(restores=None), settled())

    happening = deliveries.happening(2)

    assert happening is not None
    assert happening.revision is not None
    assert happening.revision.kind is RevisionKind.PROMOTE
    assert deliveries.happening(3) is None


def test_a_channel_that_has_too_much_outstanding_leaves_events_where_they_are(
    store: SqlLineageStore, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OUTSTANDING", 2)
    deliveries.begin("ops")
    append(store, frozen(), frozen(), frozen())

    assert deliveries.take_in("ops", everything) == 2
    assert deliveries.take_in("ops", everything) == 0
    delivery = deliveries.due("ops")
    assert delivery is not None
    deliveries.delivered(delivery)
    assert deliveries.take_in("ops", everything) == 1


def test_of_two_daemons_that_both_think_they_lead_only_one_makes_a_delivery(
    store: SqlLineageStore, deliveries: Deliveries, url: str, clock: ManualClock
) -> None:
    other = Deliveries(url, clock, busy_timeout_s=5.0)
    deliveries.begin("ops")
    append(store, frozen())

    def while_the_other_does(happening: Happening) -> bool:
        other.take_in("ops", everything)
        return True

    deliveries.take_in("ops", while_the_other_does)

    assert deliveries.states()["ops"].outstanding == 1
    other.close()
