"""What killed publishers left in the store: claims, files without a manifest, multipart uploads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployctl.domain.names import ModelName, VersionNumber, parse_model_name
from deployctl.errors import InvalidNameError
from deployctl.repository.s3_claims import Numbers, is_known_dead
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_keys import CLAIMS, claim_key, version_key, version_of
from deployctl.repository.s3_listing import Upload

# A publisher on another machine may be alive without our seeing it, so its claim is left alone this long.
_GRACE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Finds and removes what no publisher will go on with."""

    store: S3Store
    numbers: Numbers

    def find(self, now: datetime) -> tuple[str, ...]:
        """Returns claims whose publisher is gone, and multipart uploads that were started more than a day ago."""
        claims = [f"claim {model}@{version}" for model, version in self._abandoned(now)]
        return (*claims, *(f"upload {upload.key}" for upload in self._uploads(now)))

    def discard(self, now: datetime) -> tuple[str, ...]:
        """Removes them and returns them as `find` does."""
        found = []
        for model, version in self._abandoned(now):
            if self.numbers.spend(model, version):
                self.remove(model, version)
            else:  # committed, and killed before the claim was cleared away
                self.store.delete([claim_key(model, version)])
            found.append(f"claim {model}@{version}")
        for upload in self._uploads(now):
            self.store.abort_upload(upload.key, upload.upload_id)
            found.append(f"upload {upload.key}")
        return tuple(found)

    def remove(self, model: ModelName, version: VersionNumber, *more: str) -> None:
        """Removes the files and the claim of a number that is spent, and the objects `more`."""
        prefix = version_key(model, version)
        for upload in self.store.uploads():
            if upload.key.startswith(prefix):
                self.store.abort_upload(upload.key, upload.upload_id)
        self.store.delete([each.key for each in self.store.listing(prefix).objects])
        self.store.delete([*more, claim_key(model, version)])

    def claimed(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns the numbers that are claimed and may be under way."""
        numbers = (version_of(each.key) for each in self.store.listing(f"{CLAIMS}{model}/").objects)
        return tuple(number for number in numbers if number is not None)

    def _abandoned(self, now: datetime) -> Iterator[tuple[ModelName, VersionNumber]]:
        for each in self.store.listing(CLAIMS).objects:
            model, version = _claimed_by(each.key)
            if model is None or version is None:
                continue
            record = self.store.get(each.key)
            if record is not None and (is_known_dead(record) or now - each.modified > _GRACE):
                yield model, version

    def _uploads(self, now: datetime) -> list[Upload]:
        return [upload for upload in self.store.uploads() if now - upload.started > _GRACE]


def _claimed_by(key: str) -> tuple[ModelName | None, VersionNumber | None]:
    try:
        return parse_model_name(key.removeprefix(CLAIMS).partition("/")[0]), version_of(key)
    except InvalidNameError:
        return None, None
