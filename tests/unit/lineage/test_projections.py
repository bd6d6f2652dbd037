from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from deployctl.domain.event import Actor, EventKind, NewEvent, chain
from deployctl.domain.manifest import Provenance
from deployctl.domain.names import ModelName, TargetName
from deployctl.errors import ConcurrentChangeError, RevisionNotFoundError
from deployctl.lineage.audit import verify
from deployctl.lineage.database import Database
from deployctl.lineage.interface import LineageStore
from deployctl.lineage.migrate import upgrade
from deployctl.lineage.projections import effect, normalised, storable
from deployctl.lineage.rows import event_from_row, event_to_row
from deployctl.lineage.store import SqlLineageStore
from deployctl.lineage.tables import PROJECTIONS
from tests.support.lineage import (
    NOW,
    InMemoryLineageStore,
    a_manifest,
    frozen,
    lock_released,
    noted,
    pending,
    published,
    quarantined,
    retired,
    reviewed,
    settled,
    target_event,
    token_created,
    token_revoked,
    unfrozen,
    validated,
)

# Kinds that are only history.
NOTED = [
    EventKind.VERSION_REFUSED,
    EventKind.TARGET_DRIFTED,
    EventKind.TARGET_DEGRADED,
    EventKind.TARGET_RECOVERED,
]
MODELS = [ModelName("a"), ModelName("b")]
TARGETS = [TargetName("local"), TargetName("production")]
DIGESTS = [a_manifest(content=content).digest for content in "01f"]

