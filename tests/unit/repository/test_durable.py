from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deployctl.errors import DiskFullError, StorageError
from deployctl.repository.durable import (
    make_directory,
    rename_without_replacing,
    storage_errors,
    write_new_file,
)


@pytest.mark.parametrize("target", ["empty directory", "full directory", "file", "dangling symlink"])
def test_a_rename_replaces_nothing(tmp_path: Path, target: str) -> None:
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "saved_model.pb").write_bytes(b"new")
    if target == "file":
        (tmp_path / "1").write_bytes(b"old")
    elif target == "dangling symlink":
        (tmp_path / "1").symlink_to("nowhere")
    else:
        (tmp_path / "1").mkdir()
        if target == "full directory":
            (tmp_path / "1" / "saved_model.pb").write_bytes(b"old")

    with pytest.raises(FileExistsError):
        rename_without_replacing(tmp_path / "staged", tmp_path / "1")

    assert (tmp_path / "staged" / "saved_model.pb").read_bytes() == b"new"
    assert os.path.lexists(tmp_path / "1")


def test_a_rename_to_a_free_name_moves_the_directory(tmp_path: Path) -> None:
    (tmp_path / "staged").mkdir()

    rename_without_replacing(tmp_path / "staged", tmp_path / "1")

    assert os.listdir(tmp_path) == ["1"]


def test_a_rename_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_without_replacing(tmp_path / "staged", tmp_path / "1")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_a_full_disk_whatever_the_limit(tmp_path: Path, code: int) -> None:
    with pytest.raises(DiskFullError, match=os.strerror(code)), storage_errors("write", tmp_path):
        raise OSError(code, os.strerror(code))


def test_any_other_failure_names_the_action_and_the_path(tmp_path: Path) -> None:
    expected = rf"cannot write the copy: {tmp_path}: Input/output error"

    with pytest.raises(StorageError, match=expected) as caught, storage_errors("write the copy", tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    assert caught.value.hint == f"ls -ld {tmp_path}"
    assert isinstance(caught.value.__cause__, OSError)


def test_a_directory_that_stands_is_kept(tmp_path: Path) -> None:
    make_directory(tmp_path / "models")
    (tmp_path / "models" / "file").write_bytes(b"")

    make_directory(tmp_path / "models")

    assert os.listdir(tmp_path / "models") == ["file"]


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_bytes(b"")

    with pytest.raises(FileExistsError):
        make_directory(tmp_path / "models")


def test_a_file_is_written_whole_and_never_through_a_symlink(tmp_path: Path) -> None:
    write_new_file(tmp_path / "manifest.json", b"longer")
    write_new_file(tmp_path / "manifest.json", b"short")
    (tmp_path / "link").symlink_to("manifest.json")

    assert (tmp_path / "manifest.json").read_bytes() == b"short"
    with pytest.raises(OSError, match="symbolic links"):
        write_new_file(tmp_path / "link", b"")
