"""Connections to the lineage database: its URL, its engine, and its errors as ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from deployctl.errors import (
    DatabaseBusyError,
    DatabaseCorruptError,
    DatabaseError,
    SchemaOutdatedError,
    SchemaTooNewError,
    SettingsError,
)
from deployctl.lineage.tables import SCHEMA_HEAD, SCHEMA_REVISIONS

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
# Names the one lock that writers of a PostgreSQL database queue for; any number would do that others don't use.
WRITER_LOCK: Final = 0x6465706C6F79  # "deploy"

_BEGIN = "deployctl_begin"
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL_BUSY = frozenset({"55P03", "40001", "40P01"})


class Database:
    """A lineage database by its URL; connects on first use.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://user@host/name`.
        busy_timeout_s: how long to wait for another program's transaction, in seconds.

    Raises:
        SettingsError: the URL names no database that lineage can be kept in.
    """

    def __init__(self, url: str, *, busy_timeout_s: float) -> None:
        self.url = parse_database_url(url)
        self.busy_timeout_s = busy_timeout_s
        self._engine: Engine | None = None

    @property
    def backend(self) -> str:
        """SQLITE or POSTGRESQL."""
        return self.url.get_backend_name()

    @property
    def path(self) -> Path:
        """The SQLite file; absolute."""
        return Path(self.url.database or "")

    def __str__(self) -> str:
        return str(self.path) if self.backend == SQLITE else self.url.render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """The engine; one for all threads."""
        if self._engine is None:
            self._engine = self._make_engine()
        return self._engine

    def close(self) -> None:
        """Closes every connection; the next use opens new ones."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def reading(self, *, schema: str | None = SCHEMA_HEAD) -> Iterator[Connection]:
        """Gives a connection whose queries all see one moment; it neither waits for writers nor stops them.

        Args:
            schema: as for `writing`.
        """
        with self.errors_translated():
            self._refuse_missing_file()
            with self._connect(begin="BEGIN", isolation="REPEATABLE READ") as connection:
                if schema is not None:
                    check_schema(connection)
                yield connection

    @contextmanager
    def writing(self, *, schema: str | None = SCHEMA_HEAD) -> Iterator[Connection]:
        """Gives a connection that excludes every other writer; commits when the block ends, else rolls back.

        Args:
            schema: the revision that the database must have, None where the caller looks itself.
        """
        with self.errors_translated():
            if schema is not None:
                self._refuse_missing_file()
            # READ COMMITTED, so that what is read after the lock was granted is what the last writer left.
            with self._connect(begin="BEGIN IMMEDIATE", isolation="READ COMMITTED") as connection:
                self._exclude_writers(connection)
                if schema is not None:
                    check_schema(connection)
                yield connection

    def use_write_ahead_log(self) -> None:
        """Makes the SQLite file keep a write-ahead log, under which readers and a writer don't wait for each other.

        Raises:
            DatabaseBusyError: another program has the file open in a way that forbids it now.
        """
        with self.errors_translated(), closing(self._open_sqlite()) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise self._busy()

    @contextmanager
    def _connect(self, *, begin: str, isolation: str) -> Iterator[Connection]:
        options: dict[str, Any] = {_BEGIN: begin}
        if self.backend == POSTGRESQL:
            options["isolation_level"] = isolation
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def _exclude_writers(self, connection: Connection) -> None:
        if self.backend == POSTGRESQL:
            milliseconds = max(1, round(self.busy_timeout_s * 1000))
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})

    def _refuse_missing_file(self) -> None:
        # SQLite would create the file; a question must not.
        if self.backend == SQLITE and not self.path.exists():
            raise SchemaOutdatedError(None, SCHEMA_HEAD)

    def _make_engine(self) -> Engine:
        if self.backend == SQLITE:
            engine = create_engine(self.url, creator=self._open_sqlite)
            event.listen(engine, "begin", _begin)
            return engine
        try:
            return create_engine(self.url, connect_args={"connect_timeout": max(1, round(self.busy_timeout_s))})
        except ImportError as error:
            raise DatabaseError(
                f"the PostgreSQL driver is not installed: {error}", hint="pip install 'deployctl[postgres]'"
            ) from error

    def _open_sqlite(self) -> sqlite3.Connection:
        # isolation_level=None: the module leaves BEGIN and COMMIT to us, see `_begin`.
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            timeout=self.busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        # In WAL mode the default of some builds, NORMAL, may lose the last commits in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def errors_translated(self) -> Iterator[None]:
        """Raises our errors in place of SQLAlchemy's and the drivers', without the password.

        Raises:
            DatabaseError: the database failed.
        """
        try:
            yield
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self._translated(error) from error

    def _translated(self, error: SQLAlchemyError | sqlite3.Error) -> DatabaseError:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        reason = self._without_password(str(cause).strip())
        if isinstance(cause, sqlite3.Error):
            return self._translated_sqlite(cause, reason)
        if getattr(cause, "sqlstate", None) in _POSTGRESQL_BUSY:
            return self._busy()
        return DatabaseError(f"the lineage database {self} failed: {reason}", hint="deployctl doctor")

    def _translated_sqlite(self, cause: sqlite3.Error, reason: str) -> DatabaseError:
        # The low byte is the primary code (https://www.sqlite.org/rescode.html).
        match getattr(cause, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._busy()
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return DatabaseCorruptError(f"the lineage database {self} is damaged: {reason}")
            case sqlite3.SQLITE_READONLY:
                return DatabaseError(
                    f"the lineage database {self} cannot be written: {reason}", hint=f"ls -ld {self.path}"
                )
            case sqlite3.SQLITE_CANTOPEN:
                return DatabaseError(f"the lineage database {self} cannot be opened: {reason}")
            case _:
                return DatabaseError(f"the lineage database {self} failed: {reason}", hint="deployctl doctor")

    def _busy(self) -> DatabaseBusyError:
        return DatabaseBusyError(
            f"another program kept the lineage database {self} locked for more than {self.busy_timeout_s:g} s"
        )

    def _without_password(self, message: str) -> str:
        return message.replace(str(self.url.password), "***") if self.url.password else message


def parse_database_url(text: str) -> URL:
    """Returns the URL with the driver that deployctl uses, and a SQLite file's path made absolute.

    Raises:
        SettingsError: `text` is no such URL; its message does not repeat it, since it may hold a password.
    """
    try:
        url = make_url(text.replace("postgres://", "postgresql://", 1))
    except ArgumentError as error:
        raise SettingsError("[lineage] url is not a database URL", hint="deployctl config show") from error
    match url.get_backend_name():
        case "sqlite":
            return _sqlite_url(url)
        case "postgresql":
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise SettingsError(f"[lineage] url names {other!r}; lineage is kept in sqlite or postgresql")


def _sqlite_url(url: URL) -> URL:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise SettingsError("[lineage] url names no file; write sqlite:///deployctl.db")
    if url.query:
        raise SettingsError(f"[lineage] url has parameters that sqlite does not take here: {', '.join(url.query)}")
    return url.set(drivername=SQLITE, database=str(Path(url.database).absolute()))


def schema_revision(connection: Connection) -> str | None:
    """Returns the schema revision that the database says it has, None for none."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    rows = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return "+".join(sorted(rows)) or None


def check_schema(connection: Connection) -> None:
    """Raises unless the database has the schema that this deployctl works with.

    Raises:
        SchemaOutdatedError: it has an older one, or none.
        SchemaTooNewError: it has one that this deployctl does not know.
    """
    found = schema_revision(connection)
    if found == SCHEMA_HEAD:
        return
    if found is None or found in SCHEMA_REVISIONS:
        raise SchemaOutdatedError(found, SCHEMA_HEAD)
    raise SchemaTooNewError(found, SCHEMA_HEAD)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))