models = st.sampled_from(MODELS)
targets = st.sampled_from(TARGETS)
words = st.text(max_size=5)
provenances = st.builds(
    Provenance,
    source=words,
    run=words,
    code=words,
    datasets=st.dictionaries(words, words, max_size=2),
    metrics=st.dictionaries(words, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    tags=st.dictionaries(words, words, max_size=2),
)
manifests = st.builds(
    a_manifest, st.integers(0, 3), model=models, provenance=provenances, content=st.sampled_from("01f")
)
numbers = st.integers(1, 4)
events = st.one_of(
    st.builds(published, manifests, kind=st.sampled_from([EventKind.VERSION_PUBLISHED, EventKind.VERSION_ADOPTED])),
    st.builds(target_event, st.sampled_from([EventKind.TARGET_STARTED, EventKind.TARGET_STOPPED]), target=targets),
    st.builds(pending, numbers, model=models, target=targets, restores=st.none() | numbers, reason=words),
    st.builds(settled, numbers, model=models, target=targets, serving=st.booleans()),
    st.builds(reviewed, numbers, model=models, target=targets),
    st.builds(frozen, target=targets, model=st.none() | models, expires_at=st.none() | st.just(NOW)),
    st.builds(unfrozen, target=targets, model=st.none() | models),
    st.builds(quarantined, manifests, released=st.booleans()),
    st.builds(validated, st.sampled_from("kl"), model=models),
    st.builds(token_created, st.sampled_from(["0a", "0b"])),
    st.builds(token_revoked, st.sampled_from(["0a", "0b"])),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)
any_text = st.text(st.characters())
any_events = st.builds(
    NewEvent,
    kind=st.sampled_from(EventKind),
    at=st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    actor=st.builds(Actor, any_text, any_text, any_text, any_text),
    operation=any_text,
    model=st.none() | models,
    target=st.none() | targets,
    reason=any_text,
    data=st.dictionaries(st.text(), json_values, max_size=3),
)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database to copy: migrating takes longer than what is tested here."""
    path = tmp_path_factory.mktemp("migrated") / "lineage.db"
    upgrade(f"sqlite:///{path}", now=NOW)
    return path


def append_each(store: LineageStore, sequence: list[NewEvent]) -> None:
    for event in sequence:
        with suppress(ConcurrentChangeError, RevisionNotFoundError), store.transaction() as transaction:
            transaction.append(event)


def projected(url: str) -> dict[str, list[tuple[Any, ...]]]:
    database = Database(url, busy_timeout_s=5)
    try:
        with database.reading() as connection:
            return {
                table.name: sorted(map(tuple, connection.execute(select(table))), key=repr) for table in PROJECTIONS
            }
    finally:
        database.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sequence=st.lists(events, max_size=25))
def test_refolding_all_events_gives_the_rows_that_were_there(migrated: Path, sequence: list[NewEvent]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{shutil.copy(migrated, folder)}"
        with SqlLineageStore(url) as store:
            append_each(store, sequence)
            before = projected(url)

            assert store.rebuild_projections() == len(list(store.events()))

            assert projected(url) == before
            assert verify(store).is_intact


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sequence=st.lists(events, max_size=25))
def test_the_database_and_memory_fold_to_the_same_state(migrated: Path, sequence: list[NewEvent]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{shutil.copy(migrated, folder)}"
        with SqlLineageStore(url) as in_database:
            in_memory = InMemoryLineageStore()
            append_each(in_database, sequence)
            append_each(in_memory, sequence)

            questions: list[Callable[[LineageStore], object]] = [
                lambda store: list(store.events()),
                lambda store: store.models(),
                lambda store: store.versions(),
                *(lambda store, target=target: store.current(target) for target in TARGETS),
                *(lambda store, target=target: store.pending(target) for target in TARGETS),
                *(
                    lambda store, target=target, model=model: store.revisions(target, model, limit=3)
                    for target in TARGETS
                    for model in MODELS
                ),
                *(lambda store, model=model: list(store.history(model=model, limit=3)) for model in MODELS),
                *(lambda store, target=target: store.freezes(target) for target in TARGETS),
                *(lambda store, key=key: store.verdict(key) for key in "kl"),
                *(lambda store, digest=digest: store.quarantine(digest) for digest in DIGESTS),
                lambda store: store.tokens(),
                lambda store: store.folded_sequence(),
            ]
            for question in questions:
                assert question(in_database) == question(in_memory)


@given(any_events)
def test_an_event_survives_its_row(event: NewEvent) -> None:
    content = normalised(event)
    appended = chain("0" * 64, 1, content)

    row = event_to_row(appended)

    assert event_from_row(row) == appended  # type: ignore[arg-type]
    assert all("\0" not in value for value in row.values() if isinstance(value, str))
    assert json.dumps(row).isascii()


@given(any_text)
def test_stored_text_is_utf8_without_nul_and_stays_as_it_is(text: str) -> None:
    stored = storable(text)

    assert "\0" not in stored.encode().decode()
    assert storable(stored) == stored


@pytest.mark.parametrize(
    "event",
    [
        dataclasses.replace(published(), model=None),
        dataclasses.replace(published(), model=ModelName("another")),
        dataclasses.replace(published(), data={}),
        dataclasses.replace(published(), data={**published().data, "digest": "sha256:" + "0" * 64}),
        dataclasses.replace(published(), data={**published().data, "manifest": {"schema": 1}}),
        dataclasses.replace(pending(), target=None),
        dataclasses.replace(pending(), model=None),
        pending(0),
        dataclasses.replace(pending(), data={**pending().data, "kind": "demote"}),
        dataclasses.replace(pending(), data={**pending().data, "desired": None}),
        dataclasses.replace(pending(), data={**pending().data, "revision": "1"}),
        dataclasses.replace(settled(), data={"revision": 1}),
        dataclasses.replace(frozen(), target=None),
        dataclasses.replace(frozen(), data={"expires_at": 5}),
        dataclasses.replace(quarantined(), model=None),
        dataclasses.replace(quarantined(), data={"version": 1, "digest": 7}),
        dataclasses.replace(validated(), data={"version": 1}),
        dataclasses.replace(token_created(), data={**token_created().data, "role": "root"}),
        dataclasses.replace(token_revoked(), data={}),
        dataclasses.replace(target_event(EventKind.TARGET_STARTED), data={"runtime": "process"}),
    ],
)
def test_an_event_whose_data_is_not_its_kinds_is_refused(event: NewEvent) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        effect(event)


def test_every_kind_of_event_has_an_effect() -> None:
    samples = [
        published(),
        published(kind=EventKind.VERSION_ADOPTED),
        target_event(EventKind.TARGET_STARTED),
        target_event(EventKind.TARGET_STOPPED),
        target_event(EventKind.TARGET_UPGRADED),
        pending(),
        settled(),
        settled(serving=False),
        reviewed(),
        frozen(),
        unfrozen(),
        quarantined(),
        quarantined(released=True),
        retired(),
        validated("key"),
        lock_released(),
        token_created(),
        token_revoked(),
        *(noted(kind) for kind in NOTED),
    ]

    assert {sample.kind for sample in samples} == set(EventKind)
    for sample in samples:
        assert effect(sample)


def test_everything_that_a_version_came_from_is_a_source(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/lineage.db"
    upgrade(url, now=NOW)
    with SqlLineageStore(url) as store, store.transaction() as transaction:
        transaction.append(published())

    assert projected(url)["sources"] == [
        ("digits", 1, "code", "", "4f2a-dirty"),
        ("digits", 1, "dataset", "digits", "sha256:77"),
        ("digits", 1, "path", "", "/exports/digits"),
        ("digits", 1, "run", "", "https://runs.example/5"),
    ]
    assert projected(url)["models"] == [("digits", 1, 1, 1)]
