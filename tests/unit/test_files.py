"""Files that several programs use at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import pytest

from deployctl.errors import LockedError
from deployctl.files import file_lock, sweep, sweep_directory, write_durably


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    write_durably(path, "old")
    write_durably(path, "new é")

    assert path.read_text() == "new é"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    write_durably(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_durably(path, "\udcff")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_when_the_file_has_its_name_already_is_told_as_one(tmp_path: Path) -> None:
    def interrupt(frame: FrameType, event: str, what: object) -> None:
        del frame
        if event == "c_return" and what is os.replace:
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_durably(tmp_path / "file", "new")
    finally:
        sys.setprofile(None)

    assert (tmp_path / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    write_durably(path, "text")
    (tmp_path / ".models.config.x1y2z3").write_text("half")
    (tmp_path / ".other.config.x1y2z3").write_text("half")

    sweep(path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".other.config.x1y2z3", "models.config"]


def test_of_a_directory_only_what_is_old_is_swept_away(tmp_path: Path) -> None:
    write_durably(tmp_path / "a.json", "text")
    for name, age_s in ((".a.json.x1y2z3", 7200.0), (".b.json.x1y2z3", 60.0)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)

    sweep_directory(tmp_path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".b.json.x1y2z3", "a.json"]


def test_what_cannot_be_swept_away_harms_nobody(tmp_path: Path) -> None:
    stuck = tmp_path / ".directory"
    stuck.mkdir()
    os.utime(stuck, (time.time() - 7200.0,) * 2)

    sweep_directory(tmp_path)
    sweep_directory(tmp_path / "absent")

    assert stuck.exists()


def test_a_server_of_another_user_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    write_durably(path, "text")

    assert path.stat().st_mode & 0o777 == 0o644


def test_a_lock_that_is_held_says_by_whom_and_what_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"

    with (
        file_lock(path, what="it", holder="deployctl up", timeout_s=1),
        pytest.raises(LockedError, match="deployctl up"),
        file_lock(path, what="it", holder="deployctl down", timeout_s=0.05),
    ):
        pytest.fail("held twice")


def test_a_waiting_caller_gets_the_lock_when_it_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    def wait() -> None:
        with file_lock(path, what="it", holder="second", timeout_s=10):
            order.append("second")

    with file_lock(path, what="it", holder="first", timeout_s=1):
        waiter = threading.Thread(target=wait)
        waiter.start()
        order.append("first")
    waiter.join(10)

    assert order == ["first", "second"]


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, os; from pathlib import Path; from deployctl.files import file_lock\n"
        "with file_lock(Path(sys.argv[1]), what='it', holder='crash', timeout_s=1): os.abort()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=30)

    with file_lock(path, what="it", holder="next", timeout_s=0):
        pass
