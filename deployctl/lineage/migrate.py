"""The schema of the lineage database: what it is, whether the tables agree with it, and the way to the newest."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deployctl
from deployctl.errors import DatabaseBusyError, DatabaseCorruptError, DatabaseError, SchemaTooNewError, UsageError
from deployctl.lineage.backup import backup_sqlite
from deployctl.lineage.database import POSTGRESQL, SQLITE, Database, check_schema, schema_revision
from deployctl.lineage.tables import SCHEMA_HEAD, SCHEMA_REVISIONS, TRIGGERS, metadata

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

# A migration may wait behind another program's upgrade, which takes longer than a transaction.
_UPGRADE_TIMEOUT_S = 60.0
_RETRY_S = 0.02
# Of each page and each index; https://www.sqlite.org/pragma.html#pragma_quick_check
_LOOK_THROUGH = "PRAGMA quick_check(1)"


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What schema a database has.

    Attributes:
        found: the revision, None where there is no schema.
        expected: the revision that this deployctl works with.
    """

    found: str | None
    expected: str

    @property
    def is_current(self) -> bool:
        """Whether this deployctl works with the database as it is."""
        return self.found == self.expected

    @property
    def is_newer(self) -> bool:
        """Whether a newer deployctl made the schema."""
        return self.found is not None and self.found not in SCHEMA_REVISIONS


@dataclass(frozen=True, slots=True)
class SchemaUpgrade:
    """What an upgrade did.

    Attributes:
        before: the revision that was found, None where there was no schema.
        after: the revision that the database has now.
        backup: the copy taken first, None where nothing was changed or there was nothing to lose.
    """

    before: str | None
    after: str
    backup: Path | None

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class SchemaCheck:
    """How the database's tables differ from what its schema should be; () when they agree."""

    differences: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether there is no difference."""
        return not self.differences


def current(url: str, *, busy_timeout_s: float = 5.0) -> SchemaState:
    """Returns the schema that the database at `url` has; a missing file has none and stays missing.

    Raises:
        DatabaseError: the database cannot be read.
        SettingsError: the URL names no database that lineage can be kept in.
    """
    with closing(Database(url, busy_timeout_s=busy_timeout_s)) as database:
        if database.backend == SQLITE and not database.path.exists():
            return SchemaState(None, SCHEMA_HEAD)
        with database.reading(schema=None) as connection:
            return SchemaState(schema_revision(connection), SCHEMA_HEAD)


def examine(url: str, *, busy_timeout_s: float = 5.0) -> None:
    """Looks through the database at `url` for damage, and whether it can be written; changes nothing.

    Raises:
        SchemaOutdatedError: there is no file, or it has an older schema, or none.
        SchemaTooNewError: a newer deployctl wrote it.
        DatabaseCorruptError: pages of it are damaged.
        DatabaseError: it cannot be read or written.
        SettingsError: the URL names no database that lineage can be kept in.
    """
    with closing(Database(url, busy_timeout_s=busy_timeout_s)) as database:
        with database.reading() as connection:
            # PostgreSQL looks after its pages itself.
            verdict = connection.exec_driver_sql(_LOOK_THROUGH).scalar() if database.backend == SQLITE else "ok"
        if verdict != "ok":
            raise DatabaseCorruptError(f"the lineage database {database} is damaged: {' '.join(str(verdict).split())}")
        with database.writing():
            pass


def upgrade(url: str, *, now: datetime, busy_timeout_s: float = _UPGRADE_TIMEOUT_S) -> SchemaUpgrade:
    """Brings the database at `url` to the newest schema, whole or not at all; makes a SQLite file that is missing.

    A SQLite file that has a schema is backed up first. Two upgrades at once are safe: one waits for the other.

    Args:
        url: as `Database` takes it.
        now: aware; names the backup.
        busy_timeout_s: how long to wait for another program, in seconds.

    Raises:
        SchemaTooNewError: a newer deployctl wrote it.
        DatabaseError: the database cannot be written, or the backup cannot be taken.
        SettingsError: the URL names no database that lineage can be kept in.
    """
    with closing(Database(url, busy_timeout_s=busy_timeout_s)) as database:
        if database.backend == SQLITE:
            _prepare_file(database)
        with database.writing(schema=None) as connection:
            before = schema_revision(connection)
            if before is not None and before not in SCHEMA_REVISIONS:
                raise SchemaTooNewError(before, SCHEMA_HEAD)
            if before == SCHEMA_HEAD:
                return SchemaUpgrade(before, before, None)
            # The write lock is held: the copy is exactly what the migration starts from.
            backup = backup_sqlite(database.path, now=now) if before and database.backend == SQLITE else None
            _migrate(connection)
        return SchemaUpgrade(before, SCHEMA_HEAD, backup)


def check(url: str, *, busy_timeout_s: float = 5.0) -> SchemaCheck:
    """Returns how the tables of the database at `url` differ from what deployctl's migrations make.

    Raises:
        SchemaOutdatedError: it has an older schema, or none.
        SchemaTooNewError: a newer deployctl wrote it.
        DatabaseError: the database cannot be read or written, or is damaged.
        SettingsError: the URL names no database that lineage can be kept in.
    """
    examine(url, busy_timeout_s=busy_timeout_s)
    with closing(Database(url, busy_timeout_s=busy_timeout_s)) as database, database.reading() as connection:
        check_schema(connection)
        return SchemaCheck((*_table_differences(connection), *_missing_triggers(connection)))


def backup(url: str, *, now: datetime, busy_timeout_s: float = 5.0) -> Path:
    """Returns a durable copy of the SQLite database at `url`, made while others may use it.

    Raises:
        SchemaOutdatedError: there is no file, or no schema in it.
        DatabaseError: the database cannot be read, or the copy cannot be written.
        UsageError: it is a PostgreSQL database, which has its own tool; the hint is its command.
        SettingsError: the URL names no database that lineage can be kept in.
    """
    with closing(Database(url, busy_timeout_s=busy_timeout_s)) as database:
        if database.backend == POSTGRESQL:
            plain = database.url.set(drivername=POSTGRESQL, password=None).render_as_string()
            raise UsageError(
                "PostgreSQL makes its own backups",
                hint=f"pg_dump --format=custom --file=deployctl-{now:%Y%m%d}.dump '{plain}'",
            )
        with database.reading() as connection:
            check_schema(connection)
            return backup_sqlite(database.path, now=now)


def script_location() -> Path:
    """Returns where the migrations are: inside an installed package, else beside the package in a checkout."""
    package = Path(deployctl.__file__).parent
    shipped = package / "_migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"


def alembic_config(connection: Connection) -> Config:
    """Returns Alembic's configuration for running the migrations inside `connection`'s transaction."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _migrate(connection: Connection) -> None:
    from alembic import command
    from alembic.util import CommandError

    try:
        command.upgrade(alembic_config(connection), SCHEMA_HEAD)
    except CommandError as error:
        raise DatabaseError(f"cannot upgrade the lineage database: {error}") from error


