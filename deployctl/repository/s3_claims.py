"""Who publishes what under which number, decided by conditional puts alone.

A number belongs to whose claim was put first. A version exists once its manifest was put, which works once: an
empty one spends the number instead, so that a publisher that was given up cannot come back and commit. Bytes belong
to whose record of them was put first; others wait for that one, for as long as its record goes on changing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import format_time
from deployctl.domain.names import MAX_VERSION, Digest, ModelName, VersionNumber, server_takes_for_version
from deployctl.errors import (
    ConditionalPutsError,
    LockedError,
    StorageError,
    StoreUnavailableError,
    VersionNumbersExhaustedError,
    VersionTakenError,
)
from deployctl.processes import boot_id, start_of
from deployctl.repository.s3_errors import endpoint_option
from deployctl.repository.s3_keys import (
    CLAIMS,
    MANIFESTS,
    PROBES,
    claim_key,
    content_prefix,
    manifest_key,
    version_of,
)

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock
    from deployctl.repository.s3_client import S3Store

# A publisher shows this often that it lives; one whose record stays as it is for longer has been killed.
BEAT_EVERY_S = 10.0
_STALE_AFTER_S = 60.0
_LOOK_EVERY_S = 0.05
_LOOK_AT_LEAST_EVERY_S = 2.0


@dataclass(slots=True)
class Publisher:
    """One publishing, as its claims and records tell others."""

    clock: Clock
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    beats: int = 0

    def record(self, **more: object) -> bytes:
        """Returns what a claim or a record of bytes says."""
        self.beats += 1
        said = {
            "token": self.token,
            "host": socket.gethostname(),
            "boot": boot_id(),
            "pid": os.getpid(),
            "process_started": start_of(os.getpid()),
            "at": format_time(self.clock.now()),
            "beat": self.beats,
        }
        return json.dumps(said | more).encode()


def is_known_dead(record: bytes) -> bool:
    """Whether the publisher of a record ran on this machine and is gone."""
    said = read_record(record)
    # Containers on one machine share its boot, not their process ids; they have host names of their own.
    here = said.get("boot") == boot_id() != "" and said.get("host") == socket.gethostname()
    return here and start_of(said.get("pid", 0)) != said.get("process_started")


def read_record(record: bytes) -> dict[str, Any]:
    """Returns what a record says, {} where it is none of ours."""
    try:
        said = json.loads(record)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


@dataclass(frozen=True, slots=True)
class Numbers:
    """Gives out version numbers."""

    store: S3Store

    def claim(self, model: ModelName, publisher: Publisher, *, at_least: int) -> VersionNumber:
        """Returns a number that is ours alone, above all that are in use, spent, claimed or put there by hand.

        Raises:
            ConditionalPutsError: the store would have given the same number to another as well.
            VersionNumbersExhaustedError: the highest number that there is is taken.
            StoreUnavailableError: one number after the other is said to be taken, for longer than a request may take.
            StorageError: the store gives what is no manifest for one.
        """
        highest = max(self._taken(model), default=0)
        number = max(highest + 1, at_least)
        deadline_s = self.store.options.deadline_s
        give_up_at = publisher.clock.monotonic() + deadline_s
        while number <= MAX_VERSION:
            version = VersionNumber(number)
            key, record = claim_key(model, version), publisher.record()
            if self.store.put_new(key, record):
                self._require_refusal(key, publisher)
                if self._is_free(model, version, key):
                    return version
            if publisher.clock.monotonic() > give_up_at:
                raise StoreUnavailableError(
                    f"no version number of {model} could be claimed in {self.store.url()} within {deadline_s:g} s: "
                    f"it lists none above {highest}, and says that all up to {number} are taken",
                    hint="deployctl doctor",
                )
            number += 1
        raise VersionNumbersExhaustedError(model, MAX_VERSION)

    def claim_this(self, model: ModelName, publisher: Publisher, version: VersionNumber) -> VersionNumber:
        """Returns `version`, which is ours alone now.

        Raises:
            VersionTakenError: it is in use, spent, claimed, or something was put there by hand.
            ConditionalPutsError: see `claim`.
        """
        taken = VersionTakenError(model, version, self.store.url())
        if version in set(self._taken(model)):
            raise taken
        key = claim_key(model, version)
        if not self.store.put_new(key, publisher.record()):
            raise taken
        self._require_refusal(key, publisher)
        if not self._is_free(model, version, key):
            raise taken
        return version

    def spend(self, model: ModelName, version: VersionNumber) -> bool:
        """Makes sure that the number is never committed any more; False where it has been."""
        return self.store.put_new(manifest_key(model, version), b"")

    def _taken(self, model: ModelName) -> Iterator[int]:
        for prefix in (f"{MANIFESTS}{model}/", f"{CLAIMS}{model}/"):
            yield from (version for each in self.store.listing(prefix).objects if (version := version_of(each.key)))
        listing = self.store.listing(f"{model}/", by_directory=True)
        names = [each.removesuffix("/") for each in (*listing.prefixes, *(found.key for found in listing.objects))]
        yield from (int(name) for each in names if server_takes_for_version(name := each.rpartition("/")[2]))

    def _is_free(self, model: ModelName, version: VersionNumber, claim: str) -> bool:
        """Whether nobody committed the number, or spent it, before we put `claim`, which is taken back otherwise."""
        where = manifest_key(model, version)
        # Whoever had this number may have committed and cleaned up since we looked.
        body = self.store.get(where)
        if body is None:
            return True
        self.store.delete([claim])
        if body and not read_record(body):
            raise StorageError(
                f"{self.store.url(where)} is not listed, and what the store gives for it is no manifest",
                hint="deployctl config show --origin",
            )
        return False

    def _require_refusal(self, key: str, publisher: Publisher) -> None:
        """Puts the claim again: a store that takes it twice would give the number to two publishers."""
        if not self.store.options.single_publisher and self.store.put_new(key, publisher.record()):
            raise ConditionalPutsError(
                f"{self.store.url()} ignores conditional puts (If-None-Match), so that two publishers could take the "
                f"same version number",
                hint="deployctl doctor",
            )


def probe_conditional_puts(store: S3Store) -> None:
    """Raises ConditionalPutsError where the store ignores conditional puts; leaves nothing behind."""
    key = f"{PROBES}{secrets.token_hex(8)}"
    try:
        if store.put_new(key, b"first") and store.put_new(key, b"second"):
            raise ConditionalPutsError(
                f"{store.url()} ignores conditional puts (If-None-Match: *): publishing by two at a time is refused, "
                f"since both could take the same version number",
                hint=f"aws s3api get-bucket-versioning --bucket {store.options.bucket}"
                + endpoint_option(store.options.endpoint_url),
            )
    finally:
        with suppress(StorageError):  # the bucket's lifecycle rule removes it
            store.delete([key])


@dataclass(slots=True)
class Reservation:
    """The right to publish these bytes; renewed while it is made use of."""

    store: S3Store
    key: str
    publisher: Publisher
    version: VersionNumber | None = None
    beaten_at: float = 0.0

    def renew(self, version: VersionNumber | None = None) -> None:
        """Says that the publisher lives, and under which number it publishes."""
        self.version = version or self.version
        self.beaten_at = self.publisher.clock.monotonic()
        self.store.put(self.key, self.publisher.record(version=self.version))

    def beat(self) -> None:
        """Renews, but not too often."""
        if self.publisher.clock.monotonic() - self.beaten_at >= BEAT_EVERY_S:
            self.renew()


class Beating(Observer):
    """Passes on progress, and with it that the publisher lives."""

    def __init__(self, observer: Observer, reservation: Reservation) -> None:
        self._observer = observer
        self._reservation = reservation

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Bytes handled so far, of all."""
        self._observer.progress(done_bytes, total_bytes)
        # The next beat may come through, and without any the bytes are published twice at worst.
        try:
            self._reservation.beat()
        except StorageError as error:
            self._observer.warn(str(error))


