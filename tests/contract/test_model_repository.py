"""What every ModelRepository does, whatever it stores versions in."""

from __future__ import annotations

import abc
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployctl.domain.clock import Clock, Observer
from deployctl.domain.manifest import MANIFEST_PATH, Manifest
from deployctl.domain.names import VersionNumber
from deployctl.errors import (
    ExportChangedError,
    ManifestError,
    StorageError,
    UnreadableExportError,
    UnsafeExportError,
    VersionNotFoundError,
    VersionNumbersExhaustedError,
    VersionTakenError,
)
from deployctl.repository.interface import Committed, FileProblem, ModelRepository, Numbering, Stray
from deployctl.repository.local import LocalModelRepository
from deployctl.system import SystemClock
from tests.support.repository import (
    DIGITS,
    RANKER,
    SMALL_EXPORT,
    WallClock,
    commit,
    deep_directory,
    describe,
    publish,
    write_export,
)
from tests.support.s3 import Bucket


class Storage(abc.ABC):
    """What versions are stored in, past the code under test, as whoever may write there sees it."""

    @abc.abstractmethod
    def repository(self, clock: Clock) -> ModelRepository:
        """Returns the repository that is kept here."""

    @abc.abstractmethod
    def put(self, path: str, content: bytes) -> None:
        """Writes a file below the model base path."""

    @abc.abstractmethod
    def remove(self, path: str) -> None:
        """Removes a file."""

    @abc.abstractmethod
    def read(self, version: str) -> dict[str, bytes]:
        """Returns the files of MODEL/VERSION, without its manifest."""

    @abc.abstractmethod
    def manifest_path(self, version: int) -> str:
        """Returns where the manifest of a version of `digits` is."""


class LocalStorage(Storage):
    """A directory."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def repository(self, clock: Clock) -> ModelRepository:
        return LocalModelRepository(self.base, clock)

    def put(self, path: str, content: bytes) -> None:
        (self.base / path).parent.mkdir(parents=True, exist_ok=True)
        (self.base / path).write_bytes(content)

    def remove(self, path: str) -> None:
        (self.base / path).unlink()

    def read(self, version: str) -> dict[str, bytes]:
        return contents(self.base / version)

    def manifest_path(self, version: int) -> str:
        return f"digits/{version}/{MANIFEST_PATH}"


class S3Storage(Storage):
    """A bucket, with a cache on this machine."""

    def __init__(self, bucket: Bucket, cache: Path) -> None:
        self.bucket = bucket
        self.cache = cache

    def repository(self, clock: Clock) -> ModelRepository:
        return self.bucket.repository(self.cache, clock)

    def put(self, path: str, content: bytes) -> None:
        self.bucket.put(path, content)

    def remove(self, path: str) -> None:
        self.bucket.remove(path)

    def read(self, version: str) -> dict[str, bytes]:
        keys = [key for key in self.bucket.keys(f"{version}/") if not key.endswith(MANIFEST_PATH)]
        return {key.removeprefix(f"{version}/"): self.bucket.read(key) for key in keys}

    def manifest_path(self, version: int) -> str:
        return f".deployctl/manifests/digits/{version}.json"


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return S3Storage(request.getfixturevalue("bucket"), tmp_path / "cache")
    (tmp_path / "models").mkdir()
    return LocalStorage(tmp_path / "models")


@pytest.fixture
def repository(storage: Storage) -> ModelRepository:
    return storage.repository(SystemClock())


@pytest.fixture
def directory_repository(tmp_path: Path) -> ModelRepository:
    """For what only a directory can hold, or only a server that polls one would read."""
    (tmp_path / "models").mkdir()
    return LocalModelRepository(tmp_path / "models", SystemClock())


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "export")


class Progress(Observer):
    """Records what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.heard.append((done_bytes, total_bytes))


def exports(directory: Path, count: int) -> list[Path]:
    """Writes `count` exports of different bytes."""
    return [
        write_export(directory / f"export-{index}", {**SMALL_EXPORT, "weights": bytes([index])})
        for index in range(count)
    ]


