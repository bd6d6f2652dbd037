from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from deployctl.domain.names import server_takes_for_version
from deployctl.repository.staging import WORK_DIRECTORY, StagingArea
from deployctl.system import SystemClock
from tests.support.repository import WallClock, deep_directory

CLOCK = SystemClock()


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    area = StagingArea(tmp_path / "digits")
    area.prepare()
    return area


def leave_behind(area: StagingArea, token: str, owner: dict[str, object] | None) -> Path:
    """Makes what a dead publisher leaves: files, and an owner file that nobody locks."""
    area.contents(token).mkdir(parents=True)
    (area.contents(token) / "saved_model.pb").write_bytes(b"half")
    path = area.root / f"{token}.owner"
    if owner is not None:
        path.write_text(json.dumps(owner))
    return path


def test_no_name_beside_the_versions_can_be_taken_for_one(area: StagingArea) -> None:
    with area.open(CLOCK) as token:
        names = [*os.listdir(area.model_directory), WORK_DIRECTORY, token, *os.listdir(area.root / token)]

    assert not any(server_takes_for_version(name) for name in names)


def test_the_owner_file_says_who_copies(area: StagingArea) -> None:
    with area.open(CLOCK) as token:
        owner = json.loads((area.root / f"{token}.owner").read_text())

    assert owner["pid"] == os.getpid()
    assert owner["host"] == os.uname().nodename
    assert owner["process_started"].isdigit()


def test_what_was_opened_is_gone_after_the_block(area: StagingArea) -> None:
    with area.open(CLOCK) as token:
        (area.contents(token) / "file").write_bytes(b"")

    assert list(area.root.iterdir()) == []


def test_a_living_publisher_of_another_process_is_left_alone(area: StagingArea) -> None:
    code = (
        "import sys, pathlib; from deployctl.repository.staging import StagingArea; "
        "from deployctl.system import SystemClock\n"
        "with StagingArea(pathlib.Path(sys.argv[1])).open(SystemClock()) as token: print(token, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(area.model_directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        while_it_lives = area.discard_abandoned(CLOCK)
        process.kill()
        process.wait(timeout=30)

    assert while_it_lives == ()
    assert area.abandoned(CLOCK) == (token,)
    assert area.discard_abandoned(CLOCK) == (token,)
    assert list(area.root.iterdir()) == []


@pytest.mark.parametrize("owner", [None, {}, {"boot": "x"}, {"boot": "", "host": os.uname().nodename}])
def test_what_nobody_locks_is_abandoned(area: StagingArea, owner: dict[str, object] | None) -> None:
    leave_behind(area, "s-dead", owner)

    assert area.discard_abandoned(CLOCK) == ("s-dead",)
    assert list(area.root.iterdir()) == []


def test_an_owner_file_alone_is_abandoned(area: StagingArea) -> None:
    (area.root / "s-dead.owner").write_bytes(b"")

    assert area.discard_abandoned(CLOCK) == ("s-dead",)
    assert list(area.root.iterdir()) == []


def test_another_machines_publisher_is_given_a_day(area: StagingArea) -> None:
    leave_behind(area, "s-far", {"boot": "another", "host": "another"})

    assert area.abandoned(CLOCK) == ()
    assert area.abandoned(WallClock(CLOCK.now() + timedelta(hours=25))) == ("s-far",)


def test_asking_removes_nothing(area: StagingArea) -> None:
    leave_behind(area, "s-dead", None)

    assert area.abandoned(CLOCK) == ("s-dead",)
    assert area.abandoned(CLOCK) == ("s-dead",)


def test_a_model_without_working_directory_has_nothing_abandoned(tmp_path: Path) -> None:
    assert StagingArea(tmp_path / "ranker").abandoned(CLOCK) == ()
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_export_goes_however_deep_it_is(area: StagingArea) -> None:
    owner = leave_behind(area, "s-left", {})
    with deep_directory(area.contents("s-left") / "unpacked", 1200):
        assert area.discard_abandoned(CLOCK) == ("s-left",)

        assert not owner.exists()
        assert list(area.root.iterdir()) == []
