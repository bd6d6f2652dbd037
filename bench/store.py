"""A repository in an object store, beside `aws s3 cp --recursive` with the same store in the same run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.measurement import Measurement, UnavailableError, compare, run_command, seconds
from bench.project import scratch_directory
from deployctl.domain.clock import Observer
from deployctl.domain.manifest import Manifest, Provenance, to_json
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.repository.interface import Numbering, StagedVersion
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_session import S3Options

_PAIRS = 3
_BLOCK = 16 << 20
_LARGE_BYTES = int(os.environ.get("DEPLOYCTL_BENCH_STORE_MIB") or 1024) << 20
_SMALL_FILES, _SMALL_BYTES = 1000, 4096
_MODELS, _VERSIONS = 1000, 20
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
_MODEL = ModelName("bench")


@dataclass(frozen=True, slots=True)
class _Shop:
    """A store with an empty bucket, and what is to be kept there."""

    endpoint: str
    directory: Path
    aws: str

    @property
    def environment(self) -> Mapping[str, str]:
        return _CREDENTIALS | {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}


def run() -> list[Measurement]:
    """Measures large files, then small ones, both ways; then listing."""
    aws = shutil.which("aws") or str(Path(sys.executable).with_name("aws"))
    if not _works(aws):
        raise UnavailableError("there is no aws command: pip install awscli")
    try:
        import boto3  # noqa: F401
        import ministack  # type: ignore[import-untyped] # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"{error.name} is not installed") from error
    measured = []
    large, small = f"{_LARGE_BYTES / 2**30:.3g} GiB in 8 files", f"{_SMALL_FILES:,} small files"
    with _shop(aws) as shop:
        measured += _measure(shop, large, 8, _LARGE_BYTES // 8, budget=1.0)
    with _shop(aws) as shop:
        measured += _measure(shop, small, _SMALL_FILES, _SMALL_BYTES, budget=0.5)
    with _shop(aws) as shop:
        measured.append(_measure_listing(shop))
    return measured


def _works(aws: str) -> bool:
    try:
        return not subprocess.run([aws, "--version"], capture_output=True, check=False, timeout=60).returncode
    except OSError:
        return False


@contextmanager
def _shop(aws: str) -> Iterator[_Shop]:
    # Not above: the programs that are measured are of this module too, and users have no pytest to import.
    from tests.support.s3 import make_bucket, running_store

    with scratch_directory() as directory:
        (directory / "store").mkdir()
        with running_store(directory / "store") as endpoint:
            before = dict(os.environ)
            os.environ.update(_CREDENTIALS)
            try:
                make_bucket(endpoint, "bench")
                yield _Shop(endpoint, directory, aws)
            finally:
                os.environ.clear()
                os.environ.update(before)


def _measure(shop: _Shop, what: str, files: int, size: int, *, budget: float) -> list[Measurement]:
    """Measures putting there, and then fetching what the last turn put there."""
    export = shop.directory / "export"
    put = compare(
        f"S3 publish, {what}",
        lambda: _publish(shop, _written(export, files, size)),
        lambda: _copy_up(shop, _written(export, files, size)),
        than="aws s3 cp",
        budget=budget,
        pairs=_PAIRS,
        note="hashed, with a manifest",
    )
    fetched = compare(
        f"S3 fetch, {what}",
        lambda: _fetch(shop),
        lambda: _copy_down(shop),
        than="aws s3 cp",
        budget=budget,
        pairs=_PAIRS,
        note="verified and durable",
    )
    return [put, fetched]


def _written(export: Path, files: int, size: int) -> Path:
    """Writes other random bytes, so that nothing has been published before."""
    shutil.rmtree(export, ignore_errors=True)
    (export / "variables").mkdir(parents=True)
    for index in range(files):
        with open(export / "variables" / f"shard-{index:05}", "wb") as file:
            for start in range(0, size, _BLOCK):
                file.write(os.urandom(min(_BLOCK, size - start)))
    os.sync()
    return export


def _program(shop: _Shop, verb: str, *words: str) -> float:
    """Runs ours as a process of its own, as the other is."""
    command = [sys.executable, "-m", "bench.store", verb, *words]
    return run_command(command, environment=shop.environment)


def _publish(shop: _Shop, export: Path) -> float:
    _empty(shop, "models/")
    return _program(shop, "publish", str(export))


def _fetch(shop: _Shop) -> float:
    cache = shop.directory / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.sync()
    return _program(shop, "fetch", str(cache))


def _empty(shop: _Shop, prefix: str) -> None:
    """Removes what an earlier turn put there: the store keeps it in memory."""
    from tests.support.s3 import make_client

    client = make_client(shop.endpoint)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bench", Prefix=prefix):
        for each in page.get("Contents", ()):
            client.delete_object(Bucket="bench", Key=each["Key"])


def _copy_up(shop: _Shop, export: Path) -> float:
    _empty(shop, "copy/")
    command = [shop.aws, "s3", "cp", "--recursive", "--only-show-errors", str(export), "s3://bench/copy"]
    return run_command(command, environment=shop.environment)


def _copy_down(shop: _Shop) -> float:
    target = shop.directory / "copy"
    shutil.rmtree(target, ignore_errors=True)
    os.sync()
    command = [shop.aws, "s3", "cp", "--recursive", "--only-show-errors", "s3://bench/copy", str(target)]
    return run_command(command, environment=shop.environment) + seconds(lambda: _sync(target))


def _sync(directory: Path) -> None:
    run_command(["sync", "-f", str(directory)])


def _measure_listing(shop: _Shop) -> Measurement:
    _program(shop, "fill")
    took = [_program(shop, "list") for _ in range(_PAIRS)]
    name = f"S3 listing, {_MODELS:,} models x {_VERSIONS}"
    return Measurement(name, ours_s=median(took), budget=2.0, note="from the start of the process")


def _main(verb: str, *words: str) -> None:
    """Does one thing as a process of its own."""
    from deployctl.repository.cache import CacheOptions, VersionCache
    from deployctl.repository.s3 import S3ModelRepository
    from deployctl.system import SystemClock

    store = S3Store(S3Options("bench", "models", os.environ["AWS_ENDPOINT_URL"], "us-east-1"))
    cache = Path(words[0]) if verb == "fetch" else Path(os.devnull)
    repository = S3ModelRepository(store, VersionCache(CacheOptions(cache), SystemClock(), frozenset), SystemClock())
    match verb:
        case "publish":
            with repository.stage(_MODEL, Path(words[0]), Observer()) as staged:
                repository.commit(
                    staged,
                    lambda version: _manifest(staged, version),
                    numbering=Numbering.SEQUENTIAL,
                    allow_duplicate=False,
                )
        case "fetch":
            repository.ensure_local(_MODEL, repository.versions(_MODEL)[-1], Observer())
        case "fill":
            _fill(store)
        case "list":
            listed = repository.catalogue()
            if len(listed) != _MODELS or {len(versions) for versions in listed.values()} != {_VERSIONS}:
                raise RuntimeError("not all versions are listed")


def _fill(store: S3Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from deployctl.repository.s3_keys import manifest_key

    manifest = Manifest(_MODEL, VersionNumber(1), (), {}, {}, Provenance(), datetime.now(UTC), "bench")
    body = to_json(manifest).encode()
    keys = [
        manifest_key(ModelName(f"model-{model:04}"), VersionNumber(version + 1))
        for model in range(_MODELS)
        for version in range(_VERSIONS)
    ]
    with ThreadPoolExecutor(store.options.connections) as pool:
        list(pool.map(lambda key: store.put_file(key, body), keys))


def _manifest(staged: StagedVersion, version: VersionNumber) -> Manifest:
    return Manifest(staged.model, version, staged.files, {}, {}, Provenance(), datetime.now(UTC), "bench")


if __name__ == "__main__":
    _main(*sys.argv[1:])