def _prepare_file(database: Database) -> None:
    """Makes an empty file where there is none, and sees that it keeps a write-ahead log."""
    path = database.path
    try:
        path.touch(mode=0o644, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"the lineage database {path} cannot be made: {error}") from error
    pause = threading.Event()
    deadline = time.monotonic() + database.busy_timeout_s
    while True:
        try:
            return database.use_write_ahead_log()
        except DatabaseBusyError:
            # SQLite does not always wait by itself here, where waiting could be a deadlock.
            if time.monotonic() >= deadline:
                raise
            pause.wait(_RETRY_S)


def _table_differences(connection: Connection) -> list[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def is_ours(_: Any, name: str | None, kind: str, __: bool, compared_to: Any) -> bool:
        # A PostgreSQL database may hold other programs' tables.
        return kind != "table" or name in metadata.tables

    context = MigrationContext.configure(connection, opts={"include_object": is_ours, "compare_type": True})
    return [_sentence(difference) for difference in compare_metadata(context, metadata)]


def _sentence(difference: Any) -> str:
    """Returns Alembic's difference, a tuple or a list of tuples, as words."""
    if isinstance(difference, list):
        return "; ".join(_sentence(part) for part in difference)
    verb, *subjects = difference
    names = (getattr(subject, "name", subject) for subject in subjects)
    return f"{verb.replace('_', ' ')} {'.'.join(name for name in names if isinstance(name, str))}"


def _missing_triggers(connection: Connection) -> list[str]:
    catalogue = "pg_trigger" if connection.dialect.name == POSTGRESQL else "sqlite_master"
    column = "tgname" if connection.dialect.name == POSTGRESQL else "name"
    present = set(connection.exec_driver_sql(f"SELECT {column} FROM {catalogue}").scalars())
    return [f"add trigger {name}" for name in TRIGGERS if name not in present]
