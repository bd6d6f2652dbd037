"""A private PostgreSQL server for tests: its own directory, a unix socket, no TCP port, stopped at the end."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

_ADMIN = "deployctl"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """The socket directory of a running server; skips where there can be none."""
    binaries = _binaries()
    missing = "PostgreSQL's server is not installed" if binaries is None else None
    if importlib.util.find_spec("psycopg") is None:
        missing = "psycopg is not installed"
    if missing is not None or binaries is None:
        if "postgres" in os.environ.get("DEPLOYCTL_REQUIRE", "").split(","):
            pytest.fail(f"DEPLOYCTL_REQUIRE names postgres, but {missing}")
        pytest.skip(missing or "")
    with _running(binaries) as sockets:
        yield sockets


@pytest.fixture
def postgres_url(postgres_server: Path) -> Iterator[str]:
    """The URL of a new, empty database, dropped after the test."""
    name = f"lineage_{uuid.uuid4().hex}"
    _administer(postgres_server, f"CREATE DATABASE {name}")
    yield _url(postgres_server, name)
    _administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def _url(sockets: Path, database: str) -> str:
    return f"postgresql://{_ADMIN}@/{database}?host={sockets}"


def _administer(sockets: Path, statement: str) -> None:
    engine = create_engine(
        _url(sockets, "postgres").replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


def _binaries() -> Path | None:
    on_path = shutil.which("postgres")
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = [*([Path(on_path).parent] if on_path else []), *candidates]
    return next((folder for folder in found if (folder / "postgres").exists() and (folder / "initdb").exists()), None)


@contextmanager
def _running(binaries: Path) -> Iterator[Path]:
    # Not under pytest's own directory: the server runs as another user, and a socket's path may have 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="pg-"))
    user = _unprivileged_user()
    try:
        if user is not None:
            shutil.chown(home, user)
        data = home / "data"
        _run_initdb(binaries, data, user)
        command = [str(binaries / "postgres"), "-D", str(data), "-k", str(home), "-c", "listen_addresses=", "-F"]
        log = home / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output, user=user, cwd=home)
        try:
            _wait_until_it_accepts(data, log)
            yield home
        finally:
            # Fast shutdown: clients that are still there are sent away.
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(home)


def _unprivileged_user() -> str | None:
    """Whom to become: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _run_initdb(binaries: Path, data: Path, user: str | None) -> None:
    subprocess.run(
        [str(binaries / "initdb"), "-D", str(data), "-U", _ADMIN, "-A", "trust", "-E", "UTF8", "-N", "--locale=C"],
        check=True,
        capture_output=True,
        timeout=120,
        user=user,
        cwd=data.parent,
    )


def _wait_until_it_accepts(data: Path, log: Path) -> None:
    # The server writes its state as the eighth line of this file (src/include/utils/pidfile.h).
    status = data / "postmaster.pid"
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while not (status.exists() and "ready" in status.read_text().split()):
        if time.monotonic() > deadline:
            pytest.fail(f"PostgreSQL does not start: {log.read_text()}")
        pause.wait(0.1)
