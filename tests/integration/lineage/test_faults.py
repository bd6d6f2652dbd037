"""Killed writers, locked, damaged, read-only and missing databases."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from deployctl.domain.names import ModelName
from deployctl.errors import (
    DatabaseBusyError,
    DatabaseCorruptError,
    DatabaseError,
    SchemaOutdatedError,
    SettingsError,
)
from deployctl.lineage import migrate
from deployctl.lineage.audit import verify
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import MODEL, NOW, TARGET, pending, published, settled

pytest_plugins = ["tests.support.postgres"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lineage.db"
    migrate.upgrade(f"sqlite:///{path}", now=NOW)
    return path


@pytest.fixture
def store(path: Path) -> Iterator[SqlLineageStore]:
    with SqlLineageStore(f"sqlite:///{path}", busy_timeout_s=0.3) as store:
        yield store


def append_pairs(url: str, model: str, count: int | None) -> None:
    """Appends revisions, each pending and serving in one transaction; for ever where `count` is None."""
    name = ModelName(model)
    appended = 0
    with SqlLineageStore(url, busy_timeout_s=60) as store:
        while count is None or appended < count:
            with store.transaction() as transaction:
                number = transaction.next_revision(TARGET, name)
                transaction.append(pending(number, model=name))
                transaction.append(settled(number, model=name))
            appended += 1


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_eight_processes_append_at_once_and_the_chain_has_neither_gap_nor_fork(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path}/lineage.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    migrate.upgrade(url, now=NOW)
    spawn = multiprocessing.get_context("spawn")
    # Two processes for each model: they also contend for its next revision.
    processes = [spawn.Process(target=append_pairs, args=(url, f"model-{n % 4}", 20)) for n in range(8)]

    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)

    assert [process.exitcode for process in processes] == [0] * 8
    with SqlLineageStore(url) as store:
        audit = verify(store)
        assert (audit.is_intact, audit.verified) == (True, 320)
        assert [event.sequence for event in store.events()] == list(range(1, 321))
        assert [(revision.model, revision.number) for revision in store.current(TARGET)] == [
            (f"model-{n}", 40) for n in range(4)
        ]


def test_a_writer_killed_at_any_moment_leaves_whole_transactions_only(path: Path, store: SqlLineageStore) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201
    moments = random.Random(seed)
    wait = threading.Event()
    verified = 0

    with _forker(f"sqlite:///{path}") as ask:
        for _ in range(50):
            writer = int(ask("fork"))
            if moments.random() < 0.5:
                # Well under way; the others die while they open the database or write for the first time.
                deadline = time.monotonic() + 30
                while store.folded_sequence() == verified and time.monotonic() < deadline:
                    wait.wait(0.002)
            wait.wait(moments.uniform(0.0, 0.03))
            os.kill(writer, signal.SIGKILL)
            assert ask("reap") == "reaped"

            audit = verify(store)
            assert audit.is_intact
            assert audit.verified >= verified
            assert audit.verified % 2 == 0
            assert store.pending(TARGET) == ()
            assert store.folded_sequence() == audit.verified
            verified = audit.verified

    append_pairs(f"sqlite:///{path}", MODEL, 1)
    assert verify(store).verified == verified + 2 > 20
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# Imports take most of a new process's time, so one process that has done them forks the writers that are killed.
_FORKER = """
import os, sys
from tests.integration.lineage.test_faults import append_pairs
append_pairs(sys.argv[1], "digits", 1)
for line in sys.stdin:
    if line == "fork\\n":
        writer = os.fork()
        if writer == 0:
            append_pairs(sys.argv[1], "digits", None)
        print(writer, flush=True)
    else:
        os.waitpid(writer, 0)
        print("reaped", flush=True)
