"""What an inbox is: exports at `<path>/<model>/<anything>`, wherever that is."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployctl.domain.names import ModelName
from deployctl.repository.archive import archive_name

# Documents that tell where exports came from; never exports themselves.
PROVENANCE_FILES = ("deployctl.json", "run.json")
# The endings of such a document beside its export.
ORIGINS = tuple(f".{name}" for name in PROVENANCE_FILES)
# What writers call a directory or a file that they will rename once it is whole.
_UNFINISHED_STARTS = (".", "_", "temp-")
_UNFINISHED_ENDS = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".crdownload", "~")


@dataclass(frozen=True, slots=True)
class Found:
    """An export as it is now.

    Attributes:
        name: its name below the model's directory.
        fingerprint: changes when a name, a size or a time of modification does.
        changed_at: the newest time of modification, in seconds since the epoch.
        marked: whether the marker of the inbox is there; False where it has none.
    """

    model: ModelName
    name: str
    fingerprint: str
    changed_at: float
    marked: bool

    @property
    def key(self) -> str:
        """What tells it from the other exports of the inbox."""
        return f"{self.model}/{self.name}"


class Place(abc.ABC):
    """Where the exports of one inbox are, and where they go.

    Every method raises StorageError where that cannot be reached.
    """

    @abc.abstractmethod
    def look(self) -> Iterator[Found]:
        """Yields every export that is not visibly unfinished."""

    @abc.abstractmethod
    def look_at(self, model: ModelName, name: str) -> Found | None:
        """Returns one export as it is now, None where there is none, or an unfinished one."""

    def names(self, model: ModelName) -> list[str]:
        """Returns the names of what may be exports of a model; only for places that tell of changes."""
        return sorted(found.name for found in self.look() if found.model == model)

    def models(self) -> list[ModelName]:
        """Returns the models that have a directory, in name order; only for places that tell of changes."""
        return sorted({found.model for found in self.look()})

    def was_renamed(self, found: Found) -> bool:
        """Whether an export shows that it was renamed to where it is."""
        del found
        return False

    @abc.abstractmethod
    def location(self, found: Found) -> str:
        """Returns the path or the URL of an export."""

    @abc.abstractmethod
    def provenance(self, found: Found) -> tuple[str, bytes] | None:
        """Returns where the document about an export's origin is, and its bytes; None where there is none."""

    @abc.abstractmethod
    def move_done(self, found: Found) -> str:
        """Moves a published export away and returns where it is."""

    @abc.abstractmethod
    def move_failed(self, found: Found, reports: Mapping[str, bytes]) -> str:
        """Moves a refused export away, with `reports` beside it, by the end of their names; returns where it is."""


def may_be_export(name: str, *, is_directory: bool) -> bool:
    """Whether an entry of a model's directory may be an export: a directory, or an archive, under its final name."""
    if name.startswith(_UNFINISHED_STARTS) or name.endswith(_UNFINISHED_ENDS):
        return False
    return is_directory or archive_name(name) is not None


def marker_beside(archive: str, marker: str) -> str:
    """Returns the name of the marker of an archive, which cannot have one in it."""
    return f"{archive}.{marker.lstrip('.')}"


def provenance_names(name: str) -> tuple[str, ...]:
    """Returns where below the model's directory the document about an export may be, the first one counts."""
    within = tuple(f"{name}/{each}" for each in PROVENANCE_FILES)
    beside = tuple(f"{name}{each}" for each in ORIGINS)
    return (*within, *beside, *PROVENANCE_FILES)


def report_files(refusal: Mapping[str, Any], document: bytes) -> dict[str, bytes]:
    """Returns the reports about a refused export: for programs, and for people."""
    lines = [f"{refusal['export']} of the inbox {refusal['inbox']} was refused: {refusal['error']}"]
    lines += [f"hint: {refusal['hint']}"] if refusal["hint"] else []
    lines += [f"at {refusal['at']}, operation {refusal['operation']}", ""]
    return {".report.json": document, ".report.txt": "\n".join(lines).encode(errors="backslashreplace")}
