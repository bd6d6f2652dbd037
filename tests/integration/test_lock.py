"""Leases, between processes and inside one."""

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
from deployctl.domain.names import STABLE, ModelName, VersionNumber
from deployctl.domain.revision import Desired
from deployctl.errors import LeaseLostError, LockedError, NotFoundError, StorageError
from deployctl.serving.interface import Lease
from deployctl.serving.lock import FileTargetLock
from deployctl.system import SystemClock
from tests.support.models import ROOT

ADA = Actor("ada", "build-1")
HALF, RANKER = ModelName("half"), ModelName("ranker")
ONE = Desired((VersionNumber(1),), {STABLE: VersionNumber(1)})
TWO = Desired((VersionNumber(2),), {STABLE: VersionNumber(2)})
HOLD = """
import sys
from pathlib import Path
from deployctl.domain.event import Actor
from deployctl.serving.lock import FileTargetLock
from deployctl.system import SystemClock
lock = FileTargetLock(Path(sys.argv[1]), Actor("grace", "laptop"), "op-7", SystemClock())
with lock.hold(model=sys.argv[2] or None, purpose="promote half@2", timeout_s=5):
    print("held", flush=True)
    sys.stdin.read()
"""


def lock_in(directory: Path, operation: str = "op-1") -> FileTargetLock:
    return FileTargetLock(directory, ADA, operation, SystemClock())


@contextmanager
def holder(directory: Path, model: str = "half") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lease until its stdin ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), model],
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
def local(tmp_path: Path) -> Path:
    return tmp_path / "state" / "local"


def test_a_free_lease_is_held_at_once_and_again_after_it(local: Path) -> None:
    for purpose in ("promote half@1", "rollback half"):
        with lock_in(local).hold(model=HALF, purpose=purpose, timeout_s=0):
            (lease,) = lock_in(local).leases()
            assert str(lease) == f"ada@build-1 (pid {os.getpid()}): {purpose}"
            assert (lease.target, lease.model, lease.operation) == ("local", HALF, "op-1")
    assert lock_in(local).leases() == ()


def test_waits_only_so_long_and_says_who_holds_it(local: Path) -> None:
    with holder(local) as other, pytest.raises(LockedError) as raised:  # noqa: SIM117
        with lock_in(local).hold(model=HALF, purpose="rollback half", timeout_s=0.1):
            pytest.fail("two hold it")

    assert (
        str(raised.value)
        == f"half on local is in use by grace@laptop (pid {other.pid}): promote half@2, still after 0.1 s"
    )
    assert raised.value.hint == "deployctl op wait op-7"
    assert raised.value.exit_code == 7


def test_goes_on_when_the_other_lets_go(local: Path) -> None:
    with holder(local) as other:
        assert other.stdin is not None
        other.stdin.close()
        with lock_in(local).hold(model=HALF, purpose="rollback half", timeout_s=10):
            assert [lease.purpose for lease in lock_in(local).leases()] == ["rollback half"]


def test_a_killed_holder_holds_nothing(local: Path) -> None:
    with holder(local) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(10)

        assert lock_in(local).leases() == ()
        with lock_in(local).hold(model=HALF, purpose="rollback half", timeout_s=0):
            pass


def test_what_a_killed_holder_left_is_cleared_away_and_what_others_hold_is_not(local: Path) -> None:
    with holder(local) as other, lock_in(local).hold(model=RANKER, purpose="promote ranker", timeout_s=0):
        assert lock_in(local).clear() == ()
        other.send_signal(signal.SIGKILL)
        other.wait(10)

        assert [lease.model for lease in lock_in(local).clear()] == [HALF]

        assert [lease.model for lease in lock_in(local).leases()] == [RANKER]
        assert lock_in(local).clear() == ()


def test_a_stopped_holder_holds_on(local: Path) -> None:
    with holder(local) as other:
        other.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(LockedError), lock_in(local).hold(model=HALF, purpose="rollback half", timeout_s=0.05):
                pytest.fail("two hold it")
        finally:
            other.send_signal(signal.SIGCONT)


