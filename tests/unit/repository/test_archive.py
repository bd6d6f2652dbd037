"""Archives, good and hostile, unpacked into a directory beside which nothing may appear."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployctl.domain.clock import Observer
from deployctl.errors import (
    ArchiveTooLargeError,
    DeployctlError,
    MalformedArchiveError,
    UnreadableExportError,
    UnsafeArchiveError,
)
from deployctl.repository.archive import SUFFIXES, Limits, archive_name, unpack
from tests.support.repository import SMALL_EXPORT

MODES = {".tar": "w:", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


def write_tar(archive: Path, files: Mapping[str, bytes] = SMALL_EXPORT, *, mode: str = "w:gz", top: str = "") -> Path:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for path, content in files.items():
            entry = tarfile.TarInfo(top + path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive


def write_zip(archive: Path, files: Mapping[str, bytes] = SMALL_EXPORT, *, top: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, content in files.items():
            packed.writestr(top + path, content)
    return archive


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


def write_entries(archive: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(archive, "w") as tar:
        for each in entries:
            tar.addfile(each, io.BytesIO(b"x" * each.size))
    return archive


def unpacked(archive: Path, limits: Limits | None = None) -> Path:
    directory = archive.parent / "unpacked"
    directory.mkdir()
    return unpack(archive, directory, Observer(), limits=limits)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("top", ["", "./", "export/", "a/b/"])
@pytest.mark.parametrize("suffix", [*MODES, ".zip"])
def test_an_export_comes_out_as_it_went_in(tmp_path: Path, suffix: str, top: str) -> None:
    archive = tmp_path / f"export{suffix}"
    write_zip(archive, top=top) if suffix == ".zip" else write_tar(archive, mode=MODES[suffix], top=top)

    assert contents(unpacked(archive)) == SMALL_EXPORT


def test_directories_and_links_within_the_archive_are_kept(tmp_path: Path) -> None:
    archive = write_entries(
        tmp_path / "export.tar",
        entry("variables", tarfile.DIRTYPE),
        entry("data", tarfile.SYMTYPE, "variables/data"),
        entry("again", tarfile.LNKTYPE, "variables/data"),
        entry("variables/data"),
    )

    found = unpacked(archive)

    assert (found / "data").readlink() == Path("variables/data")
    assert (found / "again").samefile(found / "variables/data")


def test_a_link_in_a_zip_file_is_a_link(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "export.zip", {"saved_model.pb": b"graph"})
    with zipfile.ZipFile(archive, "a") as packed:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, "saved_model.pb")

    assert (unpacked(archive) / "link").readlink() == Path("saved_model.pb")


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../evil")],
        [entry("a/../../evil")],
        [entry("/tmp/evil-of-a-test")],
        [entry("link", tarfile.SYMTYPE, "/etc/passwd")],
        [entry("link", tarfile.SYMTYPE, "../evil")],
        [entry("link", tarfile.SYMTYPE, ".."), entry("link/evil")],
        [entry("link", tarfile.SYMTYPE, "variables"), entry("link/evil"), entry("variables", tarfile.DIRTYPE)],
        [entry("one", tarfile.SYMTYPE, "two/../evil"), entry("two", tarfile.SYMTYPE, ".")],
        [entry("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [entry("hard", tarfile.LNKTYPE, "../evil")],
        [entry("hard", tarfile.LNKTYPE, "absent")],
        [entry("fifo", tarfile.FIFOTYPE)],
        [entry("device", tarfile.CHRTYPE)],
        [entry("disk", tarfile.BLKTYPE)],
        [entry("line\nbreak")],
        [entry("twice"), entry("twice")],
        [entry("file"), entry("file/below")],
        [entry(".")],
        [entry("d/" * 101 + "file")],
        [entry("d/" * 1200 + "file")],
        [entry("d/" * 1200, tarfile.DIRTYPE)],
        [entry("hard", tarfile.LNKTYPE, "d/" * 1200 + "file")],
        [entry("one", tarfile.SYMTYPE, "two"), entry("two", tarfile.SYMTYPE, "one")],
        [entry(f"link-{n}", tarfile.SYMTYPE, f"link-{n + 1}") for n in range(1200)],
    ],
    ids=lambda entries: " ".join(f"{each.name!r}{each.type.decode()}{each.linkname}" for each in entries)[:60],
)
def test_refuses_what_could_not_be_part_of_an_export(tmp_path: Path, entries: list[tarfile.TarInfo]) -> None:
    archive = write_entries(tmp_path / "export.tar", *entries)

    with pytest.raises(UnsafeArchiveError) as caught:
        unpacked(archive)

    assert caught.value.hint == f"tar -tvf {archive}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.tar", "unpacked"]
    assert not Path("/tmp/evil-of-a-test").exists()


def test_a_hint_takes_blanks_for_parts_of_a_name(tmp_path: Path) -> None:
    archive = write_entries(tmp_path / "my export.tar", entry("../evil"))

    with pytest.raises(UnsafeArchiveError) as caught:
        unpacked(archive)

    assert caught.value.hint == f"tar -tvf '{archive}'"


def test_an_export_may_be_a_hundred_directories_deep(tmp_path: Path) -> None:
    name = "d/" * 100 + "file"

    assert contents(unpacked(write_entries(tmp_path / "export.tar", entry(name), entry("beside")))) == {
        name: b"",
        "beside": b"",
    }


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-of-a-test", "a/../../evil", "d/" * 101 + "file"])
def test_refuses_zip_entries_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeArchiveError):
        unpacked(write_zip(tmp_path / "export.zip", {name: b"evil"}))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.zip", "unpacked"]
    assert not Path("/tmp/evil-of-a-test").exists()


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_refuses_what_unpacks_to_far_more_than_it_holds(
    tmp_path: Path, write: Callable[[Path, Mapping[str, bytes]], Path]
) -> None:
    archive = write(tmp_path / "bomb", {"saved_model.pb": bytes(32 << 20)})

    with pytest.raises(ArchiveTooLargeError, match="times that"):
        unpacked(archive, Limits(ratio_from_bytes=1 << 20))

    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").rglob("*")) < 12 << 20


def test_refuses_more_bytes_or_entries_than_allowed(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "export.tar.gz")

    with pytest.raises(ArchiveTooLargeError, match="more than 10 bytes"):
        unpack(archive, _made(tmp_path / "bytes"), Observer(), limits=Limits(max_bytes=10))
    with pytest.raises(ArchiveTooLargeError, match="more than 3 entries"):
        unpack(archive, _made(tmp_path / "entries"), Observer(), limits=Limits(max_files=3))


def test_a_header_that_is_a_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    header = entry("big")
    header.pax_headers = {"comment": "a" * (8 << 20)}
    with tarfile.open(tmp_path / "export.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header)

    with pytest.raises(ArchiveTooLargeError):
        unpacked(tmp_path / "export.tar.gz", Limits(ratio_from_bytes=1 << 20))


@pytest.mark.parametrize("suffix", [*MODES, ".zip"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_an_archive_that_is_cut_short_is_said_to_be_so(tmp_path: Path, suffix: str, kept: float) -> None:
    archive = tmp_path / f"export{suffix}"
    files = {"saved_model.pb": os.urandom(100_000)}
    write_zip(archive, files) if suffix == ".zip" else write_tar(archive, files, mode=MODES[suffix])
    os.truncate(archive, int(archive.stat().st_size * kept))

    with pytest.raises(MalformedArchiveError, match="cannot be unpacked"):
        unpacked(archive)


def test_an_encrypted_archive_is_said_to_be_so(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "export.zip")
    content = bytearray(archive.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + offset] |= 1
    archive.write_bytes(content)

    with pytest.raises(MalformedArchiveError, match="is encrypted"):
        unpacked(archive)


def test_an_archive_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableExportError, match="No such file"):
        unpacked(tmp_path / "absent.zip")


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), suffix=st.sampled_from([".tar", ".tar.gz", ".zip"]))
def test_a_damaged_archive_gives_an_error_of_ours_or_an_export(position: int, byte: int, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / f"export{suffix}"
        write_zip(archive) if suffix == ".zip" else write_tar(archive, mode=MODES[suffix])
        content = bytearray(archive.read_bytes())
        content[position % len(content)] = byte
        archive.write_bytes(content)

        try:
            found = unpacked(archive)
        except DeployctlError:
            return
        assert found.is_relative_to(Path(directory) / "unpacked")
        assert sorted(os.listdir(directory)) == sorted([archive.name, "unpacked"])


def test_only_names_with_a_suffix_are_archives() -> None:
    assert {archive_name(f"digits{suffix}") for suffix in SUFFIXES} == {"digits"}
    assert archive_name("Digits.TAR.GZ") == "Digits"
    assert archive_name("digits") is archive_name(".zip") is archive_name("digits.gz") is None


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory
