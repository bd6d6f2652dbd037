"""A server process that outlives its starter: which one it is, whether it lives, and how it is ended.

A process is known by its number, its start time and the boot that it was started in, so that a number that the system
has given to another program is never taken for the server, and never signalled.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deployctl.files import write_durably
from deployctl.processes import boot_id

_PROC = Path("/proc")
# Fields of /proc/PID/stat after the command's name, counted from 0 (proc(5): state is 3, num_threads 20, starttime 22).
_STATE, _THREADS, _START_TIME = 0, 17, 19
_ENDED_STATES = frozenset({"Z", "X"})
_LONGEST_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Child:
    """A server that was started, alive or not.

    Attributes:
        pid: its process number.
        start_ticks: when it started, in clock ticks since boot, as the kernel tells it.
        boot_id: which boot that was.
        rest_port: the port that it was told to answer REST on.
        grpc_port: the same for gRPC.
    """

    pid: int
    start_ticks: int
    boot_id: str
    rest_port: int
    grpc_port: int

    def alive(self) -> bool:
        """Whether this very process runs; one that has ended and is a child of this process is reaped."""
        if self.boot_id != boot_id():
            return False
        found = _stat(self.pid)
        if found is None or int(found[_START_TIME]) != self.start_ticks:
            return False
        if _has_ended(found):
            reap(self.pid)
            return False
        return True

    def uptime_s(self) -> float:
        """Returns for how many seconds it has run."""
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_ticks / os.sysconf("SC_CLK_TCK"))

    def resident_bytes(self) -> int:
        """Returns how much memory it holds, 0 when it has ended."""
        try:
            pages = (_PROC / str(self.pid) / "statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def end(self, *, drain_s: float, kill_s: float) -> bool:
        """Asks the process to end, kills it after `drain_s` seconds; returns whether it has ended `kill_s` later."""
        with _handle(self) as handle:
            if handle is None:
                return True
            handle.signal(signal.SIGTERM)
            if handle.wait(drain_s):
                return True
            handle.signal(signal.SIGKILL)
            return handle.wait(kill_s)

    def wait(self, timeout_s: float) -> bool:
        """Returns whether the process has ended within `timeout_s` seconds."""
        with _handle(self) as handle:
            return handle is None or handle.wait(timeout_s)


class Started(subprocess.Popen[bytes]):
    """A process that is meant to outlive its starter."""

    def __del__(self, *_: object) -> None:
        """Gives no ResourceWarning: nobody waits for this process, on purpose."""


def start(command: Sequence[str], *, log: Path, directory: Path, environment: Mapping[str, str]) -> Started:
    """Starts `command` in a session of its own, so that no terminal's end reaches it; its output is appended to `log`.

    Raises:
        OSError: it cannot be started.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        return Started(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)


def identify(pid: int, *, rest_port: int, grpc_port: int) -> Child | None:
    """Returns process `pid` as it runs now, None when there is none."""
    found = _stat(pid)
    if found is None or _has_ended(found):
        return None
    return Child(pid, int(found[_START_TIME]), boot_id(), rest_port, grpc_port)


def find(argument: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields number and command line of every process that was given exactly `argument`."""
    wanted = os.fsencode(argument)
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if wanted in words:
                yield int(entry.name), tuple(os.fsdecode(word) for word in words)


def read(path: Path) -> Child | None:
    """Returns the process that `path` records, None when there is no record or it cannot be read."""
    try:
        document = json.loads(path.read_text())
        return Child(**{key: document[key] for key in Child.__slots__})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(path: Path, child: Child) -> None:
    """Records `child` in `path`, whole or not at all."""
    write_durably(path, json.dumps(asdict(child), indent=2) + "\n")


def reap(pid: int) -> None:
    """Lets the system forget an ended child; does nothing for a process that is not this process's child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _stat(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command's name, in parentheses, may itself hold spaces and parentheses.
    return text.rpartition(")")[2].split()


def _has_ended(found: list[str]) -> bool:
    """Whether it is a zombie whose last thread is gone: until then it may still hold its ports."""
    return found[_STATE] in _ENDED_STATES and int(found[_THREADS]) <= 1


@dataclass(frozen=True, slots=True)
class _Handle:
    """An open process descriptor, or where the kernel has none (before Linux 5.3), just the number."""

    child: Child
    descriptor: int | None

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, number)
            elif self.child.alive():
                os.kill(self.child.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Returns whether the process has ended within `timeout_s` seconds; an ended child is reaped."""
        if self.descriptor is not None:
            ended = bool(_readable(self.descriptor, timeout_s))
        else:
            deadline = time.monotonic() + timeout_s
            while (alive := self.child.alive()) and time.monotonic() < deadline:
                select.select([], [], [], _LONGEST_POLL_S)
            ended = not alive
        if ended:
            self._reap()
        return ended

    def _reap(self) -> None:
        if self.descriptor is None:
            reap(self.child.pid)
            return
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self.descriptor, os.WEXITED | os.WNOHANG)


@contextlib.contextmanager
def _handle(child: Child) -> Iterator[_Handle | None]:
    """Opens `child`, None when it has ended. From then on its number cannot come to mean another process."""
    try:
        descriptor = os.pidfd_open(child.pid)
    except ProcessLookupError:
        yield None
        return
    except OSError:  # a kernel or a sandbox without it
        yield _Handle(child, None) if child.alive() else None
        return
    try:
        # Asked after opening: what was opened is the process that is looked at here.
        yield _Handle(child, descriptor) if child.alive() else None
    finally:
        os.close(descriptor)


def _readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, round(timeout_s * 1000))))
