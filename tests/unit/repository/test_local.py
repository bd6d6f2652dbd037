from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from deployctl.domain.clock import Observer
from deployctl.domain.names import VersionNumber, is_version_name
from deployctl.errors import UnsafeExportError
from deployctl.repository.local import LocalModelRepository
from deployctl.system import SystemClock
from tests.support.repository import DIGITS, SMALL_EXPORT, describe, publish, write_export

FICLONE = 0x40049409


@pytest.fixture
def repository(tmp_path: Path) -> LocalModelRepository:
    (tmp_path / "models").mkdir()
    return LocalModelRepository(tmp_path / "models", SystemClock())


def test_files_and_directories_get_plain_permissions(repository: LocalModelRepository, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export")
    (export / "saved_model.pb").chmod(0o4777)
    (export / "assets").chmod(0o700)

    before = os.umask(0o022)
    try:
        publish(repository, DIGITS, export)
    finally:
        os.umask(before)

    version = repository.local_path(DIGITS, VersionNumber(1))
    modes = {path.stat().st_mode & 0o7777 for path in version.rglob("*") if path.is_file()}
    assert modes == {0o644}
    assert {path.stat().st_mode & 0o7777 for path in version.rglob("*") if path.is_dir()} == {0o755}


def test_the_umask_may_take_permissions_away(repository: LocalModelRepository, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        publish(repository, DIGITS, write_export(tmp_path / "export"))
    finally:
        os.umask(before)

    version = repository.local_path(DIGITS, VersionNumber(1))
    assert (version / "saved_model.pb").stat().st_mode & 0o7777 == 0o600


def test_refuses_an_export_that_contains_the_repository(repository: LocalModelRepository, tmp_path: Path) -> None:
    write_export(tmp_path)

    with pytest.raises(UnsafeExportError, match="contains the repository"):
        publish(repository, DIGITS, tmp_path)


def test_a_model_directory_may_be_a_symlink_to_another_place(repository: LocalModelRepository, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    repository.base_path(DIGITS).symlink_to(tmp_path / "elsewhere")

    publish(repository, DIGITS, write_export(tmp_path / "export"))

    assert repository.versions(DIGITS) == (1,)
    assert (tmp_path / "elsewhere" / "1" / "saved_model.pb").is_file()


def test_a_directory_that_cannot_name_a_model_is_no_model(repository: LocalModelRepository, tmp_path: Path) -> None:
    for name in (".hidden", "with space", "digits"):
        write_export(tmp_path / "models" / name / "1")
    (tmp_path / "models" / "file").write_bytes(b"")

    assert repository.models() == (DIGITS,)


def test_copies_share_blocks_where_the_file_system_can(repository: LocalModelRepository, tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", {"saved_model.pb": bytes(1 << 20)})
    with open(export / "saved_model.pb", "rb") as source, open(tmp_path / "probe", "wb") as probe:
        try:
            fcntl.ioctl(probe, FICLONE, source.fileno())
        except OSError as error:
            pytest.skip(f"this file system does not share blocks: {errno.errorcode[error.errno or 0]}")
    before = os.statvfs(tmp_path).f_bavail

    manifest = publish(repository, DIGITS, export).manifest

    assert repository.verify(manifest, Observer()) == ()
    assert before - os.statvfs(tmp_path).f_bavail < (1 << 20) // os.statvfs(tmp_path).f_frsize


NUMBERS = st.integers(1, 12)
CONTENTS = st.sampled_from([b"a", b"b", b"c"])
STRAYS = st.sampled_from(["007", "+5", "15", "-3", "1.0", "tmp"])


class Sequences(RuleBasedStateMachine):
    """Publishes, adopts, and people who move directories about, against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="repository-"))
        (self.directory / "models").mkdir()
        self.repository = LocalModelRepository(self.directory / "models", SystemClock())
        self.base = self.repository.base_path(DIGITS)
        self.versions: dict[int, bytes] = {}
        self.recorded: set[int] = set()
        self.strays: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule(content=CONTENTS, allow_duplicate=st.booleans())
    def publish(self, content: bytes, *, allow_duplicate: bool) -> None:
        export = write_export(self.directory / "export", {**SMALL_EXPORT, "saved_model.pb": content})
        same = [number for number in self.recorded if self.versions[number] == content]
        following = max([0, *self.versions, *(int(name) for name in self.strays if name.lstrip("+-").isdigit())]) + 1

        committed = publish(self.repository, DIGITS, export, allow_duplicate=allow_duplicate)

        if same and not allow_duplicate:
            assert not committed.created
            assert committed.manifest.version == max(same)
        else:
            assert committed.created
            assert committed.manifest.version == following
            self.versions[following] = content
            self.recorded.add(following)

    @rule(number=NUMBERS, content=CONTENTS)
    def put_by_hand(self, number: int, content: bytes) -> None:
        if not (self.base / str(number)).exists():
            write_export(self.base / str(number), {**SMALL_EXPORT, "saved_model.pb": content})
            self.versions[number] = content

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        number = VersionNumber(data.draw(st.sampled_from(sorted(self.versions))))
        files = self.repository.entries(DIGITS, number, Observer())
        if number not in self.recorded:
            self.repository.adopt(describe(DIGITS, files)(number))
            self.recorded.add(number)

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def remove_by_hand(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.versions)))
        shutil.rmtree(self.base / str(number))
        del self.versions[number]
        self.recorded.discard(number)

    @rule(name=STRAYS)
    def put_a_stray(self, name: str) -> None:
        self.base.mkdir(exist_ok=True)
        if not (self.base / name).exists():
            (self.base / name).mkdir()
            self.strays.add(name)

    @invariant()
    def the_repository_lists_what_stands_there(self) -> None:
        assert self.repository.versions(DIGITS) == tuple(sorted(self.versions))
        assert {stray.name for stray in self.repository.strays()} == {
            name for name in self.strays if not is_version_name(name) or int(name) not in self.versions
        } - {"1.0", "tmp"}
        for number in self.versions:
            manifest = self.repository.manifest(DIGITS, VersionNumber(number))
            assert (manifest is not None) == (number in self.recorded)
        assert self.repository.leftovers() == ()

    @invariant()
    def every_recorded_version_verifies(self) -> None:
        for number in self.recorded:
            manifest = self.repository.manifest(DIGITS, VersionNumber(number))
            assert manifest is not None
            assert self.repository.verify(manifest, Observer()) == ()


Sequences.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSequences = Sequences.TestCase
