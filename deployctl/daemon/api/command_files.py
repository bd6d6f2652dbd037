"""Commands that clients elsewhere have given: one directory for each, from which whatever daemon runs answers.

A command is run by a process of its own (`deployctl.cli.remote_runner`) that writes what comes of it to `frames`.
Nothing of it is kept in memory here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from deployctl.errors import LockedError, NotFoundError, StorageError
from deployctl.processes import start_of

# How many commands run at once; more are refused until one has ended.
MAX_RUNNING = 32
# How long what a command has written can still be asked for after its end.
KEPT_S = 900.0
_START_TIMEOUT_S = 30.0
_CHUNK = 256 << 10
_RUNNER = "deployctl.cli.remote_runner"
# What the daemon's own environment has for itself alone.
_OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "DEPLOYCTL_SERVER", "DEPLOYCTL_TOKEN"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command that was given, running or not."""

    directory: Path

    @property
    def id(self) -> str:
        """What it is called for whoever gave it."""
        return self.directory.name

    def read(self, offset: int) -> bytes:
        """Returns some of what it has written from byte `offset` on, b"" where nothing has come yet."""
        with (self.directory / "frames").open("rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)

    def heard(self) -> None:
        """Notes that somebody listens; the runner ends a command that only reads when nobody has for long."""
        with suppress(OSError):
            os.utime(self.directory / "request.json")

    def is_running(self) -> bool:
        """Whether its process runs."""
        process = self._process()
        if process is None:
            # It is being started, or whoever started it was killed.
            with suppress(OSError):
                return time.time() - self.directory.stat().st_mtime < _START_TIMEOUT_S
            return False
        return bool(start_of(process["pid"]) == process["started"])

    def interrupt(self) -> None:
        """Tells it what Ctrl-C tells it; nothing where it has ended.

        Raises:
            LockedError: it is being started, and cannot be told yet.
        """
        if not self.is_running():
            return
        process = self._process()
        if process is None:
            raise LockedError("the command is being started", hint="deployctl op list")
        with suppress(ProcessLookupError):
            os.kill(process["pid"], signal.SIGINT)

    def end_reading(self) -> None:
        """Interrupts it if it changes nothing, as it has said itself: nobody will listen any more."""
        if (self.directory / "reads").exists():
            # One that is just being started ends itself when it has not been listened to for long.
            with suppress(LockedError):
                self.interrupt()

    def last_use(self) -> float:
        """Returns when it wrote or somebody listened, in seconds since the epoch."""
        times = [0.0]
        for name in ("frames", "request.json"):
            with suppress(OSError):
                times.append((self.directory / name).stat().st_mtime)
        return max(times)

    def _process(self) -> dict[str, Any] | None:
        try:
            document = json.loads((self.directory / "process.json").read_text(encoding="utf-8"))
            return {"pid": int(document["pid"]), "started": str(document["started"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Commands:
    """The commands of all tokens.

    Args:
        directory: where they are kept; made when one is given.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory

    def find(self, owner: str, key: str) -> Command | None:
        """Returns the command that `owner` gave under the idempotency key `key`, None if there is none."""
        command = Command(self._place(owner) / _id(key))
        return command if (command.directory / "request.json").exists() else None

    def owned(self, owner: str, name: str) -> Command:
        """Returns a command by its id.

        Raises:
            NotFoundError: `owner` has given none of that id, or none lately.
        """
        command = Command(self._place(owner) / name)
        if not name.isalnum() or not (command.directory / "request.json").exists():
            raise NotFoundError(f"there is no command {name!r}", hint="deployctl op list")
        return command

    def place(self, owner: str, key: str) -> Path:
        """Returns where the command that `owner` gives under `key` will be."""
        return self._place(owner) / _id(key)

    def prepare(self, owner: str, key: str) -> Path:
        """Returns an empty directory to make a command in that `begin` puts in its place.

        Raises:
            LockedError: too many commands run.
            StorageError: it cannot be made.
        """
        if sum(each.is_running() for each in self.all()) >= MAX_RUNNING:
            raise LockedError(f"{MAX_RUNNING} commands run already", hint="deployctl op list")
        directory = self._place(owner) / f".{_id(key)}.{os.getpid()}.{time.monotonic_ns()}"
        try:
            directory.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise StorageError(f"cannot make {directory}: {error.strerror}") from error
        return directory

    def begin(self, owner: str, key: str, prepared: Path, request: Mapping[str, Any]) -> Command:
        """Starts the command for which `prepared` was made; the one that runs already where the key is not new.

        Raises:
            StorageError: it cannot be started.
        """
        command = Command(self._place(owner) / _id(key))
        try:
            (prepared / "frames").touch(mode=0o600)
            (prepared / "request.json").write_text(json.dumps(request), encoding="utf-8")
            try:
                os.rename(prepared, command.directory)
            except OSError:
                if not command.directory.exists():
                    raise
                shutil.rmtree(prepared, ignore_errors=True)
                return command
            self._start(command)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(prepared, ignore_errors=True)
            shutil.rmtree(command.directory, ignore_errors=True)
            raise StorageError(f"cannot start the command: {error}") from error
        return command

    def all(self) -> Iterator[Command]:
        """Yields the commands of all tokens."""
        for place in self._root.glob("*/*/request.json"):
            if not place.parent.name.startswith("."):
                yield Command(place.parent)

    def tidy(self) -> None:
        """Removes what ended long ago."""
        now = time.time()
        for command in self.all():
            if not command.is_running() and now - command.last_use() > KEPT_S:
                shutil.rmtree(command.directory, ignore_errors=True)
        for left in self._root.glob("*/.*"):
            with suppress(OSError):
                if now - left.stat().st_mtime > KEPT_S:
                    shutil.rmtree(left, ignore_errors=True)

    def _place(self, owner: str) -> Path:
        return self._root / sha256(owner.encode()).hexdigest()[:32]

    def _start(self, command: Command) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        with (command.directory / "runner.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", _RUNNER, str(command.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                timeout=_START_TIMEOUT_S,
                check=True,
            )


def _id(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:32]
