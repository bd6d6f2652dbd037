"""What an inbox has handled, and what is still to follow, in files of the state directory.

    inboxes/<inbox>/handled/<digest of the export's name>.json    one export, as it was when it was handled
    inboxes/<inbox>/follow/<model>@<version>.json                 what is still to be done with a published version

Nothing here grows for good: what is known of an export goes with it, and what follows ends.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.files import replace_text, write_durably
from deployctl.repository.durable import storage_errors

_log = logging.getLogger(__name__)
# A write takes less, and a daemon to start again more.
_WRITE_S = 0.2
_ENDING = ".json"


@dataclass(frozen=True, slots=True)
class Handled:
    """What is known of an export.

    Attributes:
        fingerprint: what it was like.
        began: when its handling began, as in manifests; "" once it is over.
        arrival: how it had become complete then.
        refusal: why it was refused, where it is to be moved away for that.
    """

    key: str
    fingerprint: str
    began: str = ""
    arrival: str = ""
    refusal: Mapping[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done with the export as it was."""
        return not self.began and self.refusal is None


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What is still to be done with a version.

    Attributes:
        export: which export of the inbox it was.
        began: when the handling of the export began, as in manifests.
        targets: those to promote it on, in this order.
        keep: how many of the newest versions are kept; 0 for all.
    """

    model: ModelName
    version: VersionNumber
    export: str
    began: str
    targets: tuple[TargetName, ...] = ()
    canary: bool = False
    keep: int = 0


class Memory:
    """What one inbox has handled; made anew from its files.

    Args:
        directory: of this inbox alone; need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "handled"
        self._known = {each.key: each for each in _read_each(self._directory, _handled, since=time.time() - _WRITE_S)}

    def of(self, key: str) -> Handled | None:
        """Returns what is known of the export with that key."""
        return self._known.get(key)

    def remember(self, handled: Handled, *, durably: bool = False) -> None:
        """Writes what is known of an export; `durably`, so that it is on the disk afterwards."""
        if self._known.get(handled.key) == handled:
            return
        _write(self._path(handled.key), asdict(handled), durably=durably)
        self._known[handled.key] = handled

    def forget(self, key: str) -> None:
        """Forgets an export that is gone."""
        with storage_errors("forget an export in", self._directory):
            self._path(key).unlink(missing_ok=True)
        self._known.pop(key, None)

    def forget_all_but(self, keys: Collection[str]) -> None:
        """Forgets the exports that are none of these."""
        for key in [key for key in self._known if key not in keys]:
            self.forget(key)

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:32]}{_ENDING}"


class FollowUps:
    """What is still to follow for one inbox; each has a file, which is on the disk before the export is let go.

    Args:
        directory: of this inbox alone; need not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "follow"
        self._since = time.time() - _WRITE_S

    def all(self) -> list[FollowUp]:
        """Returns them: the newest version of each model first, the model that began to wait first before others."""
        found = list(_read_each(self._directory, _follow_up, since=self._since))
        began: dict[ModelName, str] = {}
        for each in found:
            began[each.model] = min(each.began, began.get(each.model, each.began))
        return sorted(found, key=lambda each: (began[each.model], each.model, -each.version))

    def has_others(self, known: Collection[FollowUp]) -> bool:
        """Whether there are more than these, such as what a daemon wrote late that has lost its lease meanwhile."""
        return not self._names() <= {self._path(each).name for each in known}

    def has_more_of(self, follow_up: FollowUp) -> bool:
        """Whether something is to follow for another version of the model."""
        others = self._names() - {self._path(follow_up).name}
        return any(name.rpartition("@")[0] == follow_up.model for name in others)

    def _names(self) -> set[str]:
        with suppress(OSError):  # told where they are read
            return {name for name in os.listdir(self._directory) if name.endswith(_ENDING) and name[0] != "."}
        return set()

    def put(self, follow_up: FollowUp) -> None:
        """Writes what is to follow, in place of what was for the same version."""
        _write(self._path(follow_up), asdict(follow_up), durably=True)

    def remove(self, follow_up: FollowUp) -> None:
        """Forgets what was to follow."""
        with storage_errors("forget what follows in", self._directory):
            self._path(follow_up).unlink(missing_ok=True)

    def _path(self, follow_up: FollowUp) -> Path:
        return self._directory / f"{follow_up.model}@{follow_up.version}{_ENDING}"


def _write(path: Path, document: dict[str, Any], *, durably: bool) -> None:
    with storage_errors("remember an export in", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_durably if durably else replace_text)(path, json.dumps(document))


def _read_each(directory: Path, made: Any, *, since: float) -> Iterator[Any]:
    for left in directory.glob(".*"):
        with suppress(FileNotFoundError):
            # By a write that was killed with an earlier daemon; others of this one go on meanwhile.
            if left.stat().st_mtime < since:
                left.unlink()
    for path in sorted(directory.glob(f"*{_ENDING}")):
        try:
            yield made(json.loads(path.read_bytes()))
        except FileNotFoundError:
            continue  # done meanwhile
        except (OSError, ValueError, TypeError, KeyError) as error:
            # A machine that stopped in the middle: the export is looked at as if it had never been seen.
            _log.warning("%s cannot be read, and is forgotten: %s", path, error)
            with suppress(OSError):
                path.unlink()


def _handled(document: dict[str, Any]) -> Handled:
    return Handled(**document)


def _follow_up(document: dict[str, Any]) -> FollowUp:
    return FollowUp(**document | {"targets": tuple(document["targets"])})