def contents(directory: Path) -> dict[str, bytes]:
    """Returns every file below `directory` but the manifest."""
    files = {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    files.pop(MANIFEST_PATH, None)
    return files


# Publishing


def test_a_committed_version_holds_the_bytes_of_the_export(
    storage: Storage, repository: ModelRepository, export: Path
) -> None:
    committed = publish(repository, DIGITS, export)

    assert committed.created
    assert committed.manifest.version == 1
    assert storage.read("digits/1") == SMALL_EXPORT


def test_a_version_that_is_made_local_holds_the_bytes_of_the_export(repository: ModelRepository, export: Path) -> None:
    publish(repository, DIGITS, export)

    path = repository.ensure_local(DIGITS, VersionNumber(1), Observer())

    assert contents(path) == SMALL_EXPORT
    assert path == repository.local_path(DIGITS, VersionNumber(1)) == repository.base_path(DIGITS) / "1"
    assert repository.is_local(DIGITS, VersionNumber(1))
    assert repository.ensure_local(DIGITS, VersionNumber(1), Observer(), rehash=True) == path


def test_a_version_that_is_not_there_cannot_be_made_local(repository: ModelRepository) -> None:
    assert not repository.is_local(DIGITS, VersionNumber(1))
    with pytest.raises(VersionNotFoundError):
        repository.ensure_local(DIGITS, VersionNumber(1), Observer())


def test_the_catalogue_has_the_versions_of_every_model(repository: ModelRepository, tmp_path: Path) -> None:
    assert repository.catalogue() == {}
    for export in exports(tmp_path, 2):
        publish(repository, RANKER, export)
    publish(repository, DIGITS, tmp_path / "export-0")

    assert list(repository.catalogue().items()) == [(DIGITS, (1,)), (RANKER, (1, 2))]


def test_the_manifest_is_the_one_that_was_committed(repository: ModelRepository, export: Path) -> None:
    committed = publish(repository, DIGITS, export)

    assert repository.manifest(DIGITS, VersionNumber(1)) == committed.manifest


def test_a_staged_export_is_not_listed_before_its_commit(repository: ModelRepository, export: Path) -> None:
    with repository.stage(DIGITS, export, Observer()) as staged:
        assert repository.versions(DIGITS) == ()
        assert repository.models() == ()
        assert repository.strays() == ()

        commit(repository, staged)

        assert repository.versions(DIGITS) == (1,)


def test_a_staged_export_that_is_not_committed_is_discarded(repository: ModelRepository, export: Path) -> None:
    with repository.stage(DIGITS, export, Observer()) as staged:
        pass

    assert repository.versions(DIGITS) == ()
    assert repository.leftovers() == ()
    with pytest.raises(StorageError):
        commit(repository, staged)


def test_a_staged_export_is_discarded_when_the_user_interrupts(repository: ModelRepository, export: Path) -> None:
    with pytest.raises(KeyboardInterrupt), repository.stage(DIGITS, export, Observer()):
        raise KeyboardInterrupt

    assert repository.versions(DIGITS) == ()
    assert repository.leftovers() == ()


def test_a_staging_that_is_under_way_is_no_leftover(repository: ModelRepository, export: Path) -> None:
    with repository.stage(DIGITS, export, Observer()) as staged:
        assert repository.leftovers() == ()
        assert repository.discard_leftovers() == ()

        commit(repository, staged)

    assert repository.versions(DIGITS) == (1,)


def test_the_digest_does_not_depend_on_model_or_number(repository: ModelRepository, export: Path) -> None:
    first = publish(repository, DIGITS, export)
    second = publish(repository, DIGITS, export, allow_duplicate=True)
    third = publish(repository, RANKER, export)

    assert second.manifest.version == 2
    assert first.manifest.digest == second.manifest.digest == third.manifest.digest


def test_the_same_bytes_again_give_the_version_that_has_them(repository: ModelRepository, tmp_path: Path) -> None:
    first, second = exports(tmp_path, 2)
    publish(repository, DIGITS, first)
    publish(repository, DIGITS, second)

    again = publish(repository, DIGITS, first)

    assert not again.created
    assert again.manifest.version == 1
    assert repository.versions(DIGITS) == (1, 2)


def test_the_same_bytes_are_another_version_of_another_model(repository: ModelRepository, export: Path) -> None:
    publish(repository, DIGITS, export)

    assert publish(repository, RANKER, export).created
    assert repository.models() == (DIGITS, RANKER)


def test_a_published_version_published_again_is_the_same_bytes(repository: ModelRepository, export: Path) -> None:
    first = publish(repository, DIGITS, export)

    again = publish(repository, DIGITS, repository.ensure_local(DIGITS, VersionNumber(1), Observer()))

    assert not again.created
    assert again.manifest == first.manifest


def test_concurrent_publishers_get_consecutive_numbers(repository: ModelRepository, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        committed = list(pool.map(lambda export: publish(repository, DIGITS, export), exports(tmp_path, 8)))

    assert sorted(each.manifest.version for each in committed) == list(range(1, 9))
    assert all(repository.verify(each.manifest, Observer()) == () for each in committed)


def test_concurrent_publishers_of_the_same_bytes_make_one_version(repository: ModelRepository, export: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        committed = list(pool.map(lambda _: publish(repository, DIGITS, export), range(8)))

    assert sum(each.created for each in committed) == 1
    assert {each.manifest.version for each in committed} == {1}


def test_a_timestamp_number_is_the_time_in_seconds(storage: Storage, export: Path) -> None:
    repository = storage.repository(WallClock(datetime(2026, 11, 21, tzinfo=UTC)))

    committed = publish(repository, DIGITS, export, numbering=Numbering.TIMESTAMP)

    assert committed.manifest.version == int(datetime(2026, 11, 21, tzinfo=UTC).timestamp())


def test_a_timestamp_number_never_falls_below_an_earlier_one(storage: Storage, tmp_path: Path) -> None:
    first, second, third = exports(tmp_path, 3)
    publish(
        storage.repository(WallClock(datetime(2030, 1, 1, tzinfo=UTC))), DIGITS, first, numbering=Numbering.TIMESTAMP
    )
    late = storage.repository(WallClock(datetime(2026, 1, 1, tzinfo=UTC)))

    timestamp = publish(late, DIGITS, second, numbering=Numbering.TIMESTAMP)
    sequential = publish(late, DIGITS, third)

    highest = int(datetime(2030, 1, 1, tzinfo=UTC).timestamp())
    assert [timestamp.manifest.version, sequential.manifest.version] == [highest + 1, highest + 2]


def test_progress_grows_to_all_bytes(repository: ModelRepository, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", {"saved_model.pb": b"g", "variables/data": bytes(5 << 20)})
    progress = Progress()

    with repository.stage(DIGITS, export, progress):
        pass

    total = (5 << 20) + 1
    assert progress.heard == sorted(progress.heard)
    assert progress.heard[-1] == (total, total)


# Copies of other repositories' versions, and numbers that are asked for


@pytest.fixture(params=["a directory", "another store", "the same store"])
def origin(request: pytest.FixtureRequest, storage: Storage, tmp_path: Path) -> ModelRepository:
    """A repository to copy from."""
    if request.param == "a directory":
        (tmp_path / "origin").mkdir()
        return LocalModelRepository(tmp_path / "origin", SystemClock())
    bucket: Bucket = request.getfixturevalue("bucket")
    if request.param == "the same store":
        return bucket.repository(tmp_path / "origin-cache", prefix="origin")
    # By another name it is another store, as far as can be told.
    endpoint = bucket.endpoint.replace("127.0.0.1", "localhost")
    return bucket.repository(tmp_path / "origin-cache", prefix="origin", endpoint_url=endpoint, addressing="path")


def copied(repository: ModelRepository, manifest: Manifest, origin: ModelRepository, number: int | None) -> Committed:
    wanted = None if number is None else VersionNumber(number)
    with repository.stage_version(RANKER, manifest, origin, Observer()) as staged:
        return repository.commit(
            staged,
            lambda version: replace(manifest, model=RANKER, version=version),
            numbering=Numbering.SEQUENTIAL,
            allow_duplicate=number is not None,
            number=wanted,
        )


@pytest.mark.parametrize("number", [None, 7])
def test_a_copy_has_the_bytes_and_the_digest_of_the_original(
    storage: Storage, repository: ModelRepository, origin: ModelRepository, tmp_path: Path, number: int | None
) -> None:
    files = {**SMALL_EXPORT, "variables/large": os.urandom(9 << 20), "a name with + and %20": b"x", "empty": b""}
    manifest = publish(origin, DIGITS, write_export(tmp_path / "export", files)).manifest

    committed = copied(repository, manifest, origin, number)

    assert committed.created
    assert committed.manifest.version == (number or 1)
    assert committed.manifest.digest == manifest.digest
    assert storage.read(f"ranker/{number or 1}") == files
    assert repository.verify(committed.manifest, Observer()) == ()
    assert not copied(repository, manifest, origin, None).created


def test_a_version_that_is_damaged_is_not_copied(
    repository: ModelRepository, origin: ModelRepository, export: Path, request: pytest.FixtureRequest
) -> None:
    manifest = publish(origin, DIGITS, export).manifest
    if isinstance(origin, LocalModelRepository):
        (origin.base_path(DIGITS) / "1" / "saved_model.pb").write_bytes(b"grape, not graph")
    else:
        bucket: Bucket = request.getfixturevalue("bucket")
        key = "origin/digits/1/saved_model.pb"
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"grape, not graph")

    with pytest.raises((ManifestError, StorageError)):
        copied(repository, manifest, origin, None)

    assert repository.versions(RANKER) == ()


def test_a_number_that_is_taken_is_not_given_again(
    storage: Storage, repository: ModelRepository, export: Path, tmp_path: Path
) -> None:
    publish(repository, DIGITS, export)
    storage.put("digits/5/other", b"")
    other = write_export(tmp_path / "other", {"saved_model.pb": b"other"})

    for number in (1, 5):
        with repository.stage(DIGITS, other, Observer()) as staged, pytest.raises(VersionTakenError):
            repository.commit(
                staged,
                describe(DIGITS, staged.files),
                numbering=Numbering.SEQUENTIAL,
                allow_duplicate=True,
                number=VersionNumber(number),
            )

    assert repository.versions(DIGITS) == (1,)
    assert publish(repository, DIGITS, other).manifest.version == 6


# What is refused


def test_a_symlink_inside_the_export_becomes_a_copy(repository: ModelRepository, export: Path) -> None:
    (export / "assets" / "alias.txt").symlink_to("vocabulary.txt")
    (export / "more").symlink_to(export / "assets")

    publish(repository, DIGITS, export)

    version = repository.ensure_local(DIGITS, VersionNumber(1), Observer())
    assert contents(version)["assets/alias.txt"] == b"a\nb\n"
    assert contents(version)["more/alias.txt"] == b"a\nb\n"
    assert not any(path.is_symlink() for path in version.rglob("*"))


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "assets/../../outside", "chain", "/etc", "..", "."])
def test_refuses_a_symlink_that_leaves_the_export_or_contains_itself(
    repository: ModelRepository, export: Path, target: str
) -> None:
    (export.parent / "outside").write_bytes(b"secret")
    (export / "chain").symlink_to("assets/link")
    (export / "assets" / "link").symlink_to(export.parent / "outside")
    (export / "escape").symlink_to(target)

    with pytest.raises(UnsafeExportError), repository.stage(DIGITS, export, Observer()):
        pass

    assert repository.models() == ()


def test_refuses_a_symlink_to_nothing(repository: ModelRepository, export: Path) -> None:
    (export / "dangling").symlink_to("nowhere")

    with pytest.raises(UnsafeExportError, match="'dangling' is a symlink to nothing"):
        repository.stage(DIGITS, export, Observer()).__enter__()


def test_refuses_symlinks_that_go_round_in_a_circle(repository: ModelRepository, export: Path) -> None:
    (export / "a").symlink_to("b")
    (export / "b").symlink_to("a")

    with pytest.raises(UnsafeExportError, match="'a'"):
        repository.stage(DIGITS, export, Observer()).__enter__()


def test_refuses_a_chain_of_more_symlinks_than_can_be_followed(repository: ModelRepository, export: Path) -> None:
    for number in range(1200):
        (export / f"link-{number:04}").symlink_to(f"link-{number + 1:04}")
    (export / "link-1200").write_bytes(b"x")

    with pytest.raises(UnsafeExportError, match="'link-0000' is a symlink"):
        publish(repository, DIGITS, export)


def test_refuses_directories_that_are_too_deep(repository: ModelRepository, export: Path) -> None:
    with (
        deep_directory(export / "deep", 1200),
        pytest.raises(UnsafeExportError, match="more than 100 directories deep"),
    ):
        publish(repository, DIGITS, export)

    assert repository.versions(DIGITS) == ()


def test_refuses_a_fifo_without_waiting_for_its_writer(repository: ModelRepository, export: Path) -> None:
    os.mkfifo(export / "pipe")

    with pytest.raises(UnsafeExportError, match="'pipe' is a FIFO"):
        repository.stage(DIGITS, export, Observer()).__enter__()


def test_refuses_a_socket(repository: ModelRepository, export: Path) -> None:
    os.mknod(export / "socket", stat.S_IFSOCK | 0o600)

    with pytest.raises(UnsafeExportError, match="'socket' is a socket"):
        repository.stage(DIGITS, export, Observer()).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device nodes")
def test_refuses_a_device(repository: ModelRepository, export: Path) -> None:
    os.mknod(export / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))

    with pytest.raises(UnsafeExportError, match="'zero' is a device"):
        repository.stage(DIGITS, export, Observer()).__enter__()


