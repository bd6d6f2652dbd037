"""Exports in archives are judged as `publish` would take them."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.support.workspace import HALF_PLUS_TWO, Workspace


@pytest.fixture
def bare(tmp_path: Path) -> Workspace:
    """A directory without settings."""
    return Workspace(tmp_path)


def test_an_archive_is_judged_like_the_directory_in_it(bare: Workspace, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "half"), "zip", HALF_PLUS_TWO)
    document = bare.json("validate", "half.zip", "--against", str(HALF_PLUS_TWO))
    assert (document["subject"], document["passed"]) == ("half.zip", True)
    assert "passed" in bare.ok("validate", f"{tmp_path}/half.zip")


def test_a_broken_export_in_an_archive_is_refused_under_the_name_of_the_archive(
    bare: Workspace, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "broken.tar.gz", "w:gz") as archive:
        archive.add(HALF_PLUS_TWO / "saved_model.pb", "saved_model.pb")
    done = bare.run("validate", "broken.tar.gz")
    assert done.returncode == 3
    assert f"{tmp_path}/broken.tar.gz/variables/variables.index is absent" in done.stderr
    assert f"tar -tvf {tmp_path}/broken.tar.gz" in done.stderr
    assert "staging" not in done.stdout + done.stderr


def test_what_is_no_archive_cannot_be_judged(bare: Workspace, tmp_path: Path) -> None:
    (tmp_path / "junk.zip").write_bytes(os.urandom(100))
    assert "junk.zip cannot be unpacked" in bare.fails(1, "validate", "junk.zip")
    assert "neither a path nor s3://" in bare.fails(2, "validate", "ftp://host/export")
