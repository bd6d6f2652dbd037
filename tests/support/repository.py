"""Exports to publish, and publishing them, for tests that need a repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import FileEntry, Manifest, Provenance
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.repository.interface import Committed, ModelRepository, Numbering, StagedVersion
from deployctl.system import SystemClock

DIGITS = ModelName("digits")
RANKER = ModelName("ranker")
PUBLISHED_AT = datetime(2026, 11, 21, 7, 10, 27, tzinfo=UTC)
SMALL_EXPORT: Mapping[str, bytes] = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"weights",
    "assets/vocabulary.txt": b"a\nb\n",
}


class WallClock(SystemClock):
    """The system's time, but with `now` as given."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


def write_export(directory: Path, files: Mapping[str, bytes] = SMALL_EXPORT) -> Path:
    """Writes `files`, by path, into a new directory and returns it."""
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def describe(model: ModelName, files: tuple[FileEntry, ...]) -> Callable[[VersionNumber], Manifest]:
    """Returns what makes the manifest of `files` for a version number."""
    return lambda number: Manifest(
        model=model,
        version=number,
        files=files,
        signatures={},
        frameworks={},
        provenance=Provenance(source="exports/digits"),
        published_at=PUBLISHED_AT,
        published_by=f"test@{os.uname().nodename}",
    )


def commit(
    repository: ModelRepository,
    staged: StagedVersion,
    *,
    numbering: Numbering = Numbering.SEQUENTIAL,
    allow_duplicate: bool = False,
) -> Committed:
    """Commits `staged` with a manifest that has nothing of interest."""
    return repository.commit(
        staged, describe(staged.model, staged.files), numbering=numbering, allow_duplicate=allow_duplicate
    )


def publish(
    repository: ModelRepository,
    model: ModelName,
    export: Path,
    *,
    numbering: Numbering = Numbering.SEQUENTIAL,
    allow_duplicate: bool = False,
) -> Committed:
    """Stages and commits the directory `export`."""
    with repository.stage(model, export, Observer()) as staged:
        return commit(repository, staged, numbering=numbering, allow_duplicate=allow_duplicate)


@contextmanager
def deep_directory(root: Path, levels: int, file: str = "file") -> Iterator[Path]:
    """Gives the new directory `root`, whose one file is `levels` directories down; it is gone after the block."""
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    try:
        for _ in range(levels):
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT, dir_fd=here))
        yield root
    finally:
        os.close(here)
        # What the tests' own clean-up removes, it removes by recursion.
        subprocess.run(["rm", "-rf", str(root)], check=True, timeout=30)
