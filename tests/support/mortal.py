"""A daemon that sends itself a signal, such as SIGKILL, right before a change that an inbox makes; run as a program.

The program's first arguments are a number of a signal, a file and a directory, the others those of `deployctl`. Once
the file is there, changes of the directory, or of the lineage database, are counted until as many as the file says, or
one whose name has the words that the file says; each is named in the file NAME.steps beside it. Whatever a duty but an
inbox's changes is not counted.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from typing import Any

# Audit events of what changes a directory; their first argument is a path.
_CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"})
# A file or a directory that is opened so is changed, or waited for until it is on the disk.
_TELLING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_DIRECTORY | os.O_NOFOLLOW
_NOT_COUNTED = ("MainThread", "reconcile", "upkeep", "health", "api", "inotify")


class _Steps:
    def __init__(self, number: int, armed: str, root: str) -> None:
        self._signal = number
        self._armed = armed
        self._root = root
        self._wanted: str | None = None
        self._count = 0
        self._log = os.open(f"{armed}.steps", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._thread = threading.local()
        self._counting = threading.Lock()
        self._connections = 0
        self._unused = threading.Condition()

    def audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        """Takes an event of the interpreter."""
        changes = name in _CHANGES or (name == "open" and isinstance(arguments[2], int) and arguments[2] & _TELLING)
        if changes and isinstance(arguments[0], str | os.PathLike | bytes):
            path = os.fsdecode(arguments[0])
            if path.startswith(self._root) and not (name == "os.mkdir" and os.path.isdir(path)):
                self.step(f"{name} {path.removeprefix(self._root)}")

    def execute(self, statement: str) -> None:
        """Takes a statement to the database."""
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            self._thread.statement = " ".join(statement.split()[:3])

    def commit(self) -> None:
        """Takes the end of a transaction, which is a step where it wrote something."""
        statement, self._thread.statement = getattr(self._thread, "statement", ""), ""
        if statement:
            self.step(f"commit {statement}")

    def step(self, name: str) -> None:
        """Sends the signal where this is the step."""
        thread = threading.current_thread().name
        if thread.startswith(_NOT_COUNTED) or not self._is_armed():
            return
        with self._counting:
            self._count += 1
            count = self._count
        os.write(self._log, f"{thread}: {re.sub('[0-9a-f]{8,}', '#', name)}\n".encode())
        wanted = self._wanted or ""
        if str(count) == wanted or (not wanted.isdigit() and wanted in name):
            self._wanted = "0"
            self._send()

    def connected(self, change: int) -> None:
        """Counts the connections to the database that are in use."""
        with self._unused:
            self._connections += change
            self._unused.notify_all()

    def _send(self) -> None:
        """Sends the signal; one that stops the process while no other thread keeps the database, or a lock."""
        if self._signal != signal.SIGSTOP:
            os.kill(os.getpid(), self._signal)
            return
        with self._unused:
            while self._connections or _holds_lock():
                self._unused.wait(0.01)
            os.kill(os.getpid(), self._signal)
            # The other threads, which must not begin anything now, are stopped a little later.
            threading.Event().wait(0.05)

    def _is_armed(self) -> bool:
        if self._wanted is None:
            try:
                descriptor = os.open(self._armed, os.O_RDONLY)
            except FileNotFoundError:
                return False
            self._wanted = os.read(descriptor, 100).decode()
            os.close(descriptor)
        return True


def _holds_lock() -> bool:
    # A line of /proc/locks, see proc(5): "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF".
    with open("/proc/locks", encoding="ascii") as locks:
        return any(line.split()[1] == "FLOCK" and line.split()[4] == str(os.getpid()) for line in locks)


def _main() -> None:
    from sqlalchemy import Pool, event
    from sqlalchemy.engine import Engine

    from deployctl.cli import app

    steps = _Steps(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    sys.addaudithook(steps.audit)
    event.listen(Pool, "checkout", lambda *arguments: steps.connected(1))
    event.listen(Pool, "checkin", lambda *arguments: steps.connected(-1))
    event.listen(Engine, "commit", lambda connection: steps.commit())
    event.listen(Engine, "before_cursor_execute", lambda *arguments: steps.execute(arguments[2]))
    sys.argv[1:] = sys.argv[4:]
    app.main()


if __name__ == "__main__":
    _main()
