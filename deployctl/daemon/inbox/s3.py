"""An inbox that is a prefix of an object store: it is polled, and nothing is renamed there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count, groupby
from typing import TYPE_CHECKING

from deployctl.daemon.inbox.place import ORIGINS, Found, Place, marker_beside, may_be_export, provenance_names
from deployctl.domain.names import ModelName, parse_model_name
from deployctl.errors import InvalidNameError
from deployctl.repository.opening import Opening
from deployctl.repository.s3_listing import Found as Stored
from deployctl.repository.s3_opening import open_store

if TYPE_CHECKING:
    from deployctl.config.daemon_settings import InboxSettings
    from deployctl.daemon.interface import Work
    from deployctl.repository.s3_client import S3Store


def open_place(work: Work, settings: InboxSettings, *, done: str, failed: str) -> S3Place:
    """Returns the place of an inbox at `s3://BUCKET/PREFIX`, reached as the repository's settings say.

    Raises:
        SettingsError: a URL cannot be right.
    """

    def store(url: str) -> S3Store:
        clock, options = work.shared.context.clock, asdict(work.settings.repository.s3)
        return open_store(Opening(url, work.settings.state_path, clock, options))

    return S3Place(store(settings.path), settings.marker, done=store(done), failed=store(failed))


@dataclass(frozen=True, slots=True)
class S3Place(Place):
    """The exports below the prefix of a store; moving one is a copy within the store, and then a removal.

    Attributes:
        marker: name of the object that says an export is complete; "" without any.
        done: where published exports go.
        failed: where refused ones go.
    """

    store: S3Store
    marker: str
    done: S3Store
    failed: S3Store

    def look(self) -> Iterator[Found]:
        """See `Place.look`; one listing."""
        stored = self.store.listing("").objects
        names = {each.key for each in stored}
        for (model, name), objects in groupby(stored, key=_export_of):
            found = self._found(model, name, list(objects), names)
            if found is not None:
                yield found

    def look_at(self, model: ModelName, name: str) -> Found | None:
        """See `Place.look_at`."""
        beside = self.store.listing(f"{model}/{name}").objects
        objects = [each for each in beside if _export_of(each) == (model, name)]
        return self._found(model, name, objects, {each.key for each in beside}) if objects else None

    def location(self, found: Found) -> str:
        """See `Place.location`."""
        return self.store.url(found.key)

    def provenance(self, found: Found) -> tuple[str, bytes] | None:
        """See `Place.provenance`."""
        for name in provenance_names(found.name):
            body = self.store.get(f"{found.model}/{name}")
            if body is not None:
                return self.store.url(f"{found.model}/{name}"), body
        return None

    def move_done(self, found: Found) -> str:
        """See `Place.move_done`."""
        return self._move(found, self.done, {})

    def move_failed(self, found: Found, reports: Mapping[str, bytes]) -> str:
        """See `Place.move_failed`."""
        return self._move(found, self.failed, reports)

    def _found(self, model: str, name: str, objects: list[Stored], names: set[str]) -> Found | None:
        key = f"{model}/{name}"
        is_directory = objects[0].key != key
        if not name or not may_be_export(name, is_directory=is_directory):
            return None
        with suppress(InvalidNameError):
            lines = "\n".join(sorted(f"{each.key}\0{each.size}\0{each.etag}\0{each.modified}" for each in objects))
            marker = f"{key}/{self.marker}" if is_directory else marker_beside(key, self.marker)
            return Found(
                parse_model_name(model),
                name,
                hashlib.sha256(lines.encode()).hexdigest()[:32],
                max(each.modified.timestamp() for each in objects),
                marked=bool(self.marker) and marker in names,
            )
        return None

    def _move(self, found: Found, to: S3Store, reports: Mapping[str, bytes]) -> str:
        """Copies an export and what belongs to it, then removes it; what was copied before a kill is not again."""
        objects = {
            each.key.removeprefix(found.key): each
            for each in self.store.listing(found.key).objects
            if _belongs(each.key, found.key, self.marker)
        }
        goal, there = self._goal(found, objects, to, reports)
        for ending, content in reports.items():
            to.put(f"{goal}{ending}", content)
        for ending, each in objects.items():
            if ending not in there:
                to.copy(self.store, each.key, goal + ending, size=each.size)
        self.store.delete([each.key for each in objects.values()])
        return to.url(goal)

    def _goal(
        self, found: Found, objects: Mapping[str, Stored], to: S3Store, reports: Mapping[str, bytes]
    ) -> tuple[str, set[str]]:
        """Returns where an export goes, and which of its objects are there since a move that was killed."""
        for number in count(1):
            goal = found.key if number == 1 else f"{found.key}-{number}"
            there = {
                each.key.removeprefix(goal): each.etag
                for each in to.listing(goal).objects
                if _belongs(each.key, goal, self.marker) or each.key.removeprefix(goal) in reports
            }
            told = {ending for ending in there.keys() & reports.keys() if to.get(goal + ending) == reports[ending]}
            same = {ending for ending, etag in there.items() if ending in objects and objects[ending].etag == etag}
            if there.keys() == told | same:
                return goal, same
        raise AssertionError  # there is no end of names


def _export_of(stored: Stored) -> tuple[str, str]:
    """Returns the model and the name of the export that an object is of; an empty name where it is of none."""
    model, _, rest = stored.key.partition("/")
    return model, rest.partition("/")[0]


def _belongs(key: str, export: str, marker: str) -> bool:
    beside = (*ORIGINS, *((marker_beside("", marker),) if marker else ()))
    return key == export or key.startswith(f"{export}/") or key in {export + ending for ending in beside}