"""


@contextmanager
def _forker(url: str) -> Iterator[Callable[[str], str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _FORKER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:

        def ask(word: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        try:
            yield ask
        finally:
            # The whole group: a test that failed may leave a writer.
            os.killpg(process.pid, signal.SIGKILL)


def test_a_locked_database_is_busy_within_the_timeout(path: Path, store: SqlLineageStore) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()

        with pytest.raises(DatabaseBusyError, match=r"locked for more than 0\.3 s"), store.transaction():
            pytest.fail("the transaction was opened")

        assert time.monotonic() - started > 0.25
        assert store.models() == ()
        other.execute("ROLLBACK")
    with store.transaction() as transaction:
        transaction.append(published())


def test_an_upgrade_of_a_locked_database_is_busy_within_the_timeout(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(DatabaseBusyError):
            migrate.upgrade(f"sqlite:///{path}", now=NOW, busy_timeout_s=0.2)


def test_a_file_that_is_no_database_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "lineage.db"
    path.write_bytes(b"this is a text file, and long enough to be taken for a header" * 100)

    with SqlLineageStore(f"sqlite:///{path}") as store, pytest.raises(DatabaseCorruptError, match=str(path)):
        store.models()
    with pytest.raises(DatabaseCorruptError):
        migrate.current(f"sqlite:///{path}")
    with pytest.raises(DatabaseCorruptError):
        migrate.upgrade(f"sqlite:///{path}", now=NOW)
    with pytest.raises(DatabaseCorruptError):
        migrate.backup(f"sqlite:///{path}", now=NOW)


def test_a_damaged_database_is_told_apart_and_not_backed_up(path: Path) -> None:
    append_pairs(f"sqlite:///{path}", MODEL, 100)
    size = path.stat().st_size
    with path.open("r+b") as file:
        # All but the schema's pages.
        file.seek(16384)
        file.write(b"\xff" * (size - 16384))

    with SqlLineageStore(f"sqlite:///{path}") as store, pytest.raises(DatabaseError):
        list(store.events())
    with pytest.raises(DatabaseError):
        migrate.backup(f"sqlite:///{path}", now=NOW)
    assert list(path.parent.glob("*.bak")) == []


def test_a_directory_in_the_databases_place_is_an_error_of_ours(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}"

    with SqlLineageStore(url) as store, pytest.raises(DatabaseError, match=str(tmp_path)):
        store.models()
    with pytest.raises(DatabaseError):
        migrate.upgrade(url, now=NOW)


def test_a_missing_folder_is_an_error_of_ours(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/missing/lineage.db"

    with SqlLineageStore(url) as store, pytest.raises(SchemaOutdatedError):
        store.models()
    with pytest.raises(DatabaseError, match="cannot be made"):
        migrate.upgrade(url, now=NOW)


# Root may write whatever the permissions say, so these run as somebody else where the tests run as root; who then may
# not even read Python's modules, which a rehearsal therefore loads first.
_AS_NOBODY = """
import os, sys
from datetime import UTC, datetime
from deployctl.errors import DeployctlError
from deployctl.lineage import migrate
from deployctl.lineage.store import SqlLineageStore
from tests.support.lineage import published

def read(url):
    with SqlLineageStore(url) as store:
        store.models()

def write(url):
    with SqlLineageStore(url) as store, store.transaction() as transaction:
        transaction.append(published())

def outcome(action, url):
    try:
        action(url)
    except DeployctlError as error:
        return type(error).__name__
    return "done"

now = datetime.now(UTC)
actions = [read, write, lambda url: migrate.backup(url, now=now), lambda url: migrate.upgrade(url, now=now)]
assert [outcome(action, sys.argv[1]) for action in actions] == ["done"] * 4
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
print(*[outcome(action, sys.argv[2]) for action in actions])
"""


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "outcomes"),
    [
        # Read, write, back up, upgrade (nothing to do).
        (0o444, 0o777, ["done", "DatabaseError", "done", "DatabaseError"]),
        (0o444, 0o555, ["DatabaseError", "DatabaseError", "DatabaseError", "DatabaseError"]),
        (0o000, 0o777, ["DatabaseError", "DatabaseError", "DatabaseError", "DatabaseError"]),
    ],
)
def test_a_read_only_file_or_folder_gives_errors_of_ours(
    file_mode: int, folder_mode: int, outcomes: list[str], path: Path
) -> None:
    folder = Path("/tmp") / f"lineage-{os.getpid()}-{random.randrange(2**32):x}"  # noqa: S108
    folder.mkdir()
    try:
        shutil.copy(path, folder / "lineage.db")
        (folder / "lineage.db").chmod(file_mode)
        folder.chmod(folder_mode)

        ran = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, f"sqlite:///{path}", f"sqlite:///{folder}/lineage.db"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert ran.stdout.split() == outcomes, ran.stderr
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_server_that_does_not_answer_is_an_error_without_the_password(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("psycopg")
    url = f"postgresql://ada:s3cret@/lineage?host={tmp_path}"

    with SqlLineageStore(url, busy_timeout_s=1) as store, pytest.raises(DatabaseError) as caught:
        store.models()

    assert "s3cret" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mysql://ada:s3cret@db/lineage", "sqlite://", "sqlite:///:memory:", "no url s3cret", "", "sqlite:///a?x=1"]
)
def test_a_url_that_names_no_usable_database_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        SqlLineageStore(url)

    assert "s3cret" not in str(caught.value)
