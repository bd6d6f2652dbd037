"""What killed publishers left in the store: claims, files without a manifest, multipart uploads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployctl.domain.names import ModelName, VersionNumber, parse_model_name
from deployctl.errors import InvalidNameError
from deployctl.repository.interface import GRACE_S
from deployctl.repository.s3_claims import Numbers, is_known_dead
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_keys import CLAIMS, RETIRED, claim_key, manifest_key, retired_key, version_key, version_of
from deployctl.repository.s3_listing import Upload

# A publisher on another machine may be alive without our seeing it, so its claim is left alone this long.
_GRACE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Finds and removes what no publisher will go on with."""

    store: S3Store
    numbers: Numbers
    grace_s: float = GRACE_S

    def find(self, now: datetime) -> tuple[str, ...]:
        """Returns claims whose publisher is gone, multipart uploads of more than a day ago, and what was retired."""
        claims = [f"claim {model}@{version}" for model, version in self._abandoned(now)]
        retired = [f"retired {model}@{version}" for model, version in self._expired(now)]
        return (*claims, *(f"upload {upload.key}" for upload in self._uploads(now)), *retired)

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
        for model, version in self._expired(now):
            self.remove(model, version, retired_key(model, version))
            found.append(f"retired {model}@{version}")
        return tuple(found)

    def remove(self, model: ModelName, version: VersionNumber, *more: str) -> None:
        """Removes the files and the claim of a number that is spent, and the objects `more`."""
        prefix = version_key(model, version)
        for upload in self.store.uploads():
            if upload.key.startswith(prefix):
                self.store.abort_upload(upload.key, upload.upload_id)
        self.store.delete([each.key for each in self.store.listing(prefix).objects])
        self.store.delete([*more, claim_key(model, version)])

    def retired(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns the numbers of the retired versions of a model whose files are still there."""
        numbers = (version_of(each.key) for each in self.store.listing(f"{RETIRED}{model}/").objects)
        return tuple(number for number in numbers if number is not None)

    def claimed(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns the numbers that are claimed and may be under way."""
        numbers = (version_of(each.key) for each in self.store.listing(f"{CLAIMS}{model}/").objects)
        return tuple(number for number in numbers if number is not None)

    def _abandoned(self, now: datetime) -> Iterator[tuple[ModelName, VersionNumber]]:
        for each in self.store.listing(CLAIMS).objects:
            model, version = _named_by(each.key, CLAIMS)
            if model is None or version is None:
                continue
            record = self.store.get(each.key)
            if record is not None and (is_known_dead(record) or now - each.modified > _GRACE):
                yield model, version

    def _expired(self, now: datetime) -> Iterator[tuple[ModelName, VersionNumber]]:
        for each in self.store.listing(RETIRED).objects:
            model, version = _named_by(each.key, RETIRED)
            if model is None or version is None or (now - each.modified).total_seconds() < self.grace_s:
                continue
            # Somebody has got it back by hand.
            if self.store.get(manifest_key(model, version)):
                self.store.delete([each.key])
            else:
                yield model, version

    def _uploads(self, now: datetime) -> list[Upload]:
        return [upload for upload in self.store.uploads() if now - upload.started > _GRACE]


def _named_by(key: str, prefix: str) -> tuple[ModelName | None, VersionNumber | None]:
    try:
        return parse_model_name(key.removeprefix(prefix).partition("/")[0]), version_of(key)
    except InvalidNameError:
        return None, None
