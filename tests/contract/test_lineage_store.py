"""What every lineage store does, on SQLite, on PostgreSQL and in memory."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from deployctl.domain.event import GENESIS, Event, EventKind, NewEvent, first_broken_link
from deployctl.domain.manifest import Provenance
from deployctl.domain.names import MAX_VERSION, Digest, ModelName, TargetName, VersionNumber
from deployctl.domain.revision import RevisionKind, RevisionState
from deployctl.errors import ConcurrentChangeError, DatabaseBusyError, RevisionNotFoundError
from deployctl.lineage.audit import verify
from deployctl.lineage.interface import LineageStore
from deployctl.lineage.migrate import upgrade
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import (
    ACTOR,
    MODEL,
    NOW,
    TARGET,
    InMemoryLineageStore,
    a_manifest,
    desired,
    mirrored,
    pending,
    published,
    retired,
    settled,
    target_event,
)

pytest_plugins = ["tests.support.postgres"]

OTHER = ModelName("other")


@pytest.fixture(params=["in_memory", "sqlite", "mirrored", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LineageStore]:
    if request.param == "in_memory":
        yield InMemoryLineageStore(busy_timeout_s=0.3)
        return
    in_file = request.param != "postgres"
    url = f"sqlite:///{tmp_path}/lineage.db" if in_file else request.getfixturevalue("postgres_url")
    upgrade(url, now=NOW)
    with SqlLineageStore(url, busy_timeout_s=0.3) as sql_store:
        yield mirrored(sql_store, tmp_path / "state") if request.param == "mirrored" else sql_store


def append(store: LineageStore, *events: NewEvent) -> list[Event]:
    with store.transaction() as transaction:
        return [transaction.append(event) for event in events]


def test_an_empty_store_has_nothing(store: LineageStore) -> None:
    assert store.models() == ()
    assert store.versions() == ()
    assert store.versions(MODEL) == ()
    assert store.manifest(MODEL, VersionNumber(1)) is None
    assert store.current(TARGET) == ()
    assert store.pending(TARGET) == ()
    assert store.revisions(TARGET, MODEL, limit=10) == ()
    assert list(store.history(limit=10)) == []
    assert list(store.events()) == []
    assert store.folded_sequence() == 0


def test_events_count_from_one_and_each_carries_the_hash_of_the_one_before(store: LineageStore) -> None:
    first, second = append(store, published(), pending())
    (third,) = append(store, settled())

    assert [event.sequence for event in (first, second, third)] == [1, 2, 3]
    assert [event.previous_hash for event in (first, second, third)] == [GENESIS, first.hash, second.hash]
    assert first_broken_link(store.events()) is None


def test_an_event_is_read_back_as_it_was_returned(store: LineageStore) -> None:
    elsewhere = datetime(2026, 11, 21, 9, 10, 27, 5, tzinfo=timezone(timedelta(hours=2)))
    event = dataclasses.replace(published(at=elsewhere), reason='a "reason",\nin two lines: größer ✓ 🙂')

    (appended,) = append(store, event)

    assert list(store.events()) == [appended]
    assert appended.content == dataclasses.replace(event, at=datetime(2026, 11, 21, 7, 10, 27, 5, tzinfo=UTC))


def test_words_that_no_database_stores_are_escaped_and_the_chain_still_holds(store: LineageStore) -> None:
    actor = dataclasses.replace(ACTOR, command="deployctl publish caf\udce9")
    provenance = Provenance(source="/exports/caf\udce9", tags={"nul": "a\0b"}, datasets={"d\udce9": "v\0"})
    event = dataclasses.replace(
        published(a_manifest(provenance=provenance)), actor=actor, reason="nul \0 and \udcff", operation="op"
    )

    (appended,) = append(store, event)

    assert appended.content.actor.command == "deployctl publish caf\\udce9"
    assert appended.content.reason == "nul \\x00 and \\udcff"
    assert list(store.events()) == [appended]
    assert verify(store).is_intact
    assert store.versions()[0].source == "/exports/caf\\udce9"
    assert store.versions()[0].tags == {"nul": "a\\x00b"}


def test_an_event_whose_data_is_no_json_is_refused(store: LineageStore) -> None:
    with pytest.raises(ValueError, match="JSON"):
        append(store, settled(evidence={"p99_ms": float("nan")}))

    assert list(store.events()) == []


def test_a_transaction_that_raises_leaves_nothing(store: LineageStore) -> None:
    append(store, published(a_manifest(1)))

    with pytest.raises(KeyError), store.transaction() as transaction:  # noqa: PT012
        transaction.append(published(a_manifest(2)))
        transaction.append(pending(1))
        raise KeyError("interrupted")

    assert [record.version for record in store.versions()] == [1]
    assert store.pending(TARGET) == ()
    assert len(list(store.events())) == 1


def test_a_transaction_reads_what_it_wrote_and_others_do_not_yet(store: LineageStore) -> None:
    with store.transaction() as transaction:
        assert transaction.next_revision(TARGET, MODEL) == 1
        assert not transaction.has_version(MODEL, VersionNumber(1))
        transaction.append(published(a_manifest(1)))
        transaction.append(pending(1))
        transaction.append(settled(1))

        assert transaction.has_version(MODEL, VersionNumber(1))
        assert transaction.next_revision(TARGET, MODEL) == 2
        current = transaction.current(TARGET, MODEL)
        assert current is not None
        assert current.number == 1
        assert store.versions() == ()
        assert store.current(TARGET) == ()

    assert store.current(TARGET) == (current,)


def test_a_second_writer_is_told_that_the_database_is_busy(store: LineageStore) -> None:
    seen: list[BaseException] = []

    def write() -> None:
        try:
            append(store, published())
        except DatabaseBusyError as error:
            seen.append(error)

    with store.transaction() as transaction:
        second = threading.Thread(target=write)
        second.start()
        second.join(timeout=30)
        transaction.append(published(a_manifest(7)))

    assert len(seen) == 1
    assert [record.version for record in store.versions()] == [7]


def test_versions_are_in_order_of_model_and_number(store: LineageStore) -> None:
    names = [ModelName("b"), ModelName("B"), ModelName("a-1"), ModelName("a"), ModelName("a.1")]
    for name in names:
        append(store, *(published(a_manifest(version, model=name)) for version in (10, 2, MAX_VERSION, 0)))

    assert store.models() == tuple(sorted(names))
    assert [(record.model, record.version) for record in store.versions()] == [
        (name, version) for name in sorted(names) for version in (0, 2, 10, MAX_VERSION)
    ]
    assert [record.version for record in store.versions(ModelName("a"))] == [0, 2, 10, MAX_VERSION]


def test_a_version_is_recorded_with_what_its_manifest_says(store: LineageStore) -> None:
    parents = (Digest("sha256:" + "c" * 64), Digest("sha256:" + "d" * 64))
    provenance = Provenance(
        source="/exports/digits",
        parents=parents,
        datasets={"train": "sha256:1", "test": "sha256:2"},
        metrics={"loss": 0.1 + 0.2, "epochs": 3},
        tags={"team": "vision", "": "empty"},
    )
    manifest = a_manifest(3, provenance=provenance)

    append(store, published(manifest))

    (record,) = store.versions(MODEL)
    assert record.digest == manifest.digest
    assert (record.size_bytes, record.file_count) == (99, 2)
    assert (record.published_at, record.published_by, record.source) == (NOW, "ada@build-1", "/exports/digits")
    assert record.metrics == {"loss": 0.1 + 0.2, "epochs": 3.0}
    assert record.tags == {"team": "vision", "": "empty"}
    assert store.manifest(MODEL, VersionNumber(3)) == manifest


def test_a_retired_version_has_no_record(store: LineageStore) -> None:
    append(store, published(a_manifest(1)), published(a_manifest(2)), published(a_manifest(1, model=OTHER)))

    append(store, retired(a_manifest(2)), retired(a_manifest(1, model=OTHER)))

    assert [each.version for each in store.versions()] == [1]
    assert store.models() == (MODEL,)
    assert store.manifest(MODEL, VersionNumber(2)) is None
    append(store, published(a_manifest(2)))
    assert [each.version for each in store.versions(MODEL)] == [1, 2]


def test_targets_are_those_on_which_something_was_to_be_served(store: LineageStore) -> None:
    assert store.targets() == ()

    append(store, pending(1, target=TargetName("b")), pending(1, target=TargetName("a")), pending(2))

    assert store.targets() == ("a", "b", "local")


def test_a_version_recorded_again_replaces_its_record(store: LineageStore) -> None:
    append(store, published(a_manifest(1)), published(a_manifest(2)))

    again = a_manifest(1, content="f", provenance=Provenance(tags={"found": "again"}))
    append(store, published(again, kind=EventKind.VERSION_ADOPTED))

    first, second = store.versions(MODEL)
    assert first.digest == again.digest
    assert (first.tags, first.metrics, first.source) == ({"found": "again"}, {}, "")
    assert second.version == 2
    assert store.manifest(MODEL, VersionNumber(1)) == again


def test_an_event_that_disagrees_with_its_manifest_is_refused(store: LineageStore) -> None:
    event = published(a_manifest(1))
    wrong = dataclasses.replace(event, data={**event.data, "version": 2})

    with pytest.raises(ValueError, match="digits@1"):
        append(store, wrong)

    assert store.versions() == ()


def test_a_revision_is_pending_until_it_is_settled(store: LineageStore) -> None:
    after, before = desired(1, 2, stable=2), desired(1, stable=1)
    append(store, pending(1, after=after, before=before, reason="new data"))

    (waiting,) = store.pending(TARGET)
    assert (waiting.state, waiting.settled_at, waiting.evidence) == (RevisionState.PENDING, None, {})
    assert (waiting.kind, waiting.desired, waiting.before) == (RevisionKind.PROMOTE, after, before)
    assert (waiting.actor, waiting.operation, waiting.reason, waiting.recorded_at) == (ACTOR, "op-3", "new data", NOW)
    assert store.current(TARGET) == ()

    later = NOW + timedelta(seconds=2)
    append(store, settled(1, evidence={"probe": [4.0, None]}, at=later))

    assert store.pending(TARGET) == ()
    (current,) = store.current(TARGET)
    expected = dataclasses.replace(
        waiting, state=RevisionState.SERVING, settled_at=later, evidence={"probe": [4.0, None]}
    )
    assert current == expected


def test_a_failed_revision_leaves_the_one_before_current(store: LineageStore) -> None:
    append(store, pending(1), settled(1), pending(2), settled(2, serving=False, evidence={"error": "no such op"}))

    assert [revision.number for revision in store.current(TARGET)] == [1]
    newest, _ = store.revisions(TARGET, MODEL, limit=10)
    assert (newest.state, newest.evidence) == (RevisionState.FAILED, {"error": "no such op"})


def test_a_revision_that_served_and_failed_later_gives_way_to_the_one_before(store: LineageStore) -> None:
    append(store, pending(1), settled(1), pending(2), settled(2))
    assert [revision.number for revision in store.current(TARGET)] == [2]

    append(store, settled(2, serving=False))

    assert [revision.number for revision in store.current(TARGET)] == [1]


def test_an_older_revision_settled_late_does_not_become_current(store: LineageStore) -> None:
    append(store, pending(1), pending(2), settled(2), settled(1))

    assert [revision.number for revision in store.current(TARGET)] == [2]


def test_a_revision_number_is_taken_once(store: LineageStore) -> None:
    append(store, pending(1))

    with pytest.raises(ConcurrentChangeError) as caught:
        append(store, pending(1))

    assert caught.value.exit_code == 8
    assert len(list(store.events())) == 1


def test_a_revision_that_was_never_opened_cannot_be_settled(store: LineageStore) -> None:
    with pytest.raises(RevisionNotFoundError):
        append(store, settled(4))

    assert list(store.events()) == []


def test_each_model_on_each_target_counts_its_own_revisions(store: LineageStore) -> None:
    production = TargetName("production")
    append(
        store,
        pending(1),
        settled(1),
        pending(1, model=OTHER),
        settled(1, model=OTHER),
        pending(1, target=production),
        pending(2),
    )

    with store.transaction() as transaction:
        assert transaction.next_revision(TARGET, MODEL) == 3
        assert transaction.next_revision(TARGET, OTHER) == 2
        assert transaction.next_revision(production, MODEL) == 2
        assert transaction.next_revision(production, OTHER) == 1
        assert transaction.current(production, MODEL) is None
    assert [(revision.model, revision.number) for revision in store.current(TARGET)] == [(MODEL, 1), (OTHER, 1)]
    assert [revision.number for revision in store.pending(TARGET)] == [2]
    assert [revision.number for revision in store.pending(production)] == [1]


def test_revisions_are_the_newest_first_and_at_most_as_many_as_asked(store: LineageStore) -> None:
    append(store, *(pending(number) for number in range(1, 6)), pending(9, restores=2))

    found = store.revisions(TARGET, MODEL, limit=3)

    assert [revision.number for revision in found] == [9, 5, 4]
    assert (found[0].kind, found[0].restores) == (RevisionKind.ROLLBACK, 2)


def test_history_is_the_newest_events_of_a_model_and_a_target(store: LineageStore) -> None:
    append(
        store,
        published(a_manifest(1)),
        published(a_manifest(1, model=OTHER)),
        target_event(EventKind.TARGET_STARTED),
        pending(1),
        pending(1, model=OTHER),
        settled(1),
        target_event(EventKind.TARGET_STOPPED),
    )

    def sequences(model: ModelName | None, target: TargetName | None, limit: int = 100) -> list[int]:
        return [event.sequence for event in store.history(model=model, target=target, limit=limit)]

    assert sequences(None, None) == [7, 6, 5, 4, 3, 2, 1]
    assert sequences(None, None, limit=2) == [7, 6]
    assert sequences(MODEL, None) == [6, 4, 1]
    assert sequences(None, TARGET) == [7, 6, 5, 4, 3]
    assert sequences(MODEL, TARGET) == [6, 4]
    assert sequences(OTHER, TARGET, limit=1) == [5]
    assert sequences(ModelName("absent"), None) == []


def test_a_target_runs_from_its_start_until_it_is_stopped(store: LineageStore) -> None:
    assert store.running(TARGET) is None
    append(store, target_event(EventKind.TARGET_STARTED))
    assert store.running(TARGET) is True
    append(store, target_event(EventKind.TARGET_STOPPED))
    assert store.running(TARGET) is False


def test_events_can_be_left_half_way_and_written_to_while_they_are_read(store: LineageStore) -> None:
    append(store, *(pending(number) for number in range(1, 600)))

    abandoned = store.events()
    assert next(abandoned).sequence == 1
    append(store, settled(1))
    streamed = store.events()
    first = next(streamed)
    append(store, settled(2))

    assert [first.sequence, *(event.sequence for event in streamed)][:600] == list(range(1, 601))
    assert store.folded_sequence() == 601


def test_a_whole_chain_is_verified_to_its_head(store: LineageStore) -> None:
    assert verify(store).is_intact
    events = append(store, published(), pending(), settled(), target_event(EventKind.TARGET_STOPPED))

    audit = verify(store)

    assert (audit.verified, audit.head, audit.broken) == (4, events[-1].hash, None)
