"""What the database refuses, and what the audit finds when somebody went around it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deployctl.domain.event import Event
from deployctl.errors import DatabaseCorruptError, DatabaseError
from deployctl.lineage import migrate
from deployctl.lineage.audit import BrokenLink, verify
from deployctl.lineage.database import Database
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import NOW, a_manifest, pending, published, settled

pytest_plugins = ["tests.support.postgres"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lineage.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqlLineageStore]:
    with filled(f"sqlite:///{path}") as store:
        yield store


def filled(url: str) -> SqlLineageStore:
    migrate.upgrade(url, now=NOW)
    store = SqlLineageStore(url)
    with store.transaction() as transaction:
        for number in (1, 2, 3):
            transaction.append(published(a_manifest(number)))
            transaction.append(pending(number))
            transaction.append(settled(number))
    return store


def tamper(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for trigger in ("events_refuse_change", "events_refuse_removal", "events_follow_each_other"):
            connection.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET reason = 'another' WHERE sequence = 2",
        "DELETE FROM events WHERE sequence = 9",
        "DELETE FROM events",
        "INSERT INTO events SELECT 11, kind, at, user_name, host, ci, command, operation, model, target, reason, data,"
        " previous_hash, hash FROM events WHERE sequence = 9",
        "INSERT INTO events SELECT * FROM events WHERE sequence = 9",
    ],
)
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_events_cannot_be_changed_removed_or_put_out_of_order(
    statement: str, database: str, path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{path}" if database == "sqlite" else request.getfixturevalue("postgres_url")

    with filled(url) as store, closing(Database(url, busy_timeout_s=5)) as raw:
        with pytest.raises(DatabaseError, match="events"), raw.writing() as connection:
            connection.exec_driver_sql(statement)

        assert verify(store).is_intact
        assert verify(store).verified == 9


def test_sqlite_refuses_a_replacing_insert_too(path: Path, store: SqlLineageStore) -> None:
    with (
        closing(sqlite3.connect(path)) as connection,
        connection,
        pytest.raises(sqlite3.IntegrityError, match="without gaps"),
    ):
        connection.execute("INSERT OR REPLACE INTO events SELECT * FROM events WHERE sequence = 9")


def test_postgresql_refuses_truncation(postgres_url: str) -> None:
    filled(postgres_url).close()

    with (
        closing(Database(postgres_url, busy_timeout_s=5)) as raw,
        pytest.raises(DatabaseError, match="never changed or removed"),
        raw.writing() as connection,
    ):
        connection.exec_driver_sql("TRUNCATE events CASCADE")


@pytest.mark.parametrize(
    "column",
    ["at", "user_name", "host", "ci", "command", "operation", "model", "target", "reason", "data", "hash", "kind"],
)
def test_a_change_of_any_column_is_found(column: str, path: Path, store: SqlLineageStore) -> None:
    value = {
        "at": "2026-11-21T07:10:27.123457Z",
        "kind": "revision.failed",
        "data": '{"revision":2,"evidence":{"probe":"not ok"}}',
    }.get(column, "another")
    tamper(path, f"UPDATE events SET {column} = '{value}' WHERE sequence = 6")

    audit = verify(store)

    assert audit.broken == BrokenLink(6, "its content is not what was appended")
    assert audit.verified == 5
    assert audit.head == events(store)[4].hash


def events(store: SqlLineageStore) -> list[Event]:
    return list(store.events())


@pytest.mark.parametrize(
    ("statements", "broken"),
    [
        (["DELETE FROM events WHERE sequence = 4"], BrokenLink(4, "it is missing; the next event is 5")),
        (["DELETE FROM events WHERE sequence < 4"], BrokenLink(1, "it is missing; the next event is 4")),
        (["DELETE FROM events WHERE sequence > 7"], BrokenLink(8, "events up to 9 were removed from the end")),
        (["DELETE FROM events"], BrokenLink(1, "events up to 9 were removed from the end")),
        (
            ["DELETE FROM events WHERE sequence = 4", "UPDATE events SET sequence = sequence - 1 WHERE sequence > 4"],
            BrokenLink(4, "it does not follow the event before it"),
        ),
        (["UPDATE events SET data = 'no json' WHERE sequence = 5"], BrokenLink(5, "it cannot be read")),
        (["UPDATE events SET kind = 'no.kind' WHERE sequence = 1"], BrokenLink(1, "it cannot be read")),
        (["UPDATE events SET at = 'yesterday' WHERE sequence = 9"], BrokenLink(9, "it cannot be read")),
    ],
)
def test_removed_reordered_and_unreadable_events_are_found(
    statements: list[str], broken: BrokenLink, path: Path, store: SqlLineageStore
) -> None:
    tamper(path, *statements)

    audit = verify(store)

    assert audit.broken == broken
    assert audit.verified == broken.sequence - 1


def test_a_rebuild_from_tampered_events_is_refused_and_changes_nothing(path: Path, store: SqlLineageStore) -> None:
    before = store.current(pending().target or pytest.fail("no target"))
    tamper(path, """UPDATE events SET data = '{"revision": 77, "evidence": {}}' WHERE sequence = 6""")

    with pytest.raises(DatabaseCorruptError) as caught:
        store.rebuild_projections()

    assert caught.value.sequence == 6
    assert store.current(pending().target or pytest.fail("no target")) == before
