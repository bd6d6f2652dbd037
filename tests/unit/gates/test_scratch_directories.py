"""Directories of scratch servers: each has a lock that tells others that somebody uses it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deployctl.gates.scratch import own_directory
from deployctl.serving.interface import ServingRuntime

_USERS, _TIMES = 4, 40


def never(state_dir: Path, models: Path) -> ServingRuntime:
    raise AssertionError(f"{state_dir} was taken for abandoned")


def test_users_that_start_at_once_keep_their_locks(tmp_path: Path) -> None:
    def use(_: int) -> int:
        kept = 0
        for _ in range(_TIMES):
            with own_directory(tmp_path, never) as root:
                kept += root.is_dir() and root.with_suffix(".lock").exists()
        return kept

    with ThreadPoolExecutor(_USERS) as users:
        assert list(users.map(use, range(_USERS))) == [_TIMES] * _USERS
    assert list(tmp_path.iterdir()) == []
