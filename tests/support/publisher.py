"""A process that publishes in children of its own, so that many can be started, and killed, in little time.

Reads one JSON request a line, answers with one JSON line. It imports everything once and forks for each child.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployctl.errors import DeployctlError
from deployctl.repository.local import LocalModelRepository
from deployctl.system import SystemClock
from tests.support.repository import DIGITS, publish

NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one publishing child ended.

    Attributes:
        version: None unless it published.
        error: the class of our error, "" where there was none.
        killed: whether it was still running when its time was up.
    """

    version: int | None
    created: bool
    error: str
    message: str
    killed: bool
    seconds: float


class Publisher:
    """Drives the process; every method waits until its children are gone."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def publish(
        self,
        base: Path,
        exports: Sequence[Path],
        *,
        kill_after_s: float | None = None,
        file_size_limit: int | None = None,
        user: int | None = None,
    ) -> list[Outcome]:
        """Publishes all `exports` at once, each in its own child."""
        request = {
            "base": str(base),
            "exports": [str(export) for export in exports],
            "kill_after_s": kill_after_s,
            "file_size_limit": file_size_limit,
            "user": user,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return [Outcome(**outcome) for outcome in json.loads(self._process.stdout.readline())]


@contextmanager
def running_publisher() -> Iterator[Publisher]:
    """Starts the process and ends it with the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.publisher"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        yield Publisher(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def main() -> None:
    """Serves requests until standard input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        children = [_start(request, Path(export)) for export in request["exports"]]
        answer = [asdict(_finish(child, request["kill_after_s"])) for child in children]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _start(request: dict[str, Any], export: Path) -> tuple[int, int, float]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading, time.monotonic()
    os.close(reading)
    try:
        os.write(writing, json.dumps(_attempt(request, export)).encode())
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        # Not sys.exit: the parent's own clean-up is not the child's to do.
        os._exit(0)


def _attempt(request: dict[str, Any], export: Path) -> dict[str, Any]:
    if request["file_size_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size_limit"], request["file_size_limit"]))
    if request["user"] is not None:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    try:
        committed = publish(LocalModelRepository(Path(request["base"]), SystemClock()), DIGITS, export)
    except DeployctlError as error:
        return {"version": None, "created": False, "error": type(error).__name__, "message": str(error)}
    return {"version": committed.manifest.version, "created": committed.created, "error": "", "message": ""}


def _finish(child: tuple[int, int, float], kill_after_s: float | None) -> Outcome:
    pid, reading, started = child
    killed = False
    if kill_after_s is not None:
        descriptor = os.pidfd_open(pid)
        ended, _, _ = select.select([descriptor], [], [], kill_after_s)
        if not ended:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            killed = True
        os.close(descriptor)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    nothing = {"version": None, "created": False, "error": "", "message": ""}
    return Outcome(**(json.loads(answer) if answer else nothing), killed=killed, seconds=time.monotonic() - started)


if __name__ == "__main__":
    main()