@dataclass(frozen=True, slots=True)
class Contents:
    """Which versions hold which bytes.

    Attributes:
        given_up: tokens of our own publishers that failed, and may not have been able to say so in the store.
    """

    store: S3Store
    clock: Clock
    lock_timeout_s: float
    given_up: set[str] = field(default_factory=set)

    def versions(self, model: ModelName, digest: Digest) -> Iterator[tuple[str, bytes, VersionNumber | None]]:
        """Yields key, record and version of every record of these bytes, newest first."""
        found = self.store.listing(content_prefix(model, digest)).objects
        for each in sorted(found, key=lambda each: each.key, reverse=True):
            record = self.store.get(each.key)
            if record is not None:
                yield each.key, record, _version_told(record)

    def version_in(self, key: str) -> VersionNumber | None:
        """Returns the version that the record of that key names now, None where it names none."""
        record = self.store.get(key)
        return _version_told(record) if record is not None else None

    def reserve(self, model: ModelName, digest: Digest, publisher: Publisher, after: str | None) -> Reservation | None:
        """Takes the right to publish these bytes, if nobody has put a record after `after` (a key) meanwhile."""
        sequence = int(after.rpartition("/")[2]) + 1 if after else 1
        key = f"{content_prefix(model, digest)}{sequence:06}"
        if not self.store.put_new(key, publisher.record()):
            return None
        return Reservation(self.store, key, publisher, beaten_at=self.clock.monotonic())

    def wait_for(self, key: str, record: bytes, version: VersionNumber | None, model: ModelName) -> bool:
        """Waits while another publishes these bytes; False once that one is known to be gone.

        Raises:
            LockedError: it is still at it after the time-out.
        """
        deadline = self.clock.monotonic() + self.lock_timeout_s
        unchanged_since, pause_s = self.clock.monotonic(), _LOOK_EVERY_S
        while True:
            if version is not None and self.store.get(manifest_key(model, version)) is not None:
                return True
            now = self.store.get(key)
            if now is None:
                return True
            if now != record:
                record, unchanged_since = now, self.clock.monotonic()
                version = _version_told(now)
                continue
            is_gone = is_known_dead(record) or read_record(record).get("token") in self.given_up
            if is_gone or self.clock.monotonic() - unchanged_since > _STALE_AFTER_S:
                return False
            if self.clock.monotonic() > deadline:
                raise LockedError(
                    f"{model} is still being published elsewhere with the same bytes: {self._who(record)}",
                    hint="deployctl gc --dry-run",
                )
            self.clock.pause(pause_s)
            pause_s = min(pause_s * 1.5, _LOOK_AT_LEAST_EVERY_S)

    def _who(self, record: bytes) -> str:
        said = read_record(record)
        return f"process {said.get('pid')} on {said.get('host')} since {said.get('at')}"


def _version_told(record: bytes) -> VersionNumber | None:
    version = read_record(record).get("version")
    return VersionNumber(version) if isinstance(version, int) else None
