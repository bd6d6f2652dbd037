"""Where exports are copied before they are visible, and who is copying.

    <model>/.deployctl/lock                     held while a number is given out
    <model>/.deployctl/staging/s-<random>/      one staged export, in `version/` below it
    <model>/.deployctl/staging/s-<random>.owner locked by its publisher as long as that lives

No name here can parse as a number, and all is on the model directory's own file system, so that one rename
makes a version of it. The owner's lock dies with the process, kill -9 included.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.manifest import format_time
from deployctl.processes import boot_id, start_of
from deployctl.repository.durable import make_directory, try_lock, write_all
from deployctl.repository.removal import remove_tree

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock

WORK_DIRECTORY = ".deployctl"
_PREFIX = "s-"
_OWNER = ".owner"
# A lock taken on another machine may not show here (NFS with local locks), so its staging is left alone this long.
_FOREIGN_GRACE_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class StagingArea:
    """The working directory of one model.

    Attributes:
        model_directory: `<model_base_path>/<model>`.
    """

    model_directory: Path

    @property
    def lock_file(self) -> Path:
        """Held while a version is made visible."""
        return self.model_directory / WORK_DIRECTORY / "lock"

    @property
    def root(self) -> Path:
        """Where the staged exports are."""
        return self.model_directory / WORK_DIRECTORY / "staging"

    def contents(self, token: str) -> Path:
        """Returns the directory that holds the files of the staged export `token`."""
        return self.root / token / "version"

    def prepare(self) -> None:
        """Makes the model's directory and its working directory where they are missing."""
        for directory in (self.model_directory, self.model_directory / WORK_DIRECTORY, self.root):
            make_directory(directory)

    @contextmanager
    def open(self, clock: Clock) -> Iterator[str]:
        """Gives the token of a new, empty staged export, and removes what is left of it when the block ends."""
        token, descriptor = self._claim(clock)
        try:
            self.contents(token).mkdir(parents=True)
            yield token
        finally:
            self._remove(token)
            os.close(descriptor)

    def abandoned(self, clock: Clock) -> tuple[str, ...]:
        """Returns the tokens whose publisher is gone."""
        return tuple(token for token in self._tokens() if self._if_abandoned(token, clock, remove=False))

    def discard_abandoned(self, clock: Clock) -> tuple[str, ...]:
        """Removes the staged exports whose publisher is gone and returns their tokens."""
        return tuple(token for token in self._tokens() if self._if_abandoned(token, clock, remove=True))

    def _tokens(self) -> list[str]:
        with suppress(FileNotFoundError):
            return sorted({name.removesuffix(_OWNER) for name in os.listdir(self.root) if name.startswith(_PREFIX)})
        return []

    def _claim(self, clock: Clock) -> tuple[str, int]:
        while True:
            token = _PREFIX + secrets.token_hex(8)
            path = self._owner(token)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
            # Between the two calls a clean-up may have taken the new file for a dead publisher's; then start over.
            if try_lock(descriptor) and _names(path, descriptor):
                write_all(descriptor, memoryview(_identity(clock)))
                return token, descriptor
            os.close(descriptor)

    def _if_abandoned(self, token: str, clock: Clock, *, remove: bool) -> bool:
        try:
            descriptor = _open_owner(self._owner(token))
        except FileNotFoundError:
            # The directory is made after the owner file and removed before it, so nobody owns this one.
            if remove:
                self._remove(token)
            return True
        try:
            if not (try_lock(descriptor) and _names(self._owner(token), descriptor)):
                return False
            if _may_be_elsewhere(descriptor, clock):
                return False
            if remove:
                self._remove(token)
            return True
        finally:
            os.close(descriptor)

    def _remove(self, token: str) -> None:
        remove_tree(self.root / token)
        self._owner(token).unlink(missing_ok=True)

    def _owner(self, token: str) -> Path:
        return self.root / f"{token}{_OWNER}"


def _open_owner(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except PermissionError:
        # Another user's in a shared repository; reading is enough for flock(2).
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _identity(clock: Clock) -> bytes:
    owner = {
        "host": socket.gethostname(),
        "boot": boot_id(),
        "pid": os.getpid(),
        "process_started": start_of(os.getpid()),
        "at": format_time(clock.now()),
    }
    return json.dumps(owner).encode()


def _may_be_elsewhere(descriptor: int, clock: Clock) -> bool:
    """Whether the owner may live on another machine: the file says so, and was written less than a day ago."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        here = owner["boot"] == boot_id() or owner["host"] == socket.gethostname()
    except (ValueError, KeyError, TypeError):
        return False
    return not here and clock.now().timestamp() - os.fstat(descriptor).st_mtime < _FOREIGN_GRACE_S