@pytest.mark.parametrize("name", [b"new\nline", b"\xff\xfe", b"tab\t", b"esc\x1b[0m"])
def test_refuses_a_name_that_a_manifest_cannot_hold(repository: ModelRepository, export: Path, name: bytes) -> None:
    with open(os.path.join(os.fsencode(export), name), "wb"):
        pass

    with pytest.raises(UnsafeExportError, match="has a name"):
        repository.stage(DIGITS, export, Observer()).__enter__()


def test_keeps_names_that_only_look_odd(repository: ModelRepository, tmp_path: Path) -> None:
    files = {
        "saved_model.pb": b"g",
        "assets/a..b": b"1",
        "assets/ü 漢\u3000.txt": b"2",
        "assets/-rf": b"3",
        "7/x": b"4",
    }

    publish(repository, DIGITS, write_export(tmp_path / "export", files))

    assert contents(repository.ensure_local(DIGITS, VersionNumber(1), Observer())) == files


def test_refuses_an_export_that_is_not_there(repository: ModelRepository, tmp_path: Path) -> None:
    with pytest.raises(UnreadableExportError, match="cannot be read"):
        repository.stage(DIGITS, tmp_path / "missing", Observer()).__enter__()


def test_refuses_a_file_as_an_export(repository: ModelRepository, export: Path) -> None:
    with pytest.raises(UnreadableExportError, match="cannot be read"):
        repository.stage(DIGITS, export / "saved_model.pb", Observer()).__enter__()


