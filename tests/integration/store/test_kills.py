"""Publishers and fetchers of an object store as real processes: many at once, and killed at any moment.

DEPLOYCTL_STORE_KILLS says how many are killed of each; `make soak-store` kills a hundred.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployctl.domain.clock import Observer
from deployctl.repository.s3 import S3ModelRepository
from tests.support.repository import DIGITS, SMALL_EXPORT, publish, write_export
from tests.support.s3 import Bucket
from tests.support.store_worker import Worker, running_worker

KILLS = int(os.environ.get("DEPLOYCTL_STORE_KILLS") or 12)
pytestmark = pytest.mark.timeout(60 + 10 * KILLS)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def worker(bucket: Bucket, cache: Path) -> Iterator[Worker]:
    with running_worker(bucket, cache) as worker:
        yield worker


@pytest.fixture
def repository(bucket: Bucket, tmp_path: Path) -> S3ModelRepository:
    """The same repository for whoever looks at it, with a cache of its own."""
    return bucket.repository(tmp_path / "own-cache")


def files(seed: int) -> dict[str, bytes]:
    """An export with a file that goes in parts and some that do not."""
    source = random.Random(seed)
    shards = {f"variables/shard-{n}": source.randbytes(64 << 10) for n in range(6)}
    return {**SMALL_EXPORT, **shards, "variables/large": source.randbytes(17 << 20)}


def changed(export: Path, *words: object) -> Path:
    """Makes other bytes of an export."""
    (export / "assets" / "vocabulary.txt").write_text(" ".join(map(str, words)))
    return export


def take_half_of_it_away(version: Path) -> None:
    """Takes a version out of a cache, and every other file of it, so that the next fetch has something to do."""
    shutil.rmtree(version)
    stored = sorted(path for path in (version.parents[1] / ".deployctl" / "files").rglob("*") if path.is_file())
    for path in stored[::2]:
        path.unlink()


def test_sixteen_publishers_get_sixteen_consecutive_numbers(
    worker: Worker, repository: S3ModelRepository, tmp_path: Path
) -> None:
    exports = [write_export(tmp_path / f"{n}", {**SMALL_EXPORT, "n": bytes([n])}) for n in range(16)]

    outcomes = worker.publish(exports)

    assert [outcome.error for outcome in outcomes] == [""] * 16
    assert sorted(outcome.version or 0 for outcome in outcomes) == list(range(1, 17))
    assert repository.versions(DIGITS) == tuple(range(1, 17))
    for version in repository.versions(DIGITS):
        repository.ensure_local(DIGITS, version, Observer())
    assert repository.leftovers() == ()


def test_sixteen_publishers_of_the_same_bytes_make_one_version(
    worker: Worker, repository: S3ModelRepository, tmp_path: Path
) -> None:
    outcomes = worker.publish([write_export(tmp_path / "export")] * 16)

    assert [outcome.error for outcome in outcomes] == [""] * 16
    assert {outcome.version for outcome in outcomes} == {1}
    assert repository.versions(DIGITS) == (1,)


def test_publishers_that_are_killed_leave_no_half_version(
    worker: Worker, repository: S3ModelRepository, bucket: Bucket, tmp_path: Path
) -> None:
    export = write_export(tmp_path / "export", files(0))
    unhurried = min(worker.publish([changed(export, "warm up", n)])[0].seconds for n in range(3))
    delays = random.Random(412)
    killed = 0

    for attempt in range(KILLS):
        outcome = worker.publish([changed(export, "attempt", attempt)], kill_after_s=delays.uniform(0, unhurried))[0]
        killed += outcome.killed
        # One that was done first tells how long it takes now.
        unhurried = unhurried if outcome.killed else outcome.seconds
        assert repository.strays() == ()

    assert killed >= KILLS // 4
    for version in repository.versions(DIGITS):
        manifest = repository.manifest(DIGITS, version)
        assert manifest is not None
        assert repository.verify(manifest, Observer()) == ()
    # A server's cache, too, is only ever given whole versions; and the next publishing works.
    assert publish(repository, DIGITS, changed(export, "after all")).created
    repository.discard_leftovers()
    assert repository.leftovers() == ()
    assert bucket.keys(".deployctl/claims/") == []
    whole = {str(version) for version in repository.versions(DIGITS)}
    assert {key.split("/")[1] for key in bucket.keys("digits/")} == whole


def test_a_publisher_that_was_killed_does_not_bar_the_same_bytes(
    worker: Worker, repository: S3ModelRepository, tmp_path: Path
) -> None:
    export = write_export(tmp_path / "export", files(1))
    delay = 0.05
    while not repository.leftovers():
        worker.publish([export], kill_after_s=delay)
        delay += 0.02

    outcome = worker.publish([export])[0]

    assert outcome.error == ""
    assert outcome.seconds < 30
    assert repository.versions(DIGITS) == (outcome.version,)


def test_fetchers_that_are_killed_leave_no_half_version_and_the_next_goes_on(
    worker: Worker, repository: S3ModelRepository, cache: Path, tmp_path: Path
) -> None:
    contents = files(2)
    publish(repository, DIGITS, write_export(tmp_path / "export", contents))
    version = cache / DIGITS / "1"
    unhurried = worker.fetch(1).seconds
    delays = random.Random(412)
    killed = 0

    for _ in range(KILLS):
        if version.exists():
            take_half_of_it_away(version)
        outcome = worker.fetch(1, kill_after_s=delays.uniform(0, unhurried))
        killed += outcome.killed
        unhurried = unhurried if outcome.killed else outcome.seconds
        # What a server would find there is whole, or nothing.
        if version.exists():
            assert {name: (version / name).read_bytes() for name in contents} == contents

    assert killed >= KILLS // 4
    assert worker.fetch(1).error == ""
    assert {name: (version / name).read_bytes() for name in contents} == contents
