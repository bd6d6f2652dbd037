"""Revisions and events while the database is locked, missing or damaged, and when it is back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.domain.event import NewEvent
from deployctl.domain.revision import Revision, RevisionState
from deployctl.errors import DatabaseBusyError, DatabaseError, LineageLostError, StorageError
from deployctl.lineage.audit import verify
from deployctl.lineage.backup import backup_sqlite
from deployctl.lineage.interface import LineageStore
from deployctl.lineage.migrate import upgrade
from deployctl.lineage.state_copy import StateCopy
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import MODEL, NOW, TARGET, desired, mirrored, pending, settled


@pytest.fixture
def file(tmp_path: Path) -> Path:
    upgrade(f"sqlite:///{tmp_path}/lineage.db", now=NOW)
    return tmp_path / "lineage.db"


@pytest.fixture
def database(file: Path) -> Iterator[SqlLineageStore]:
    with SqlLineageStore(f"sqlite:///{file}", busy_timeout_s=0.1) as store:
        yield store


@pytest.fixture
def served(database: SqlLineageStore, tmp_path: Path) -> Path:
    """Two revisions that served: @1, then @2. Returns the state directory."""
    store = mirrored(database, tmp_path / "state")
    for number in (1, 2):
        append(store, pending(number, after=desired(number, stable=number)), settled(number))
    return tmp_path / "state"


def append(store: LineageStore, *events: NewEvent) -> None:
    for event in events:
        with store.transaction() as transaction:
            transaction.append(event)


def roll_back(store: LineageStore, *, operation: str = "op-9") -> int:
    """Records a rollback to revision 1 as an operation would and returns its number."""
    with store.transaction() as transaction:
        number = transaction.next_revision(TARGET, MODEL)
        opened = pending(number, after=desired(1, 2, stable=1), restores=1)
        transaction.append(replace(opened, operation=operation))
    append(store, replace(settled(number), operation=operation))
    return number


def current(store: LineageStore) -> Revision:
    (revision,) = store.current(TARGET)
    return revision


def damage(file: Path) -> None:
    file.write_bytes(b"this is no database" * 400)
    for beside in (file.with_name("lineage.db-wal"), file.with_name("lineage.db-shm")):
        beside.unlink(missing_ok=True)


def damage_table(file: Path, table: str) -> None:
    """Overwrites the first page of a table, which is not looked at before something is written to it."""
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = other.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        (size,) = other.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as pages:
        pages.seek((page - 1) * size)
        pages.write(b"\xde\xad" * (size // 2))


@pytest.mark.parametrize("fault", ["missing", "damaged", "damaged events", "damaged revisions", "locked"])
def test_a_rollback_is_recorded_beside_the_server_when_the_database_is_away(
    fault: str, file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        match fault:
            case "missing":
                file.unlink()
            case "damaged":
                damage(file)
            case "damaged events" | "damaged revisions":
                damage_table(file, fault.split()[1])
            case "locked":
                other.execute("PRAGMA journal_mode = DELETE")
                other.execute("BEGIN EXCLUSIVE")
        warnings: list[str] = []
        store = mirrored(database, served, failover=True, warnings=warnings)

        assert roll_back(store) == 3

    assert current(store).desired == desired(1, 2, stable=1)
    assert current(store).state is RevisionState.SERVING
    assert store.offline
    assert len(warnings) == 1


def test_another_process_without_the_database_goes_on_from_what_was_spooled(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    away = file.rename(file.with_suffix(".away"))
    roll_back(mirrored(database, served, failover=True))

    later = mirrored(database, served, failover=True)

    assert current(later).number == 3
    assert [revision.number for revision in later.revisions(TARGET, MODEL, limit=10)] == [3, 2, 1]
    assert roll_back(later, operation="op-10") == 4
    away.rename(file)


def test_the_next_use_of_the_database_appends_what_was_spooled(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    away = file.rename(file.with_suffix(".away"))
    roll_back(mirrored(database, served, failover=True))
    away.rename(file)

    back = mirrored(database, served)

    assert current(back).number == 3
    assert verify(back).is_intact
    assert [event.content.operation for event in back.history(limit=2)] == ["op-9", "op-9"]
    assert StateCopy(served).spooled() == ()


def test_a_spooled_revision_takes_the_next_number_when_its_own_was_taken_meanwhile(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    away = file.rename(file.with_suffix(".away"))
    roll_back(mirrored(database, served, failover=True))
    away.rename(file)
    append(database, pending(3, after=desired(2, stable=2)), settled(3))

    back = mirrored(database, served)

    assert current(back).number == 4
    assert current(back).restores == 1
    assert verify(back).is_intact


def test_events_are_not_appended_twice_when_a_process_died_before_it_forgot_them(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    away = file.rename(file.with_suffix(".away"))
    roll_back(mirrored(database, served, failover=True))
    spooled = {each.path: each.path.read_bytes() for each in StateCopy(served).spooled()}
    away.rename(file)
    assert mirrored(database, served).drain() == 2
    for path, content in spooled.items():
        path.write_bytes(content)

    assert mirrored(database, served).drain() == 0
    assert len(list(database.events())) == 6


def test_a_database_that_fails_half_way_is_given_up_with_nothing_lost(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    store = mirrored(database, served, failover=True)
    with store.transaction() as transaction:
        number = transaction.next_revision(TARGET, MODEL)
        transaction.append(replace(pending(number, after=desired(1, 2, stable=1), restores=1), operation="op-9"))
    database.close()
    away = file.rename(file.with_suffix(".away"))

    append(store, replace(settled(number), operation="op-9"))
    away.rename(file)

    back = mirrored(database, served)
    assert current(back).number == 3
    assert verify(back).is_intact


def test_what_waits_is_not_passed_over_by_a_reader_of_the_database(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    away = file.rename(file.with_suffix(".away"))
    roll_back(mirrored(database, served, failover=True))
    away.rename(file)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(DatabaseBusyError):
            mirrored(database, served).current(TARGET)
        assert current(mirrored(database, served, failover=True)).number == 3


def test_without_leave_to_go_on_a_missing_database_is_an_error(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    database.close()
    file.unlink()

    with pytest.raises(DatabaseError):
        mirrored(database, served).current(TARGET)
    with pytest.raises(DatabaseError):
        roll_back(mirrored(database, served))


def test_an_unreadable_spooled_event_is_named_and_kept(database: SqlLineageStore, served: Path) -> None:
    (served / "spool").mkdir()
    (served / "spool" / "op-1-0000.json").write_text("{")

    with pytest.raises(StorageError, match="op-1-0000"):
        mirrored(database, served).drain()
    assert current(mirrored(database, served, failover=True)).number == 2
    assert (served / "spool" / "op-1-0000.json").exists()


def test_a_copy_that_does_not_read_counts_as_none(database: SqlLineageStore, served: Path) -> None:
    (served / TARGET / "revisions" / f"{MODEL}.json").write_text("[]")

    assert StateCopy(served).kept(TARGET) == {}


def lose(file: Path, database: SqlLineageStore) -> None:
    """Puts an empty database in the place of one that is lost."""
    database.close()
    damage(file)
    file.unlink()
    upgrade(f"sqlite:///{file}", now=NOW)


def test_an_empty_database_beside_a_server_that_has_served_is_refused_until_it_has_what_is_kept(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    before = database.revisions(TARGET, MODEL, limit=10)
    lose(file, database)
    store = mirrored(database, served)
    with pytest.raises(LineageLostError):
        store.current(TARGET)
    with pytest.raises(LineageLostError):
        store.revisions(TARGET, MODEL, limit=10)

    assert store.recover(TARGET) == (MODEL,)

    assert store.revisions(TARGET, MODEL, limit=10) == before
    assert current(store).number == 2
    assert verify(store).is_intact
    assert store.recover(TARGET) == ()
    append(store, pending(3, after=desired(1, stable=1)), settled(3))
    assert current(mirrored(database, served)).number == 3


def test_what_was_rolled_back_meanwhile_is_recorded_once_what_it_follows_is(
    file: Path, database: SqlLineageStore, served: Path
) -> None:
    lose(file, database)
    assert roll_back(mirrored(database, served, failover=True)) == 3
    with pytest.raises(LineageLostError):
        mirrored(database, served).drain()
    assert len(StateCopy(served).spooled()) == 2

    back = mirrored(database, served)
    assert back.recover(TARGET) == (MODEL,)
    back.drain()

    assert [each.number for each in back.revisions(TARGET, MODEL, limit=10)] == [3, 2, 1]
    assert current(back).restores == 1
    assert StateCopy(served).spooled() == ()
    assert verify(back).is_intact


def test_revisions_made_since_a_backup_are_recorded_again(file: Path, database: SqlLineageStore, served: Path) -> None:
    copy = backup_sqlite(file, now=NOW)
    store = mirrored(database, served)
    append(store, pending(3, after=desired(1, stable=1)), settled(3))
    database.close()
    copy.replace(file)
    for beside in (file.with_name("lineage.db-wal"), file.with_name("lineage.db-shm")):
        beside.unlink(missing_ok=True)

    back = mirrored(database, served)
    assert back.recover(TARGET) == (MODEL,)

    assert [each.number for each in back.revisions(TARGET, MODEL, limit=10)] == [3, 2, 1]
