"""A process that publishes to, or fetches from, an object store in children of its own, which can be killed.

It imports everything once and forks for each child. Reads one JSON request a line, answers with one JSON line.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deployctl.domain.clock import Observer
from deployctl.domain.names import VersionNumber
from deployctl.errors import DeployctlError
from deployctl.repository.cache import CacheOptions, VersionCache
from deployctl.repository.s3 import S3ModelRepository
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_session import S3Options
from deployctl.system import SystemClock
from tests.support.repository import DIGITS, publish
from tests.support.s3 import CREDENTIALS, Bucket

_NO_CHILD_TAKES_S = 120.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a child does.

    Attributes:
        export: what to publish; "" to fetch version `fetch` instead.
    """

    endpoint: str
    bucket: str
    cache: str
    export: str = ""
    fetch: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended.

    Attributes:
        version: None unless it came to its end.
        error: our error's class and words, "" where there was none.
        killed: whether it was still running when its time was up.
    """

    version: int | None
    error: str
    killed: bool
    seconds: float


class Worker:
    """Drives the process; `run` waits until its children are gone."""

    def __init__(self, process: subprocess.Popen[str], bucket: Bucket, cache: Path) -> None:
        self._process = process
        self._bucket = bucket
        self._cache = cache

    def publish(self, exports: Sequence[Path], *, kill_after_s: float | None = None) -> list[Outcome]:
        """Publishes all `exports` at once, each in its own child."""
        tasks = [self._task(export=str(export)) for export in exports]
        return self._run(tasks, kill_after_s)

    def fetch(self, version: int, *, kill_after_s: float | None = None) -> Outcome:
        """Fetches a version."""
        return self._run([self._task(fetch=version)], kill_after_s)[0]

    def _task(self, *, export: str = "", fetch: int = 0) -> Task:
        return Task(self._bucket.endpoint, self._bucket.name, str(self._cache), export, fetch)

    def _run(self, tasks: list[Task], kill_after_s: float | None) -> list[Outcome]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"tasks": [asdict(task) for task in tasks], "kill_after_s": kill_after_s}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return [Outcome(**outcome) for outcome in json.loads(self._process.stdout.readline())]


@contextmanager
def running_worker(bucket: Bucket, cache: Path) -> Iterator[Worker]:
    """Starts the process and ends it with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.store_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"},
    ) as process:
        yield Worker(process, bucket, cache)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def main() -> None:
    """Serves requests until standard input ends."""
    _import_the_sdk()
    for line in sys.stdin:
        request = json.loads(line)
        children = [_start(Task(**task)) for task in request["tasks"]]
        answer = [asdict(_finish(child, request["kill_after_s"])) for child in children]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _import_the_sdk() -> None:
    """Imports what every child needs, so that it is imported once; a child makes a client of its own."""
    import boto3

    boto3.session.Session().client("s3", region_name="us-east-1").close()


def _start(task: Task) -> tuple[int, int, float]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading, time.monotonic()
    os.close(reading)
    try:
        os.write(writing, json.dumps(_attempt(task)).encode())
    finally:
        # Not sys.exit: the parent's own clean-up is not the child's to do.
        os._exit(0)


def _attempt(task: Task) -> Mapping[str, object]:
    options = S3Options(task.bucket, "models", task.endpoint, "us-east-1", addressing="path")
    clock = SystemClock()
    cache = VersionCache(CacheOptions(Path(task.cache)), clock, frozenset)
    repository = S3ModelRepository(S3Store(options), cache, clock)
    try:
        if task.export:
            return {"version": publish(repository, DIGITS, Path(task.export)).manifest.version, "error": ""}
        repository.ensure_local(DIGITS, VersionNumber(task.fetch), Observer())
    except DeployctlError as error:
        return {"version": None, "error": f"{type(error).__name__}: {error}"}
    return {"version": task.fetch, "error": ""}


def _finish(child: tuple[int, int, float], kill_after_s: float | None) -> Outcome:
    pid, reading, started = child
    killed = False
    descriptor = os.pidfd_open(pid)
    ended, _, _ = select.select([descriptor], [], [], _NO_CHILD_TAKES_S if kill_after_s is None else kill_after_s)
    if not ended:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        killed = True
    os.close(descriptor)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    result = json.loads(answer) if answer else {"version": None, "error": ""}
    return Outcome(**result, killed=killed, seconds=time.monotonic() - started)


if __name__ == "__main__":
    main()
