"""Where an export to publish may be: a directory, an archive, or either of them in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from deployctl.errors import InvalidModelError, UsageError
from deployctl.repository.archive import archive_name, listing_of, unpack
from deployctl.repository.durable import storage_errors
from deployctl.repository.opening import Opening, scheme_of
from deployctl.repository.s3_errors import endpoint_option
from deployctl.repository.staging import StagingArea

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock, Observer


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where exports are unpacked, and how an object store is reached.

    Attributes:
        directory: may not exist yet; what killed processes left in it goes with the next use.
        options: the settings of the object store, by name.
    """

    directory: Path
    clock: Clock
    observer: Observer
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExportSource:
    """What `publish` was told to publish: a path or an `s3://` URL."""

    text: str

    @property
    def location(self) -> str:
        """The absolute path or the URL, for the record."""
        return self.text if scheme_of(self.text) else os.path.abspath(self.text)

    @property
    def name(self) -> str:
        """The name that the model has where nobody says another."""
        last = self.location.rstrip("/").rpartition("/")[2]
        return archive_name(last) or last

    @contextmanager
    def opened(self, scratch: Scratch) -> Iterator[Path]:
        """Gives a directory on this machine with the export, which is gone after the block unless it was there before.

        Raises:
            UsageError: the URL is none that exports can be read from.
            ArchiveError: the archive cannot be unpacked; the subclass says why.
            StorageError: the store cannot be reached.
        """
        scheme, path = scheme_of(self.text), Path(self.text)
        if scheme not in {"", "s3"}:
            raise UsageError(f"{self.text!r} is neither a path nor s3://BUCKET/KEY", hint="deployctl publish --help")
        is_archive = archive_name(path.name) is not None and not (not scheme and path.is_dir())
        if not scheme and not is_archive:
            yield path
            return
        area = StagingArea(scratch.directory)
        endpoint_url = str(scratch.options.get("endpoint_url", ""))
        with storage_errors("unpack into", area.root), self._asking(endpoint_url):
            area.root.mkdir(parents=True, exist_ok=True)
            area.discard_abandoned(scratch.clock)
            with area.open(scratch.clock) as token:
                directory = area.contents(token)
                if scheme:
                    path = self._fetched(scratch, directory, packed=is_archive)
                if is_archive:
                    unpacked = directory / "unpacked"
                    unpacked.mkdir()
                    path = unpack(path, unpacked, scratch.observer, shown_as=self.location)
                with self._named(path):
                    yield path

    @contextmanager
    def _named(self, directory: Path) -> Iterator[None]:
        """Lets errors about the export name its source: the directory on this machine is soon gone."""
        try:
            yield
        except InvalidModelError as error:
            self.name_in(error, directory)
            raise

    @contextmanager
    def _asking(self, endpoint_url: str) -> Iterator[None]:
        """Lets hints that list what a URL names ask the store that it is in."""
        try:
            yield
        except InvalidModelError as error:
            if scheme_of(self.text) and error.hint in {self.listing, listing_of(self.location)}:
                error.hint += endpoint_option(endpoint_url)
            raise

    def name_in(self, error: InvalidModelError, directory: Path) -> None:
        """Lets an error about the export in `directory`, which `opened` gave, name its source."""
        error.args = (str(error).replace(str(directory), self.location),)
        error.path = self.location
        error.hint = self.listing

    @property
    def listing(self) -> str:
        """The command that lists an archive or what a URL names."""
        is_url = bool(scheme_of(self.text))
        return f"aws s3 ls --recursive {quote(self.location)}" if is_url else listing_of(self.location)

    def _fetched(self, scratch: Scratch, directory: Path, *, packed: bool) -> Path:
        """Returns the file, or the directory, that the URL names, fetched to below `directory`."""
        from deployctl.repository.s3_download import download_file, download_tree
        from deployctl.repository.s3_opening import open_store

        url, target = self.text.rstrip("/"), directory / self.text.rstrip("/").rpartition("/")[2]
        if packed:
            base, _, name = url.rpartition("/")
            store = open_store(Opening(base, directory, scratch.clock, scratch.options))
            return download_file(store, name, target, scratch.observer)
        store = open_store(Opening(url, directory, scratch.clock, scratch.options))
        return download_tree(store, target, scratch.observer)
