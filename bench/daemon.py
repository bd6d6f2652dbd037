"""The daemon: how soon a dropped export is published, how fast a queue of them is, and what it costs at rest."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

from bench.measurement import Measurement, seconds
from bench.project import HALF_PLUS_TWO, Project, deployctl, environment, scratch_project

_DROPS = 9
_QUEUED = 1000
_SETTLE_S, _REST_S = 10.0, 60.0
_TIMEOUT_S = 600.0
_POLL_S = 0.005
_SETTINGS = '\n[daemon]\nlisten = "127.0.0.1:0"\n[inboxes.exports]\npath = "exports"\n'
_MODEL = "half"


def run() -> list[Measurement]:
    """Measures what the daemon does, beside what its user would do without it."""
    with scratch_project() as project, scratch_project() as other:
        for each in (project, other):
            with (each.directory / "deployctl.toml").open("a") as settings:
                settings.write(_SETTINGS)
            (each.directory / "exports" / _MODEL).mkdir(parents=True)
        resting = list(_at_rest(other))
        with _daemon(project):
            return [_dropped(project), _queued(project, other), *resting]


def _dropped(project: Project) -> Measurement:
    """One export at a time, renamed into the inbox of a daemon that has nothing else to do."""
    exports = [_export(project, each) for each in range(_DROPS + 1)]
    took = [seconds(partial(_rename_and_wait, project, [each], count)) for count, each in enumerate(exports, start=1)]
    # The first waits for the daemon's start.
    return Measurement("daemon, rename to published", median(took[1:]), 1.0)


def _queued(project: Project, other: Project) -> Measurement:
    """A thousand exports at once, against publishing them one after the other in one process."""
    exports = [_export(project, each) for each in range(_DROPS + 1, _DROPS + 1 + _QUEUED)]
    loop_s = seconds(lambda: _publish_each(other, exports))
    daemon_s = seconds(lambda: _rename_and_wait(project, exports, _DROPS + 1 + _QUEUED))
    return Measurement(
        "daemon, 1,000 queued exports",
        daemon_s,
        1 / 0.8,
        other="publish in a loop",
        other_s=loop_s,
        ratio=daemon_s / loop_s,
    )


def _at_rest(project: Project) -> Iterator[Measurement]:
    """A daemon with an inbox and a server to look after, and nothing that happens."""
    project.run("publish", str(HALF_PLUS_TWO), "--model", _MODEL)
    project.run("up")
    project.run("promote", f"{_MODEL}@1")
    pause = threading.Event()
    with _daemon(project) as process:
        pause.wait(_SETTLE_S)
        before_s = _cpu_s(process.pid)
        pause.wait(_REST_S)
        used_s = _cpu_s(process.pid) - before_s
        memory_mb = _memory_mb(process.pid)
    yield Measurement("daemon at rest, of a core", used_s / _REST_S * 100, 1.0, unit="%")
    yield Measurement("daemon at rest, memory", memory_mb, 150.0, unit="MB")


def _export(project: Project, number: int) -> Path:
    """Makes an export whose bytes no other has, beside the inbox."""
    directory = project.directory / "made" / f"export-{number}"
    shutil.copytree(HALF_PLUS_TWO, directory)
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "number").write_text(str(number))
    return directory


def _rename_and_wait(project: Project, exports: Sequence[Path], published: int) -> None:
    for export in exports:
        export.rename(project.directory / "exports" / _MODEL / export.name)
    pause, until = threading.Event(), time.monotonic() + _TIMEOUT_S
    with closing(sqlite3.connect(f"file:{project.directory / 'deployctl.db'}?mode=ro", uri=True)) as database:
        while _recorded(database) < published:
            if time.monotonic() > until:
                raise RuntimeError(f"{_recorded(database)} of {published} exports were published in {_TIMEOUT_S:g} s")
            pause.wait(_POLL_S)


def _recorded(database: sqlite3.Connection) -> int:
    (count,) = database.execute("SELECT count(*) FROM versions").fetchone()
    return int(count)


def _publish_each(project: Project, exports: Sequence[Path]) -> None:
    from deployctl.bootstrap import Deployment, opened
    from deployctl.config.load import load
    from deployctl.domain.clock import Observer
    from deployctl.domain.names import ModelName
    from deployctl.operations.publish import Publish, PublishRequest

    settings = load(directory=project.directory, environment={}).settings
    with opened(settings, Observer()) as shared:
        for export in exports:
            each = Deployment(settings, Observer(), over=shared)
            publish = Publish(each.repository, each.reader, each.lineage, each.context)
            publish(PublishRequest(export, ModelName(_MODEL)))


@contextmanager
def _daemon(project: Project) -> Iterator[subprocess.Popen[bytes]]:
    with (project.directory / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            deployctl("daemon"),
            cwd=project.directory,
            env={**os.environ, **environment()},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _cpu_s(pid: int) -> float:
    """Returns what the process has used, by proc_pid_stat(5); its children are not of it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(kib) * 1024 / 1e6
