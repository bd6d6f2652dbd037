"""The cache of a repository in an object store: what is fetched, once; what is kept, and what goes."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import FileEntry, content_digest
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.errors import DatabaseBusyError, DiskFullError, LockedError, ManifestError, StorageError
from deployctl.repository.cache import CacheOptions, Held, VersionCache
from deployctl.repository.s3 import S3ModelRepository
from deployctl.repository.s3_client import S3Store
from deployctl.system import SystemClock
from tests.support.repository import DIGITS, SMALL_EXPORT, WallClock, publish, write_export
from tests.support.s3 import Bucket
from tests.support.store_proxy import Proxy, Reset

MIB = 1 << 20
NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Warnings(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)


class Place:
    """One machine's cache of the bucket, which can be opened again at another time."""

    def __init__(self, bucket: Bucket, directory: Path) -> None:
        self.bucket = bucket
        self.directory = directory
        self.held: frozenset[tuple[ModelName, VersionNumber]] = frozenset()

    def repository(
        self, *, days: float = 0, max_bytes: int = 0, held: Held | None = None, lock_timeout_s: float = 30
    ) -> S3ModelRepository:
        clock = WallClock(NOW + timedelta(days=days))
        options = CacheOptions(self.directory, max_bytes=max_bytes, lock_timeout_s=lock_timeout_s)
        cache = VersionCache(options, clock, held or (lambda: self.held))
        return S3ModelRepository(S3Store(self.bucket.options()), cache, clock)

    def rewrite_manifest(self, **changes: object) -> None:
        """Lets the manifest of digits@1 say something else of its file."""
        key = ".deployctl/manifests/digits/1.json"
        document = json.loads(self.bucket.read(key))
        document["files"][0] |= changes
        document["digest"] = content_digest([FileEntry(**document["files"][0])])
        self.bucket.put(key, json.dumps(document).encode())

    def cached(self) -> list[int]:
        return sorted(int(path.name) for path in (self.directory / DIGITS).glob("[!.]*"))


@pytest.fixture
def place(bucket: Bucket, tmp_path: Path) -> Place:
    return Place(bucket, tmp_path / "cache")


def publish_sizes(repository: S3ModelRepository, tmp_path: Path, *sizes: int) -> None:
    for index, size in enumerate(sizes):
        publish(repository, DIGITS, write_export(tmp_path / f"export-{index}", {"saved_model.pb": os.urandom(size)}))


def ensure(repository: S3ModelRepository, version: int, observer: Observer | None = None) -> Path:
    return repository.ensure_local(DIGITS, VersionNumber(version), observer or Observer())


def ranges(proxy: Proxy, name: str) -> int:
    return sum(name in request and request.startswith("GET") for request in proxy.requests)


def test_a_fetch_that_was_interrupted_goes_on_where_it_was(
    bucket: Bucket, behind: S3ModelRepository, proxy: Proxy, tmp_path: Path
) -> None:
    files = {**SMALL_EXPORT, "large": os.urandom(40 * MIB)}
    publish(bucket.repository(tmp_path / "own"), DIGITS, write_export(tmp_path / "export", files))
    proxy.inject(Reset(), "GET .*/large", skip=3)
    with pytest.raises(StorageError):
        ensure(behind, 1)
    proxy.mend()
    proxy.requests.clear()

    path = ensure(behind, 1)

    assert (path / "large").read_bytes() == files["large"]
    assert 0 < ranges(proxy, "/large") <= 2


def test_files_that_versions_share_are_fetched_once_and_stored_once(
    bucket: Bucket, behind: S3ModelRepository, proxy: Proxy, tmp_path: Path
) -> None:
    shared = {**SMALL_EXPORT, "shared": os.urandom(MIB), "again": b""}
    shared["again"] = shared["shared"]
    direct = bucket.repository(tmp_path / "own")
    for number in (1, 2):
        publish(direct, DIGITS, write_export(tmp_path / f"{number}", {**shared, "weights": bytes([number])}))

    first, second = ensure(behind, 1), ensure(behind, 2)

    assert (first / "shared").samefile(second / "shared")
    assert (first / "shared").samefile(first / "again")
    assert not (first / "weights").samefile(second / "weights")
    assert ranges(proxy, "/shared") + ranges(proxy, "/again") == 1


def test_the_least_recently_served_version_goes_first(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB, MIB, MIB, MIB)
    for day, version in enumerate((1, 2, 3, 1)):
        ensure(place.repository(days=day), version)

    ensure(place.repository(days=10, max_bytes=3 * MIB), 4)

    assert place.cached() == [1, 3, 4]


def test_what_serves_stands_by_or_is_labelled_stays_whatever_the_bound(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB, MIB, MIB)
    place.held = frozenset({(DIGITS, VersionNumber(1)), (DIGITS, VersionNumber(2))})
    for version in (1, 2):
        ensure(place.repository(), version)
    warnings = Warnings()

    ensure(place.repository(days=10, max_bytes=MIB), 3, warnings)

    assert place.cached() == [1, 2, 3]
    assert any("over its bound" in warning for warning in warnings.heard)


