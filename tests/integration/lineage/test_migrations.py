"""The schema from nothing, from every released one, and against the tables that the code expects."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from deployctl.domain.event import EventKind
from deployctl.domain.names import VersionNumber
from deployctl.domain.revision import RevisionState
from deployctl.errors import DeployctlError, SchemaOutdatedError, SchemaTooNewError, UsageError
from deployctl.lineage import migrate
from deployctl.lineage.audit import verify
from deployctl.lineage.database import Database
from deployctl.lineage.store import SqlLineageStore
from deployctl.lineage.tables import SCHEMA_HEAD, SCHEMA_REVISIONS
from tests.support.lineage import MODEL, NOW, TARGET, a_manifest, pending, published, settled, target_event

pytest_plugins = ["tests.support.postgres"]

GOLDEN = Path(__file__).parents[2] / "data" / "lineage"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lineage.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def any_url(request: pytest.FixtureRequest, url: str) -> str:
    return url if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


def fill(url: str) -> None:
    with SqlLineageStore(url) as store, store.transaction() as transaction:
        transaction.append(published())
        transaction.append(target_event(EventKind.TARGET_STARTED))
        transaction.append(pending())
        transaction.append(settled())


def write(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_the_revisions_that_the_store_knows_are_alembics() -> None:
    scripts = ScriptDirectory(str(migrate.script_location()))

    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == SCHEMA_REVISIONS
    assert scripts.get_current_head() == SCHEMA_HEAD


def test_an_upgrade_from_nothing_makes_the_tables_that_the_code_expects(any_url: str) -> None:
    assert migrate.current(any_url).found is None

    upgraded = migrate.upgrade(any_url, now=NOW)

    assert (upgraded.before, upgraded.after, upgraded.backup) == (None, SCHEMA_HEAD, None)
    assert migrate.current(any_url).is_current
    assert migrate.check(any_url).differences == ()
    fill(any_url)


def test_an_upgrade_of_the_newest_schema_does_nothing(any_url: str, tmp_path: Path) -> None:
    migrate.upgrade(any_url, now=NOW)
    fill(any_url)

    again = migrate.upgrade(any_url, now=NOW)

    assert not again.changed
    assert list(tmp_path.glob("*.bak")) == []


def test_every_migration_can_be_taken_back_and_made_again(any_url: str) -> None:
    migrate.upgrade(any_url, now=NOW)
    fill(any_url)

    database = Database(any_url, busy_timeout_s=5)
    with closing(database), database.writing() as connection:
        command.downgrade(migrate.alembic_config(connection), "base")

    assert migrate.current(any_url).found is None
    assert migrate.upgrade(any_url, now=NOW).changed
    assert migrate.check(any_url).agrees
    fill(any_url)


def test_looking_at_a_missing_file_does_not_make_it(path: Path, url: str) -> None:
    assert migrate.current(url).found is None
    for look in (SqlLineageStore(url).models, lambda: migrate.check(url), lambda: migrate.backup(url, now=NOW)):
        with pytest.raises(SchemaOutdatedError, match="has no schema yet") as caught:
            look()
        assert caught.value.hint == "deployctl db upgrade"

    with pytest.raises(SchemaOutdatedError), SqlLineageStore(url).transaction():
        pytest.fail("the transaction was opened")
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_has_no_schema(path: Path, url: str) -> None:
    path.touch()

    with SqlLineageStore(url) as store, pytest.raises(SchemaOutdatedError, match="no schema yet"):
        store.models()

    assert path.stat().st_size == 0


def test_an_older_schema_is_refused_with_the_command_that_mends_it(any_url: str) -> None:
    migrate.upgrade(any_url, now=NOW)
    with closing(Database(any_url, busy_timeout_s=5)) as database, database.writing() as connection:
        command.downgrade(migrate.alembic_config(connection), "0001")

    with SqlLineageStore(any_url) as store:
        with pytest.raises(SchemaOutdatedError, match="has schema 0001, this deployctl needs 0003"):
            store.models()
        with pytest.raises(SchemaOutdatedError), store.transaction():
            pytest.fail("the transaction was opened")


def test_a_newer_schema_is_refused_by_everything(any_url: str) -> None:
    migrate.upgrade(any_url, now=NOW)
    database = Database(any_url, busy_timeout_s=5)
    with closing(database), database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0999'")

    with SqlLineageStore(any_url) as store:
        with pytest.raises(SchemaTooNewError, match="0999"):
            store.models()
        with pytest.raises(SchemaTooNewError), store.transaction():
            pytest.fail("the transaction was opened")
    with pytest.raises(SchemaTooNewError):
        migrate.upgrade(any_url, now=NOW)
    with pytest.raises(SchemaTooNewError):
        migrate.check(any_url)
    assert migrate.current(any_url).found == "0999"


def test_a_store_that_is_open_notices_an_upgrade_by_another_program(path: Path, url: str) -> None:
    migrate.upgrade(url, now=NOW)
    with SqlLineageStore(url) as store:
        assert store.models() == ()
        write(path, "UPDATE alembic_version SET version_num = '0999'")

        with pytest.raises(SchemaTooNewError):
            store.models()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("ALTER TABLE versions ADD COLUMN colour TEXT", "colour"),
        ("DROP INDEX ix_events_operation", "ix_events_operation"),
        ("DROP TRIGGER events_refuse_change", "add trigger events_refuse_change"),
        ("DROP TABLE tags", "tags"),
    ],
)
def test_tables_changed_by_hand_are_found(path: Path, url: str, change: str, difference: str) -> None:
    migrate.upgrade(url, now=NOW)
    write(path, change)

    found = migrate.check(url)

    assert not found.agrees
    assert difference in "\n".join(found.differences)


@pytest.mark.parametrize("revision", SCHEMA_REVISIONS)
def test_a_database_of_every_released_schema_stays_readable(revision: str, path: Path, url: str) -> None:
    shutil.copy(GOLDEN / f"{revision}.db", path)

    migrate.upgrade(url, now=NOW)

    assert migrate.check(url).agrees
    with SqlLineageStore(url) as store:
        assert verify(store).is_intact
        assert verify(store).head == (GOLDEN / f"{revision}.head").read_text().strip()
        assert [record.version for record in store.versions(MODEL)] == [1, 2]
        assert store.manifest(MODEL, VersionNumber(2)) == a_manifest(2, content="2")
        assert [revision.number for revision in store.current(TARGET)] == [3]
        states = [revision.state for revision in store.revisions(TARGET, MODEL, limit=9)]
        assert states == [
            RevisionState.PENDING,
            RevisionState.SERVING,
            RevisionState.FAILED,
            RevisionState.SERVING,
        ]
        store.rebuild_projections()
        assert [revision.number for revision in store.current(TARGET)] == [3]
    fill_further(url)


def fill_further(url: str) -> None:
    with SqlLineageStore(url) as store, store.transaction() as transaction:
        transaction.append(settled(transaction.next_revision(TARGET, MODEL) - 1))


def test_an_upgrade_that_changes_something_takes_a_backup_first(
    path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(url, now=NOW)
    fill(url)
    write(path, "UPDATE alembic_version SET version_num = '0000'")
    monkeypatch.setattr(migrate, "SCHEMA_REVISIONS", ("0000", "0001"))

    # There is no way from 0000 on: the upgrade fails after the backup was taken, and changes nothing.
    with pytest.raises(DeployctlError, match="0000"):
        migrate.upgrade(url, now=NOW)

    (copy,) = path.parent.glob("*.bak")
    assert copy.name == "lineage.db.20261121T071027Z.bak"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (4,)


def test_a_backup_is_whole_needs_no_other_file_and_never_overwrites(path: Path, url: str) -> None:
    migrate.upgrade(url, now=NOW)
    fill(url)

    with SqlLineageStore(url) as store, store.transaction() as transaction:
        transaction.append(pending(2))
        first = migrate.backup(url, now=NOW)
        second = migrate.backup(url, now=NOW)
    third = migrate.backup(url, now=NOW + timedelta(seconds=1))

    assert [copy.name for copy in (first, second, third)] == [
        "lineage.db.20261121T071027Z.bak",
        "lineage.db.20261121T071027Z-2.bak",
        "lineage.db.20261121T071028Z.bak",
    ]
    assert [copy.read_bytes()[:15] for copy in (first, second, third)] == [b"SQLite format 3"] * 3
    for copy, count in ((first, 4), (second, 4), (third, 5)):
        with closing(sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True)) as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (count,)
    assert list(path.parent.glob(".*")) == []


def test_a_backup_of_postgresql_says_what_to_run() -> None:
    with pytest.raises(UsageError) as caught:
        migrate.backup("postgresql://ada:secret@db.example/lineage", now=NOW)

    assert caught.value.hint is not None
    assert "pg_dump" in caught.value.hint
    assert "db.example/lineage" in caught.value.hint
    assert "secret" not in caught.value.hint


def _upgrade(url: str, results: Queue[str]) -> None:
    try:
        results.put(f"{migrate.upgrade(url, now=NOW).changed}")
    except DeployctlError as error:
        results.put(repr(error))


def test_upgrades_at_the_same_time_make_one_schema(any_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    results: Queue[str] = spawn.Queue()
    processes = [spawn.Process(target=_upgrade, args=(any_url, results)) for _ in range(4)]
    for process in processes:
        process.start()
    outcomes = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)

    assert outcomes == ["False", "False", "False", "True"]
    assert migrate.check(any_url).agrees