def test_an_error_inside_lets_go(local: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_in(local).hold(model=HALF, purpose="promote", timeout_s=0):
        raise ZeroDivisionError

    with lock_in(local).hold(model=HALF, purpose="promote", timeout_s=0):
        pass


@pytest.mark.parametrize(
    ("first", "second", "apart"), [(HALF, HALF, True), (HALF, None, True), (None, HALF, True), (HALF, RANKER, False)]
)
def test_a_model_and_the_whole_target_exclude_each_other_and_two_models_do_not(
    local: Path, first: ModelName | None, second: ModelName | None, apart: bool
) -> None:
    with lock_in(local).hold(model=first, purpose="one", timeout_s=0):
        if apart:
            with pytest.raises(LockedError, match="one"), lock_in(local).hold(model=second, purpose="two", timeout_s=0):
                pytest.fail("two hold it")
        else:
            with lock_in(local).hold(model=second, purpose="two", timeout_s=0):
                assert [lease.purpose for lease in lock_in(local).leases()] == ["one", "two"]


def test_targets_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = (lock_in(tmp_path / name) for name in ("one", "two"))

    with (
        one.hold(model=None, purpose="x", timeout_s=0),
        two.hold(model=None, purpose="y", timeout_s=0),
    ):
        pass


def test_tokens_grow_with_every_lease(local: Path) -> None:
    tokens = []
    for model in (HALF, RANKER, None, HALF):
        with lock_in(local).hold(model=model, purpose="x", timeout_s=0):
            tokens.append(lock_in(local).leases()[0].token)

    assert tokens == [1, 2, 3, 4]


def test_who_lost_the_lease_changes_nothing_any_more(local: Path) -> None:
    with lock_in(local).hold(model=HALF, purpose="promote half@2", timeout_s=0) as lease:
        with lease.turn(timeout_s=1) as turn:
            turn.applied = ONE
        released = lock_in(local, "op-2").release(HALF)
        assert released.operation == "op-1"
        with lock_in(local, "op-2").hold(model=HALF, purpose="rollback half", timeout_s=0):
            with pytest.raises(LeaseLostError, match=r"taken from ada@build-1 \(promote half@2\)"):  # noqa: SIM117
                with lease.turn(timeout_s=1):
                    pytest.fail("changed without the lease")
            assert [each.purpose for each in lock_in(local).leases()] == ["rollback half"]
    with pytest.raises(NotFoundError, match="half on local is not locked"):
        lock_in(local).release(HALF)


def test_a_turn_knows_what_others_under_way_have_applied(local: Path) -> None:
    with (
        lock_in(local, "op-1").hold(model=HALF, purpose="promote half@1", timeout_s=0) as half,
        lock_in(local, "op-2").hold(model=RANKER, purpose="promote ranker@2", timeout_s=0) as ranker,
    ):
        with half.turn(timeout_s=1) as turn:
            assert turn.others == {}
            turn.applied = ONE
        with ranker.turn(timeout_s=1) as turn:
            assert turn.others == {HALF: ONE}
            turn.applied = TWO
        with half.turn(timeout_s=1) as turn:
            assert turn.others == {RANKER: TWO}
    with lock_in(local, "op-3").hold(model=HALF, purpose="x", timeout_s=0) as half, half.turn(timeout_s=1) as turn:
        assert turn.others == {}


def apply_and_fail(lease: Lease) -> None:
    with lease.turn(timeout_s=1) as turn:
        turn.applied = ONE
        raise ZeroDivisionError


def test_what_failed_in_a_turn_was_not_applied(local: Path) -> None:
    with (
        lock_in(local, "op-1").hold(model=HALF, purpose="promote half@1", timeout_s=0) as half,
        lock_in(local, "op-2").hold(model=RANKER, purpose="promote ranker@2", timeout_s=0) as ranker,
    ):
        with pytest.raises(ZeroDivisionError):
            apply_and_fail(half)
        with ranker.turn(timeout_s=1) as turn:
            assert turn.others == {}


def test_turns_exclude_each_other(local: Path) -> None:
    with (
        lock_in(local, "op-1").hold(model=HALF, purpose="one", timeout_s=0) as half,
        lock_in(local, "op-2").hold(model=RANKER, purpose="two", timeout_s=0) as ranker,
        half.turn(timeout_s=1),
        pytest.raises(LockedError, match="the server of local is in use"),
        ranker.turn(timeout_s=0.05),
    ):
        pytest.fail("two turns at once")


def test_a_lease_that_does_not_read_is_nobodys(local: Path) -> None:
    (local / "leases").mkdir(parents=True)
    (local / "leases" / "half.model.json").write_text("{")

    with lock_in(local).hold(model=HALF, purpose="x", timeout_s=0):
        pass


def test_a_state_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")

    with (
        pytest.raises(StorageError, match="cannot lock"),
        lock_in(tmp_path / "state" / "local").hold(model=None, purpose="x", timeout_s=0),
    ):
        pytest.fail("held")
