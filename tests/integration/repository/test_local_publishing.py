"""Publishing to a local directory by real processes: many at once, killed, and without room."""

from __future__ import annotations

import fcntl
import os
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from deployctl.domain.clock import Observer
from deployctl.errors import DiskFullError, LockedError, StorageError
from deployctl.repository.interface import ModelRepository
from deployctl.repository.local import LocalModelRepository
from deployctl.system import SystemClock
from tests.support.publisher import NOBODY, Publisher, running_publisher
from tests.support.repository import DIGITS, SMALL_EXPORT, publish, write_export

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system or become another user")


@pytest.fixture(scope="module")
def publisher() -> Iterator[Publisher]:
    with running_publisher() as publisher:
        yield publisher


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def repository(base: Path) -> LocalModelRepository:
    return LocalModelRepository(base, SystemClock())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts an empty file system of the given size in bytes, and unmounts it afterwards."""
    mounted: list[Path] = []

    def tmpfs(size: int) -> Path:
        directory = tmp_path / f"mounted-{len(mounted)}"
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
        if subprocess.run(command, capture_output=True, check=False, timeout=30).returncode:
            pytest.skip("this machine allows no mounts")
        mounted.append(directory)
        return directory

    yield tmpfs
    for directory in mounted:
        subprocess.run(["umount", str(directory)], check=True, timeout=30)


@pytest.fixture
def shared_directory() -> Iterator[Path]:
    """A directory that another user may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def different_exports(directory: Path, count: int) -> list[Path]:
    return [write_export(directory / f"export-{n}", {**SMALL_EXPORT, "n": bytes([n])}) for n in range(count)]


def assert_only_whole_versions(repository: ModelRepository) -> None:
    assert repository.strays() == ()
    for version in repository.versions(DIGITS):
        manifest = repository.manifest(DIGITS, version)
        assert manifest is not None
        assert repository.verify(manifest, Observer()) == ()


def test_sixteen_processes_that_publish_different_bytes_get_consecutive_numbers(
    publisher: Publisher, repository: LocalModelRepository, base: Path, tmp_path: Path
) -> None:
    outcomes = publisher.publish(base, different_exports(tmp_path, 16))

    assert [outcome.message for outcome in outcomes] == [""] * 16
    assert sorted(outcome.version or 0 for outcome in outcomes) == list(range(1, 17))
    assert repository.versions(DIGITS) == tuple(range(1, 17))
    assert_only_whole_versions(repository)
    assert repository.leftovers() == ()


def test_sixteen_processes_that_publish_the_same_bytes_make_one_version(
    publisher: Publisher, repository: LocalModelRepository, base: Path, tmp_path: Path
) -> None:
    outcomes = publisher.publish(base, [write_export(tmp_path / "export")] * 16)

    assert {outcome.version for outcome in outcomes} == {1}
    assert sum(outcome.created for outcome in outcomes) == 1
    assert repository.versions(DIGITS) == (1,)


def test_two_hundred_kills_leave_no_partial_version(
    publisher: Publisher, repository: LocalModelRepository, base: Path, tmp_path: Path
) -> None:
    files = {f"variables/shard-{n}": os.urandom(256 << 10) for n in range(8)}
    export = write_export(tmp_path / "export", {**SMALL_EXPORT, **files})
    counter = export / "assets" / "counter"
    counter.write_bytes(b"warm up")
    unhurried = median(publisher.publish(base, [export])[0].seconds for _ in range(5))
    delays = random.Random(412)
    killed = 0

    for attempt in range(200):
        counter.write_bytes(str(attempt).encode())
        outcome = publisher.publish(base, [export], kill_after_s=delays.uniform(0, unhurried))[0]
        killed += outcome.killed
        # One that was done first tells how long it takes now.
        unhurried = unhurried if outcome.killed else outcome.seconds
        assert repository.strays() == ()

    assert killed >= 50
    assert_only_whole_versions(repository)
    # Each publishing removed what the one before it had left.
    assert len(repository.leftovers()) <= 1
    counter.write_bytes(b"after all")
    next_number = max(repository.versions(DIGITS)) + 1
    assert publish(repository, DIGITS, export).manifest.version == next_number
    assert repository.leftovers() == ()
    assert list((base / "digits" / ".deployctl" / "staging").iterdir()) == []
    assert_only_whole_versions(repository)


def test_the_next_publishing_removes_what_a_killed_one_left(
    publisher: Publisher, repository: LocalModelRepository, base: Path, tmp_path: Path
) -> None:
    large = write_export(tmp_path / "large", {**SMALL_EXPORT, "data": os.urandom(64 << 20)})
    delays = (0.01 * attempt for attempt in range(1, 50))
    assert any(publisher.publish(base, [large], kill_after_s=delay) and repository.leftovers() for delay in delays)

    publish(repository, DIGITS, write_export(tmp_path / "export"))

    assert repository.leftovers() == ()


