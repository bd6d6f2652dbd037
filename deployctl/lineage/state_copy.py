"""The last revisions of each target in files beside its server, and events that wait for the database.

Layout below the state directory: `<target>/revisions/<model>.json` and `spool/<operation>-<n>.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployctl.domain.event import NewEvent, from_document, to_document
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.revision import Revision, revision_from_json, revision_to_json
from deployctl.errors import StorageError
from deployctl.files import sweep_directory, write_durably

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class KeptRevisions:
    """What was kept of one model on one target; `revisions` newest first."""

    written_at: datetime
    revisions: tuple[Revision, ...]


@dataclass(frozen=True, slots=True)
class SpooledEvent:
    """An event that the database could not take, and the file that keeps it."""

    path: Path
    event: NewEvent


class StateCopy:
    """Files of one state directory. Each is replaced whole, so a reader finds the old one or the new."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spool = directory / "spool"

    def keep(self, target: TargetName, model: ModelName, revisions: Sequence[Revision], *, at: datetime) -> None:
        """Keeps `revisions`, newest first, in place of what was kept of the model on the target.

        Raises:
            StorageError: the directory cannot be written.
        """
        document = {
            "schema": _SCHEMA,
            "written_at": format_time(at),
            "revisions": [revision_to_json(revision) for revision in revisions],
        }
        self._write(self._revisions_of(target) / f"{model}.json", document)

    def kept(self, target: TargetName) -> dict[ModelName, KeptRevisions]:
        """Returns what was kept of each model on `target`, {} when nothing was; files that do not read are left out."""
        found: dict[ModelName, KeptRevisions] = {}
        for path in sorted(self._revisions_of(target).glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                document = json.loads(path.read_text(encoding="utf-8"))
                if document["schema"] == _SCHEMA:
                    revisions = tuple(revision_from_json(each) for each in document["revisions"])
                    found[ModelName(path.stem)] = KeptRevisions(parse_time(document["written_at"]), revisions)
        return found

    def spool(self, events: Sequence[NewEvent]) -> None:
        """Keeps `events`, in order, until `spooled` and `forget` bring them to the database.

        Raises:
            StorageError: the directory cannot be written.
        """
        for event in events:
            count = len(list(self._spool.glob(f"{event.operation}-*.json"))) if self._spool.is_dir() else 0
            self._write(self._spool / f"{event.operation}-{count:04}.json", to_document(event))

    def spooled(self) -> tuple[SpooledEvent, ...]:
        """Returns the events that wait, oldest first; operation ids sort by time.

        Raises:
            StorageError: a file does not read; it is left where it is.
        """
        if not self._spool.is_dir():
            return ()
        found = []
        for path in sorted(self._spool.glob("*.json")):
            try:
                found.append(SpooledEvent(path, from_document(json.loads(path.read_text(encoding="utf-8")))))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StorageError(f"the spooled event {path} cannot be read: {error}", hint=f"cat {path}") from error
        return tuple(found)

    def forget(self, events: Sequence[SpooledEvent]) -> None:
        """Removes events that the database has now."""
        for each in events:
            each.path.unlink(missing_ok=True)

    def _revisions_of(self, target: TargetName) -> Path:
        return self._directory / target / "revisions"

    def _write(self, path: Path, document: object) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, json.dumps(document, sort_keys=True) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}") from error
        sweep_directory(path.parent)
