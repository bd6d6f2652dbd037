"""Trees removed that are deeper than what removes them by calling itself could go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployctl.repository.removal import remove_tree
from tests.support.repository import deep_directory

# Beyond the bound of recursion, and as paths beyond what the kernel takes (4,096 bytes).
DEEP = 3000


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    with deep_directory(tmp_path / "deep", DEEP) as directory:
        remove_tree(directory)

        assert list(tmp_path.iterdir()) == []


def test_what_an_interrupted_removal_left_is_removed(tmp_path: Path) -> None:
    for name in ("a-0/b/c", "a-1/b", "b/a-0/d"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "file").write_bytes(b"x")

    remove_tree(tmp_path / "tree")

    assert list(tmp_path.iterdir()) == []


def test_what_a_symlink_names_stays(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"x")
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree" / "inner" / "link").symlink_to(tmp_path / "kept")

    remove_tree(tmp_path / "tree")
    (tmp_path / "top").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "top")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "top"]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove all")
def test_what_may_not_be_removed_is_left_and_the_rest_goes(tmp_path: Path) -> None:
    (tmp_path / "tree" / "closed" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "other" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "closed").chmod(0o555)

    remove_tree(tmp_path / "tree")

    (tmp_path / "tree" / "closed").chmod(0o755)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == [
        "tree",
        "tree/closed",
        "tree/closed/inner",
    ]


def test_what_is_not_there_is_no_failure(tmp_path: Path) -> None:
    remove_tree(tmp_path / "absent")