def test_a_limit_on_file_sizes_is_told_as_a_full_disk_and_leaves_nothing(
    publisher: Publisher, repository: LocalModelRepository, base: Path, tmp_path: Path
) -> None:
    export = write_export(tmp_path / "export", {**SMALL_EXPORT, "data": bytes(20 << 20)})

    outcome = publisher.publish(base, [export], file_size_limit=10 << 20)[0]

    assert outcome.error == "DiskFullError"
    assert repository.versions(DIGITS) == ()
    assert repository.leftovers() == ()


@needs_root
def test_a_disk_without_room_is_told_before_the_copy(mount: Callable[[int], Path], tmp_path: Path) -> None:
    repository = LocalModelRepository(mount(8 << 20), SystemClock())
    export = write_export(tmp_path / "export", {**SMALL_EXPORT, "data": bytes(9 << 20)})

    with pytest.raises(DiskFullError, match="has room for"):
        publish(repository, DIGITS, export)

    assert repository.models() == ()


@needs_root
def test_a_disk_that_fills_up_during_the_copy_leaves_nothing(mount: Callable[[int], Path], tmp_path: Path) -> None:
    disk = mount(64 << 20)
    repository = LocalModelRepository(disk, SystemClock())
    export = write_export(tmp_path / "export", {**SMALL_EXPORT, "data": bytes(40 << 20)})

    class Filler(Observer):
        filled = False

        def progress(self, done_bytes: int, total_bytes: int) -> None:
            if not self.filled:
                self.filled = True
                (disk / "filler").write_bytes(bytes(30 << 20))

    with pytest.raises(DiskFullError, match="No space left on device"):
        repository.stage(DIGITS, export, Filler()).__enter__()
    (disk / "filler").unlink()

    assert repository.versions(DIGITS) == ()
    assert repository.leftovers() == ()
    assert publish(repository, DIGITS, export).manifest.version == 1


@needs_root
def test_a_read_only_file_system_can_be_read_but_not_published_to(mount: Callable[[int], Path], tmp_path: Path) -> None:
    disk = mount(8 << 20)
    repository = LocalModelRepository(disk, SystemClock())
    manifest = publish(repository, DIGITS, write_export(tmp_path / "export")).manifest
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, timeout=30)

    assert repository.verify(manifest, Observer()) == ()
    assert repository.leftovers() == ()
    with pytest.raises(StorageError, match="Read-only file system"):
        publish(repository, DIGITS, write_export(tmp_path / "other", {"saved_model.pb": b"2"}))


@needs_root
def test_refuses_an_export_with_a_file_that_may_not_be_read(publisher: Publisher, shared_directory: Path) -> None:
    export = write_export(shared_directory / "export")
    (export / "saved_model.pb").chmod(0o600)
    base = shared_directory / "models"
    base.mkdir()
    os.chown(base, NOBODY, NOBODY)

    outcome = publisher.publish(base, [export], user=NOBODY)[0]

    assert outcome.error == "UnreadableExportError"
    assert "'saved_model.pb'" in outcome.message
    assert os.listdir(base / "digits" / ".deployctl" / "staging") == []


@needs_root
def test_a_repository_that_may_not_be_written_is_named(publisher: Publisher, shared_directory: Path) -> None:
    base = shared_directory / "models"
    base.mkdir()

    outcome = publisher.publish(base, [write_export(shared_directory / "export")], user=NOBODY)[0]

    assert outcome.error == "StorageError"
    assert str(base) in outcome.message
    assert "Permission denied" in outcome.message


def test_a_missing_repository_is_told_with_the_command_that_makes_one(tmp_path: Path) -> None:
    repository = LocalModelRepository(tmp_path / "nowhere", SystemClock())

    for ask in (repository.models, lambda: repository.versions(DIGITS), repository.strays, repository.leftovers):
        with pytest.raises(StorageError, match="there is no repository at") as caught:
            ask()
        assert caught.value.hint == "deployctl init"
    with pytest.raises(StorageError, match="there is no repository at"):
        publish(repository, DIGITS, write_export(tmp_path / "export"))
    assert not (tmp_path / "nowhere").exists()


def test_a_publisher_that_holds_the_model_too_long_is_told(base: Path, tmp_path: Path) -> None:
    repository = LocalModelRepository(base, SystemClock(), lock_timeout_s=0.05)
    export = write_export(tmp_path / "export")
    publish(repository, DIGITS, export)

    with open(base / "digits" / ".deployctl" / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="digits is still locked") as caught:
            publish(repository, DIGITS, export)
    assert caught.value.hint == f"fuser -v {base / 'digits' / '.deployctl' / 'lock'}"

    assert publish(repository, DIGITS, export).manifest.version == 1
    assert repository.leftovers() == ()
