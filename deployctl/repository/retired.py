"""The trash of a model in a local repository, and the numbers that were given out.

    <model>/.deployctl/retired/<version>-<seconds>/    a version that was retired so many seconds after the epoch
    <model>/.deployctl/highest                         no number up to this one is given out again

A version in the trash is whole: renamed back to `<model>/<version>` and adopted, it is what it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployctl.domain.clock import Clock
from deployctl.domain.names import VersionNumber
from deployctl.repository.durable import make_directory, rename_without_replacing, sync_directory, write_new_file
from deployctl.repository.staging import WORK_DIRECTORY


@dataclass(frozen=True, slots=True)
class Trash:
    """What was retired of one model.

    Attributes:
        model_directory: `<model_base_path>/<model>`.
    """

    model_directory: Path

    @property
    def root(self) -> Path:
        """Where the retired versions are."""
        return self.model_directory / WORK_DIRECTORY / "retired"

    def highest(self) -> int:
        """Returns the highest number that a retired version had, 0 without any."""
        with suppress(OSError, ValueError):
            return int(self._highest.read_text())
        return 0

    def take(self, version: VersionNumber, clock: Clock) -> None:
        """Moves a version here; whoever holds the model's lock may.

        Raises:
            OSError: it cannot be moved; it is where it was.
        """
        make_directory(self.root)
        if version > self.highest():
            # First, so that no moment gives the number out again.
            written = self._highest.with_name(f"{self._highest.name}.new")
            write_new_file(written, f"{version}\n".encode())
            os.replace(written, self._highest)
        at = int(clock.now().timestamp())
        while True:
            with suppress(FileExistsError):
                rename_without_replacing(self.model_directory / str(version), self.root / f"{version}-{at}")
                break
            at += 1
        sync_directory(self.root)
        sync_directory(self.model_directory)

    def expired(self, clock: Clock, grace_s: float) -> Iterator[Path]:
        """Yields what was retired longer ago than `grace_s`."""
        with suppress(FileNotFoundError):
            for path in sorted(self.root.iterdir()):
                _, _, at = path.name.rpartition("-")
                if at.isdecimal() and int(at) + grace_s <= clock.now().timestamp():
                    yield path

    def discard(self, path: Path) -> None:
        """Removes what `expired` gave."""
        shutil.rmtree(path, ignore_errors=True)

    @property
    def _highest(self) -> Path:
        return self.model_directory / WORK_DIRECTORY / "highest"