def test_where_it_is_not_known_what_serves_nothing_goes(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB, MIB)
    ensure(place.repository(), 1)
    warnings = Warnings()

    def unknown() -> frozenset[tuple[ModelName, VersionNumber]]:
        raise DatabaseBusyError("the lineage database is locked")

    ensure(place.repository(days=10, max_bytes=MIB, held=unknown), 2, warnings)

    assert place.cached() == [1, 2]
    assert any("nothing is evicted" in warning for warning in warnings.heard)


def test_what_was_asked_for_just_now_is_not_evicted(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB, MIB)

    warnings = Warnings()

    for version in (1, 2):
        ensure(place.repository(max_bytes=MIB), version, warnings)

    assert place.cached() == [1, 2]
    assert warnings.heard
    assert all(warning.endswith("or was asked for within the last 15 minutes") for warning in warnings.heard)


def test_an_evicted_version_leaves_the_files_that_others_share(place: Place, tmp_path: Path) -> None:
    shared = os.urandom(MIB)
    for number in (1, 2):
        export = write_export(tmp_path / f"{number}", {"saved_model.pb": shared, "own": os.urandom(MIB)})
        publish(place.repository(), DIGITS, export)
        ensure(place.repository(days=number), number)
    publish_sizes(place.repository(), tmp_path, MIB)

    ensure(place.repository(days=10, max_bytes=3 * MIB), 3)

    assert place.cached() == [2, 3]
    assert (place.directory / DIGITS / "2" / "saved_model.pb").read_bytes() == shared


def test_a_damaged_copy_is_fetched_again(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB)
    path = ensure(place.repository(), 1)
    content = (path / "saved_model.pb").read_bytes()
    (path / "saved_model.pb").chmod(0o644)
    (path / "saved_model.pb").write_bytes(b"x" + content[1:])
    warnings = Warnings()

    place.repository().ensure_local(DIGITS, VersionNumber(1), warnings, rehash=True)

    assert (path / "saved_model.pb").read_bytes() == content
    assert any("damaged in the cache" in warning for warning in warnings.heard)


def test_many_who_want_the_same_version_fetch_it_once(bucket: Bucket, proxy: Proxy, tmp_path: Path) -> None:
    files = {**SMALL_EXPORT, "large": os.urandom(20 * MIB)}
    publish(bucket.repository(tmp_path / "own"), DIGITS, write_export(tmp_path / "export", files))

    def fetch(_: int) -> bytes:
        behind = bucket.repository(tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path")
        return (ensure(behind, 1) / "large").read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(fetch, range(6))) == {files["large"]}

    assert ranges(proxy, "/large") == 3


def test_who_waits_too_long_for_another_fetch_is_told(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB)
    started, ended = threading.Event(), threading.Event()

    class Slow(Observer):
        def progress(self, done_bytes: int, total_bytes: int) -> None:
            started.set()
            ended.wait(10)

    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(ensure, place.repository(), 1, Slow())
        assert started.wait(10)
        with pytest.raises(LockedError, match="digits@1 is still locked") as caught:
            ensure(place.repository(lock_timeout_s=0.05), 1)
        ended.set()
        fetching.result()

    assert caught.value.hint is not None
    assert caught.value.hint.startswith("fuser -v ")


def test_what_was_left_of_a_fetch_goes_after_a_day(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, MIB)
    ensure(place.repository(), 1)
    part = place.directory / ".deployctl" / "files" / "00" / f"{'0' * 64}.part"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"half")

    assert place.repository(days=-30).leftovers() == ()
    days = (SystemClock().now() - NOW).days + 2

    assert place.repository(days=days).discard_leftovers() == (str(part),)
    assert not part.exists()
    assert place.cached() == [1]


@pytest.mark.parametrize(
    "name", ["../../escaped", "/etc/escaped", "a/../../escaped", "assets.extra/deployctl/manifest.json"]
)
def test_a_manifest_that_names_files_elsewhere_is_refused(place: Place, tmp_path: Path, name: str) -> None:
    publish_sizes(place.repository(), tmp_path, 1)
    place.rewrite_manifest(path=name)

    with pytest.raises(ManifestError, match="names"):
        ensure(place.repository(), 1)

    assert not any(tmp_path.rglob("escaped"))


def test_a_version_that_there_is_no_room_for_is_not_begun(place: Place, tmp_path: Path) -> None:
    publish_sizes(place.repository(), tmp_path, 1)
    place.rewrite_manifest(size=1 << 60)

    with pytest.raises(DiskFullError, match="has room for"):
        ensure(place.repository(), 1)


def test_manifests_are_read_once_for_as_long_as_the_listing_shows_the_same(
    bucket: Bucket, proxy: Proxy, tmp_path: Path
) -> None:
    publish_sizes(bucket.repository(tmp_path / "own"), tmp_path, 1, 2)

    for _ in range(2):
        behind = bucket.repository(tmp_path / "cache", endpoint_url=proxy.endpoint, addressing="path")
        for version in behind.versions(DIGITS):
            assert behind.manifest(DIGITS, version) is not None

    assert ranges(proxy, ".deployctl/manifests/digits/") == 2
    assert sum("list-type" in request for request in proxy.requests) == 2
