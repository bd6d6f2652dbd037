"""A daemon that is killed before any step of what it does with an export: nothing is lost, and nothing done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployctl.domain.event import EventKind
from deployctl.domain.manifest import MANIFEST_PATH
from tests.support.daemon import RunningDaemon, daemon
from tests.support.inbox import MODEL, InboxWorkspace, inbox_workspace, until
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, ask

# How often the daemon is killed, at moments that are spread over all steps; more are killed at each of them.
KILLS = int(os.environ.get("DEPLOYCTL_DAEMON_KILLS", "12"))
KEPT = 2
RULES = f'[rules.half]\nmodels = ["half"]\npromote = ["local"]\nkeep = {KEPT}\n'
GATES = 'gates = ["integrity", "signature"]'


@dataclass
class Killed:
    """A workspace whose daemons kill themselves when they are told how soon."""

    place: InboxWorkspace
    armed: Path
    url: str
    steps: list[str] = field(default_factory=list)

    def daemon(self, end: signal.Signals = signal.SIGKILL) -> AbstractContextManager[RunningDaemon]:
        """A daemon that sends itself the signal before the step that it is armed with."""
        program = [sys.executable, "-m", "tests.support.mortal", str(end.value), str(self.armed), str(self.place.root)]
        return daemon(self.place.workspace, program=program, DEPLOYCTL_DAEMON_LEASE_S="1s")

    def drop(self, number: int) -> None:
        """Drops the export that is to become this version; what it answers tells it from the one before."""
        self.place.drop(f"run-{number}", number=number, source=HALF_PLUS_THREE if number % 2 else HALF_PLUS_TWO)

    def arm(self, step: int | str) -> None:
        self.armed.write_text(str(step))

    def disarm(self) -> list[str]:
        """Returns the steps that were made since it was armed; the last one was not, where the daemon was killed."""
        steps = Path(f"{self.armed}.steps")
        made = steps.read_text().splitlines()
        self.armed.unlink()
        os.truncate(steps, 0)
        return made

    def answer(self) -> float:
        return ask(self.url, MODEL)

    def await_all_done(self, number: int) -> None:
        """Waits until nothing is left to be done with this export and those before it."""
        state = self.place.root / ".deployctl" / "inboxes" / "exports"
        retired = list(range(max(1, number - KEPT + 1), number + 1))
        until(lambda: self.place.versions() == retired, f"all but {retired} to be retired")
        until(lambda: not list(state.glob("*/*")), f"nothing to be left to do with run-{number}")


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Killed]:
    """A server that runs, an inbox, and rules; no daemon."""
    place = inbox_workspace(tmp_path / "work", more=RULES, published='"move"', settle_s='"0s"')
    settings = place.root / "deployctl.toml"
    settings.write_text(settings.read_text().replace("gates = []", GATES))
    place.workspace.ok("up")
    yield Killed(place, tmp_path / "armed", place.workspace.rest())
    place.workspace.down()


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.timeout(60 + 15 * KILLS)
def test_whatever_step_it_is_killed_at_each_export_is_published_promoted_and_moved_once(killed: Killed) -> None:
    number = KEPT + 1
    with killed.daemon() as running:
        for each in range(1, number):
            killed.drop(each)
            running.await_line(f"half@{each} serves stable on local")
        killed.await_all_done(number - 1)
        killed.arm(1_000_000)
        killed.drop(number)
        killed.await_all_done(number)
        steps = killed.disarm()
        assert running.stop() == 0
    control = left(killed.place.root)

    for kill in range(min(KILLS, len(steps))):
        number += 1
        with killed.daemon() as running:
            killed.await_all_done(number - 1)
            assert killed.answer() == answer_of(number - 1), killed.steps
            killed.arm(1 + kill * len(steps) // min(KILLS, len(steps)))
            killed.drop(number)
            assert running.ended() == -signal.SIGKILL
            killed.steps += killed.disarm()[-1:]
        assert killed.answer() in {answer_of(number - 1), answer_of(number)}, killed.steps
        assert_whole(killed.place.root / "models" / MODEL)
    with killed.daemon() as running:
        killed.await_all_done(number)
        assert running.stop() == 0

    assert left(killed.place.root) == control, killed.steps
    assert_done_once(killed, number)


@pytest.mark.tensorflow
def test_a_promotion_that_was_cut_off_is_made_again_though_somebody_else_has_undone_it(killed: Killed) -> None:
    with killed.daemon() as running:
        running.await_line("watching exports")
        killed.drop(1)
        running.await_line("half@1 serves stable on local")
        killed.await_all_done(1)
        killed.arm("/.models.config.")
        killed.drop(2)
        assert running.ended() == -signal.SIGKILL
        killed.disarm()
    killed.place.workspace.ok("up")
    assert killed.answer() == answer_of(1)

    with killed.daemon() as running:
        running.await_line("half@2 serves stable on local")
        killed.await_all_done(2)
        assert running.stop() == 0

    assert killed.answer() == answer_of(2)
    assert_done_once(killed, 2)


@pytest.mark.tensorflow
def test_a_version_is_retired_once_though_the_daemon_was_killed_while_it_was(killed: Killed) -> None:
    for number, step in ((1, ""), (2, ""), (3, "/.deployctl/highest.new")):
        with killed.daemon() as running:
            running.await_line("watching exports")
            if step:
                killed.arm(step)
            killed.drop(number)
            if step:
                assert running.ended() == -signal.SIGKILL
            else:
                killed.await_all_done(number)
                assert running.stop() == 0
    killed.disarm()
    assert [event.content.data["version"] for event in killed.place.events(EventKind.VERSION_RETIRED)] == [1]
    assert killed.place.versions() == [1, 2, 3]

    with killed.daemon() as running:
        killed.await_all_done(3)
        assert running.stop() == 0

    assert_done_once(killed, 3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("late", [False, True], ids=["in the middle of it", "when all is done"])
def test_a_leader_that_was_stopped_for_longer_than_its_lease_changes_nothing_more(killed: Killed, late: bool) -> None:
    # Not where it holds a lock, or the database, since whoever is stopped keeps that.
    steps = ["/staging/", "/handled/", "/follow/", "os.rename /exports/"]
    number = 1
    with killed.daemon() as first:
        killed.drop(number)
        first.await_line("half@1 serves stable on local")
        first.stop()
    for step in steps:
        with killed.daemon(signal.SIGSTOP) as first:
            first.await_line("watching exports")
            with killed.daemon() as second:
                second.await_line("standing by")
                killed.arm(step)
                number += 1
                killed.drop(number)
                until(lambda first=first: is_stopped(first.pid), step)  # type: ignore[misc]
                killed.disarm()
                second.await_line("leading")
                second.await_line(f"half@{number} serves stable on local")
                if late:
                    killed.await_all_done(number)

                first.signal(signal.SIGCONT)

                first.await_line("standing by for")
                killed.await_all_done(number)
                assert first.stop() == 0
                assert second.stop() == 0
    assert killed.answer() == answer_of(number)
    assert_done_once(killed, number)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def answer_of(number: int) -> float:
    return 4.0 if number % 2 else 3.0


def assert_done_once(killed: Killed, number: int) -> None:
    place, numbers = killed.place, range(1, number + 1)
    assert place.published() == [f"half/run-{each}" for each in numbers], killed.steps
    assert {path.name for path in (place.root / "exports.done" / MODEL).iterdir()} == {f"run-{n}" for n in numbers}
    assert (place.refused(), list((place.inbox / MODEL).iterdir())) == ([], [])
    served = [event.content.data["revision"] for event in place.events(EventKind.REVISION_SERVING)]
    stable = {
        event.content.data["revision"]: event.content.data["desired"]["labels"]["stable"]
        for event in place.events(EventKind.REVISION_PENDING)
    }
    assert [stable[revision] for revision in served] == [*numbers], killed.steps
    retired = [event.content.data["version"] for event in place.events(EventKind.VERSION_RETIRED)]
    assert retired == [*range(1, number - KEPT + 1)], killed.steps
    validated = Counter(event.content.data["version"] for event in place.events(EventKind.VERSION_VALIDATED))
    assert set(validated) == {*numbers}
    assert place.workspace.json("audit", "verify")["intact"]
    assert place.workspace.json("lock", "list")["locks"] == []
    assert place.workspace.run("doctor").returncode == 0


def assert_whole(models: Path) -> None:
    """What a server could see has all that its manifest names."""
    for version in models.glob("[0-9]*"):
        manifest = json.loads((version / MANIFEST_PATH).read_text())
        found = {path.relative_to(version).as_posix(): path.stat().st_size for path in version.rglob("*")}
        named = {each["path"]: each["size"] for each in manifest["files"]}
        assert named.items() <= found.items(), version


def left(root: Path) -> set[str]:
    """What is in a workspace, numbers of versions and ids of operations aside.

    A small file of the journal or of a target that was about to be renamed is left by a kill just then.
    """
    paths = {path.relative_to(root).as_posix() for path in root.rglob("*") if "/variables" not in str(path)}
    whole = {path for path in paths if not re.match(r"\.deployctl/(operations|local)/(.*/)?\.", path)}
    return {re.sub(r"\d[0-9A-Za-z]*(-[0-9a-f]+)?", "#", path) for path in whole}
