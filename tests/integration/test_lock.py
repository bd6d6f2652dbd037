from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployctl.domain.event import Actor
from deployctl.errors import LockedError, StorageError
from deployctl.serving.lock import FileTargetLock
from tests.support.models import ROOT

ADA = Actor("ada", "build-1")
HOLD = """
import sys, threading
from pathlib import Path
from deployctl.domain.event import Actor
from deployctl.serving.lock import FileTargetLock
with FileTargetLock(Path(sys.argv[1]), Actor("grace", "laptop")).hold(purpose="promote half@2", timeout_s=5):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        try:
            yield child
        finally:
            child.kill()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "local" / "operation.lock"


def test_a_free_lock_is_held_at_once_and_again_after_it(path: Path) -> None:
    lock = FileTargetLock(path, ADA)

    for purpose in ("promote half@1", "rollback half"):
        with lock.hold(purpose=purpose, timeout_s=0):
            assert path.read_text() == f"ada@build-1 (pid {os.getpid()}): {purpose}"


def test_waits_only_so_long_and_says_who_holds_it(path: Path) -> None:
    with holder(path) as other, pytest.raises(LockedError) as raised:  # noqa: SIM117
        with FileTargetLock(path, ADA).hold(purpose="rollback half", timeout_s=0.1):
            pytest.fail("two hold it")

    assert (
        str(raised.value)
        == f"target local is in use by grace@laptop (pid {other.pid}): promote half@2, still after 0.1 s"
    )
    assert raised.value.exit_code == 7


def test_goes_on_when_the_other_lets_go(path: Path) -> None:
    with holder(path) as other:
        assert other.stdin is not None
        other.stdin.close()
        with FileTargetLock(path, ADA).hold(purpose="rollback half", timeout_s=10):
            assert "rollback half" in path.read_text()


def test_a_killed_holder_holds_nothing(path: Path) -> None:
    with holder(path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(10)

        with FileTargetLock(path, ADA).hold(purpose="rollback half", timeout_s=1):
            pass


def test_an_error_inside_lets_go(path: Path) -> None:
    lock = FileTargetLock(path, ADA)

    with pytest.raises(ZeroDivisionError), lock.hold(purpose="promote", timeout_s=0):
        raise ZeroDivisionError

    with lock.hold(purpose="promote", timeout_s=0):
        pass


def test_two_in_one_process_exclude_each_other_too(path: Path) -> None:
    with (
        FileTargetLock(path, ADA).hold(purpose="one", timeout_s=0),
        pytest.raises(LockedError, match="one"),
        FileTargetLock(path, ADA).hold(purpose="two", timeout_s=0.05),
    ):
        pytest.fail("two hold it")


def test_targets_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = (FileTargetLock(tmp_path / name / "operation.lock", ADA) for name in ("one", "two"))

    with one.hold(purpose="x", timeout_s=0), two.hold(purpose="y", timeout_s=0):
        pass


def test_a_state_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    with (
        pytest.raises(StorageError, match="cannot lock"),
        FileTargetLock(tmp_path / "state" / "local" / "lock", ADA).hold(purpose="x", timeout_s=0),
    ):
        pytest.fail("held")