class Meddling(Observer):
    """Does something as soon as the first bytes have been read."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action: Callable[[], object] | None = action

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        if self.action is not None:
            action, self.action = self.action, None
            action()


@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten", "is replaced", "is removed", "is added"])
def test_refuses_an_export_that_changes_while_it_is_copied(
    repository: ModelRepository, tmp_path: Path, change: str
) -> None:
    export = write_export(tmp_path / "export", {"saved_model.pb": b"graph", "data": bytes(20 << 20)})
    data = export / "data"
    new = write_export(tmp_path, {"new": bytes(20 << 20)}) / "new"
    changes: dict[str, Callable[[], object]] = {
        "grows": lambda: os.truncate(data, 21 << 20),
        "shrinks": lambda: os.truncate(data, 1),
        "is rewritten": lambda: data.write_bytes(b"\1" * (20 << 20)),
        "is replaced": lambda: new.replace(data),
        "is removed": data.unlink,
        "is added": lambda: new.replace(export / "added"),
    }

    with pytest.raises(ExportChangedError, match="changed while it was"):
        repository.stage(DIGITS, export, Meddling(changes[change])).__enter__()

    assert repository.models() == ()
    assert repository.leftovers() == ()


# Reading


def test_a_model_that_was_never_published_has_no_versions(repository: ModelRepository) -> None:
    assert repository.models() == ()
    assert repository.versions(DIGITS) == ()
    with pytest.raises(VersionNotFoundError):
        repository.manifest(DIGITS, VersionNumber(1))
    with pytest.raises(VersionNotFoundError):
        repository.local_path(DIGITS, VersionNumber(1))
    with pytest.raises(VersionNotFoundError):
        repository.entries(DIGITS, VersionNumber(1), Observer())


def test_versions_are_in_the_order_of_their_numbers(repository: ModelRepository, tmp_path: Path) -> None:
    for export in exports(tmp_path, 11):
        publish(repository, DIGITS, export)

    assert repository.versions(DIGITS) == tuple(range(1, 12))


def test_the_entries_are_those_of_the_manifest(repository: ModelRepository, export: Path) -> None:
    committed = publish(repository, DIGITS, export)

    assert repository.entries(DIGITS, VersionNumber(1), Observer()) == committed.manifest.files


def test_a_whole_version_verifies(repository: ModelRepository, export: Path) -> None:
    assert repository.verify(publish(repository, DIGITS, export).manifest, Observer()) == ()


def test_verify_needs_the_version(repository: ModelRepository, export: Path) -> None:
    manifest = publish(repository, DIGITS, export).manifest

    with pytest.raises(VersionNotFoundError):
        repository.verify(replace(manifest, version=VersionNumber(9)), Observer())


def test_the_base_path_holds_the_versions(repository: ModelRepository, export: Path) -> None:
    publish(repository, DIGITS, export)

    base = repository.base_path(DIGITS)
    assert base.is_absolute()
    assert base / "1" == repository.local_path(DIGITS, VersionNumber(1))


# What others put there


def test_verify_names_each_file_that_disagrees(storage: Storage, repository: ModelRepository, export: Path) -> None:
    manifest = publish(repository, DIGITS, export).manifest
    storage.put("digits/1/saved_model.pb", b"grapf")
    storage.put("digits/1/variables/variables.index", b"longer than before")
    storage.remove("digits/1/variables/variables.data-00000-of-00001")
    storage.put("digits/1/added", b"")

    assert repository.verify(manifest, Observer()) == (
        FileProblem("added", "extra"),
        FileProblem("saved_model.pb", "changed"),
        FileProblem("variables/variables.data-00000-of-00001", "missing"),
        FileProblem("variables/variables.index", "changed"),
    )


def test_a_damaged_version_does_not_stand_in_for_the_same_bytes(
    storage: Storage, repository: ModelRepository, export: Path
) -> None:
    publish(repository, DIGITS, export)
    storage.remove("digits/1/variables/variables.index")

    assert publish(repository, DIGITS, export).manifest.version == 2


def put_by_hand(storage: Storage, version: str) -> None:
    for path, content in SMALL_EXPORT.items():
        storage.put(f"{version}/{path}", content)


def test_a_retired_version_is_out_of_sight_and_its_number_is_not_given_again(
    storage: Storage, repository: ModelRepository, tmp_path: Path
) -> None:
    for number in (1, 2):
        publish(repository, DIGITS, write_export(tmp_path / str(number), {"saved_model.pb": b"%d" % number}))
    repository.ensure_local(DIGITS, VersionNumber(2), Observer())
    other = storage.repository(SystemClock())
    assert other.versions(DIGITS) == (1, 2)

    repository.retire(DIGITS, VersionNumber(2))

    for each in (repository, other):
        assert each.versions(DIGITS) == (1,)
        assert each.strays() == ()
        with pytest.raises(VersionNotFoundError):
            each.manifest(DIGITS, VersionNumber(2))
    again = publish(other, DIGITS, tmp_path / "2")
    assert (again.manifest.version, again.created) == (3, True)
    with pytest.raises(VersionNotFoundError):
        repository.retire(DIGITS, VersionNumber(2))


def test_what_was_retired_is_kept_for_a_while(storage: Storage, repository: ModelRepository, export: Path) -> None:
    publish(repository, DIGITS, export)

    repository.retire(DIGITS, VersionNumber(1))

    assert repository.leftovers() == ()
    later = storage.repository(WallClock(datetime.now(UTC) + timedelta(days=8)))
    found = later.leftovers()
    assert len(found) == 1
    assert "retired" in found[0]
    assert later.discard_leftovers() == found
    assert later.leftovers() == ()
    assert storage.read("digits/1") == {}
    assert publish(repository, DIGITS, export).manifest.version == 2


def test_retiring_needs_the_version(repository: ModelRepository, export: Path) -> None:
    publish(repository, DIGITS, export)

    with pytest.raises(VersionNotFoundError):
        repository.retire(DIGITS, VersionNumber(2))


def test_adopting_records_a_manifest_and_changes_nothing_else(storage: Storage, repository: ModelRepository) -> None:
    put_by_hand(storage, "digits/7")

    assert {*repository.versions(DIGITS), *repository.adoptable(DIGITS)} == {7}
    assert repository.manifest(DIGITS, VersionNumber(7)) is None
    manifest = describe(DIGITS, repository.entries(DIGITS, VersionNumber(7), Observer()))(VersionNumber(7))
    repository.adopt(manifest)

    assert repository.versions(DIGITS) == (7,)
    assert repository.adoptable(DIGITS) == ()
    assert repository.manifest(DIGITS, VersionNumber(7)) == manifest
    assert repository.verify(manifest, Observer()) == ()
    assert storage.read("digits/7") == SMALL_EXPORT


def test_adopting_leaves_the_files_as_old_as_they_are(directory_repository: ModelRepository) -> None:
    repository = directory_repository
    version = write_export(repository.base_path(DIGITS) / "7")
    before = {path: path.stat().st_mtime_ns for path in version.rglob("*") if path.is_file()}

    repository.adopt(describe(DIGITS, repository.entries(DIGITS, VersionNumber(7), Observer()))(VersionNumber(7)))

    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_adopting_twice_is_adopting_once(storage: Storage, repository: ModelRepository) -> None:
    put_by_hand(storage, "digits/7")
    manifest = describe(DIGITS, repository.entries(DIGITS, VersionNumber(7), Observer()))(VersionNumber(7))

    repository.adopt(manifest)
    repository.adopt(manifest)

    assert repository.manifest(DIGITS, VersionNumber(7)) == manifest


def test_adopting_refuses_a_manifest_of_other_bytes(repository: ModelRepository, export: Path) -> None:
    manifest = publish(repository, DIGITS, export).manifest

    with pytest.raises(ManifestError, match="already records"):
        repository.adopt(replace(manifest, files=manifest.files[1:]))


def test_adopting_needs_the_version(repository: ModelRepository, export: Path) -> None:
    manifest = publish(repository, DIGITS, export).manifest

    with pytest.raises(VersionNotFoundError):
        repository.adopt(replace(manifest, version=VersionNumber(5)))


def test_an_adopted_version_answers_for_the_same_bytes(
    storage: Storage, repository: ModelRepository, export: Path
) -> None:
    put_by_hand(storage, "digits/7")
    repository.adopt(describe(DIGITS, repository.entries(DIGITS, VersionNumber(7), Observer()))(VersionNumber(7)))

    again = publish(repository, DIGITS, export)

    assert not again.created
    assert again.manifest.version == 7


def test_a_version_copied_by_hand_can_be_adopted_under_its_new_number(
    directory_repository: ModelRepository, export: Path
) -> None:
    repository = directory_repository
    manifest = publish(repository, DIGITS, export).manifest
    repository.local_path(DIGITS, VersionNumber(1)).rename(repository.base_path(DIGITS) / "5")

    with pytest.raises(ManifestError, match="is the manifest of digits@1, not of digits@5"):
        repository.manifest(DIGITS, VersionNumber(5))
    repository.adopt(replace(manifest, version=VersionNumber(5)))

    assert repository.manifest(DIGITS, VersionNumber(5)) == replace(manifest, version=VersionNumber(5))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema": 99}', b"\xff"])
def test_a_manifest_that_cannot_be_read_is_said_to_be_so(
    storage: Storage, repository: ModelRepository, export: Path, content: bytes
) -> None:
    publish(repository, DIGITS, export)
    storage.put(storage.manifest_path(1), content)

    with pytest.raises(ManifestError, match=r"\.json"):
        repository.manifest(DIGITS, VersionNumber(1))
    assert publish(repository, DIGITS, export).manifest.version == 2


def test_an_empty_manifest_cannot_be_read(directory_repository: ModelRepository, export: Path) -> None:
    publish(directory_repository, DIGITS, export)
    (directory_repository.local_path(DIGITS, VersionNumber(1)) / MANIFEST_PATH).write_bytes(b"")

    with pytest.raises(ManifestError, match=r"manifest\.json"):
        directory_repository.manifest(DIGITS, VersionNumber(1))


def test_strays_are_what_a_server_would_take_for_versions(directory_repository: ModelRepository, export: Path) -> None:
    repository = directory_repository
    publish(repository, DIGITS, export)
    base = repository.base_path(DIGITS)
    for name in ("3", "007", "+5", "-4", " 6", "9"):
        write_export(base / name)
    (base / "8").write_bytes(b"")
    (base / "2").mkdir()
    (base / "4").mkdir()
    (base / "4" / "variables").mkdir()
    (base / "10").symlink_to("9")
    for name in ("1_tmp", "1.0", "notes.txt", "9223372036854775808", "7.denied"):
        (base / name).mkdir()

    assert repository.versions(DIGITS) == (1, 3, 9)
    assert repository.strays() == (
        Stray(DIGITS, " 6", "white space"),
        Stray(DIGITS, "+5", "a sign"),
        Stray(DIGITS, "-4", "a sign"),
        Stray(DIGITS, "007", "leading zeros"),
        Stray(DIGITS, "10", "a symlink"),
        Stray(DIGITS, "2", "empty"),
        Stray(DIGITS, "4", "no saved_model.pb"),
        Stray(DIGITS, "8", "a file"),
    )


@pytest.mark.parametrize(
    ("stray", "following"), [("3", 4), ("007", 8), ("+12", 13), (" 6 ", 7), ("-5", 1), ("1.0", 1), ("0", 1)]
)
@pytest.mark.parametrize("kind", ["file", "empty directory"])
def test_the_next_number_is_above_all_that_a_server_would_take(
    directory_repository: ModelRepository, export: Path, stray: str, following: int, kind: str
) -> None:
    repository = directory_repository
    repository.base_path(DIGITS).mkdir(parents=True)
    entry = repository.base_path(DIGITS) / stray
    if kind == "file":
        entry.write_bytes(b"")
    else:
        entry.mkdir()

    assert publish(repository, DIGITS, export).manifest.version == following
    assert entry.is_file() if kind == "file" else not list(entry.iterdir())


@pytest.mark.parametrize(
    ("stray", "following"), [("3", 4), ("007", 8), ("+12", 13), (" 6 ", 7), ("-5", 1), ("1.0", 1), ("0", 1)]
)
def test_the_next_number_is_above_all_files_that_look_like_versions(
    storage: Storage, repository: ModelRepository, export: Path, stray: str, following: int
) -> None:
    storage.put(f"digits/{stray}", b"")

    assert publish(repository, DIGITS, export).manifest.version == following
    assert [each.name for each in repository.strays()] == ([stray] if stray != "1.0" else [])


def test_refuses_to_publish_above_the_highest_number(
    storage: Storage, repository: ModelRepository, export: Path
) -> None:
    put_by_hand(storage, f"digits/{2**63 - 1}")

    with pytest.raises(VersionNumbersExhaustedError, match="9223372036854775807"):
        publish(repository, DIGITS, export)
