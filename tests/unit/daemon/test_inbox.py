"""Exports in an inbox are published once, when they are complete."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
import tarfile
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.daemon.inbox.directory import DirectoryPlace
from deployctl.daemon.inbox.judge import Arrival, Judge, pause_after
from deployctl.daemon.inbox.memory import FollowUp, FollowUps
from deployctl.daemon.inbox.place import Found
from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, VersionNumber
from tests.support.inbox import MODEL, inbox_workspace, made_export, until
from tests.support.workspace import HALF_PLUS_TWO

SOON = '"300ms"'
DATA = "variables/variables.data-00000-of-00001"


def test_publishes_an_export_that_is_renamed_into_place_without_waiting(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work")
    with place.watched():
        place.drop("run-1")
        until(lambda: place.published() == ["half/run-1"], "the export")
        place.drop("run-2", number=1)

        until(lambda: place.published() == ["half/run-1", "half/run-2"], "the next export")

    assert (place.inbox / MODEL / "run-1").is_dir()


def test_a_model_whose_directory_comes_with_its_export_waits_no_longer(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work")
    with place.watched():
        place.drop("run-1", model="new")

        until(lambda: place.published() == ["new/run-1"], "the export of a new model")


def test_names_of_unfinished_exports_are_left_alone_until_they_are_renamed(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", settle_s=SOON)
    unfinished = [".run-1", "_temporary", "run-2.tmp", "run-3.partial", "temp-1700000000"]
    for number, name in enumerate(unfinished):
        made_export(place.inbox / MODEL / name, number=number)
    (place.inbox / MODEL / "notes.txt").write_text("no export")
    with place.watched():
        made_export(place.inbox / MODEL / "run-9", number=9)
        until(lambda: place.published() == ["half/run-9"], "the export with a final name")

        (place.inbox / MODEL / "run-2.tmp").rename(place.inbox / MODEL / "run-2")

        until(lambda: place.published() == ["half/run-9", "half/run-2"], "the export that got its name")


def test_a_marker_says_that_an_export_is_complete_and_nothing_else_does(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", marker='"_SUCCESS"', settle_s='"0s"')
    with place.watched():
        renamed = place.drop("renamed")
        marked = place.drop("marked", number=1)
        (marked / "_SUCCESS").touch()
        until(lambda: place.published() == ["half/marked"], "the marked export")

        (renamed / "_SUCCESS").touch()

        until(lambda: place.published() == ["half/marked", "half/renamed"], "the export that was marked later")


def test_a_slow_copy_is_published_once_it_is_whole(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", settle_s='"1s"')
    source = made_export(tmp_path / "source")
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    goal, pause = place.inbox / MODEL / "copied", threading.Event()
    with place.watched():
        for file in files:
            (goal / file).parent.mkdir(parents=True, exist_ok=True)
            with (goal / file).open("wb") as copy:
                for byte in (source / file).read_bytes()[:4]:
                    copy.write(bytes([byte]))
                    copy.flush()
                    pause.wait(0.05)
                copy.write((source / file).read_bytes()[4:])
        until(lambda: place.published() == ["half/copied"], "the copy")

    assert {each["path"] for each in place.manifest(1)["files"]} == {str(file) for file in files}
    assert place.refused() == []


def test_a_copy_that_dies_half_way_is_reported_once_and_refused_after_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = inbox_workspace(tmp_path / "work", settle_s=SOON)
    half = place.inbox / MODEL / "dead"
    shutil.copytree(HALF_PLUS_TWO, half)
    (half / DATA).write_bytes((half / DATA).read_bytes()[:10])

    def reports() -> int:
        return sum("has settled but is not whole" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING, "deployctl.daemon"), place.watched():
        until(lambda: reports() == 1, "the report")
        place.drop("other")
        until(lambda: place.published() == ["half/other"], "another export meanwhile")
    assert (reports(), place.refused()) == (1, [])

    settings = place.root / "deployctl.toml"
    settings.write_text(settings.read_text().replace("[inboxes.exports]", '[inboxes.exports]\nstalled_s = "1s"'))
    with place.watched():
        until(lambda: (place.root / "exports.failed" / MODEL / "dead").exists(), "the refusal")

    assert place.published() == ["half/other"]
    assert place.refused() == ["half/dead"]


def test_a_copy_that_stood_still_is_published_once_it_went_on(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", settle_s=SOON)
    half = place.inbox / MODEL / "paused"
    shutil.copytree(HALF_PLUS_TWO, half)
    whole = (half / DATA).read_bytes()
    (half / DATA).unlink()
    with place.watched():
        place.drop("other", number=5)
        until(lambda: place.published() == ["half/other"], "another export meanwhile")

        (half / DATA).write_bytes(whole)

        until(lambda: place.published() == ["half/other", "half/paused"], "the copy")


def test_an_export_that_is_written_again_is_published_again_when_it_is_whole(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", settle_s='"1s"')
    with place.watched():
        export = place.drop("latest")
        until(lambda: place.published() == ["half/latest"], "the first state")
        whole, pause = (export / DATA).read_bytes(), threading.Event()
        for part in range(len(whole)):
            (export / DATA).write_bytes(whole[:part])
            pause.wait(0.05)
        (export / DATA).write_bytes(whole)
        (export / "assets.extra" / "number").write_text("1")
        until(lambda: len(place.published()) == 2, "the second state")

        os.utime(export / DATA)
        place.drop("end", number=9)
        until(lambda: "half/end" in place.published(), "another export")

    assert place.published() == ["half/latest", "half/latest", "half/end"]
    assert place.refused() == []


def test_a_damaged_export_is_moved_away_with_a_report_and_not_tried_again(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work")
    broken = made_export(tmp_path / "broken")
    (broken / "saved_model.pb").write_bytes(b"no model")
    with place.watched():
        shutil.copytree(broken, tmp_path / "copy")
        (tmp_path / "copy").rename(place.inbox / MODEL / "run-1")
        until(lambda: len(place.refused()) == 1, "the refusal")
        broken.rename(place.inbox / MODEL / "run-1")
        until(lambda: len(place.refused()) == 2, "the next one of that name")
        failed = place.root / "exports.failed" / MODEL
        until(lambda: (failed / "run-1-2").exists(), "the move")

    report = (failed / "run-1.report.txt").read_text()
    event = place.events(EventKind.VERSION_REFUSED)[0].content
    assert f"half/run-1 of the inbox exports was refused: {event.data['error']}" in report
    assert event.operation in report
    assert f'"operation": "{event.operation}"' in (failed / "run-1.report.json").read_text()
    assert not (place.inbox / MODEL / "run-1").exists()


def test_archives_are_published_as_what_they_hold(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work")
    export = made_export(tmp_path / "export")
    with tarfile.open(tmp_path / "one.tar.gz", "w:gz") as archive:
        archive.add(export, arcname="export")
    (export / "assets.extra" / "number").write_text("2")
    shutil.make_archive(str(tmp_path / "two"), "zip", export)
    (tmp_path / "three.zip").write_bytes(b"no archive")
    with place.watched():
        for name in ("one.tar.gz", "two.zip", "three.zip"):
            (tmp_path / name).rename(place.inbox / MODEL / name)
        until(lambda: len(place.published()) == 2 and place.refused() == ["half/three.zip"], "the archives")
        until(lambda: (place.root / "exports.failed" / MODEL / "three.zip").is_file(), "the move")

    assert sorted(place.published()) == ["half/one.tar.gz", "half/two.zip"]


def test_what_is_published_is_moved_where_that_is_wanted(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", published='"move"')
    with place.watched():
        export = made_export(tmp_path / "export")
        (place.inbox / MODEL / "run-1.deployctl.json").write_text('{"run": "a"}')
        export.rename(place.inbox / MODEL / "run-1")
        until(lambda: not (place.inbox / MODEL / "run-1.deployctl.json").exists(), "the move")

    done = place.root / "exports.done" / MODEL
    assert sorted(path.name for path in done.iterdir()) == ["run-1", "run-1.deployctl.json"]
    assert list((place.root / ".deployctl").glob("inboxes/exports/*/*")) == []


def directory_place(root: Path, *, marker: str = "") -> DirectoryPlace:
    (root / "in" / MODEL).mkdir(parents=True)
    return DirectoryPlace(root / "in", marker, done=root / "done", failed=root / "failed")


def test_a_move_that_was_killed_before_its_rename_goes_on_and_tells_once(tmp_path: Path) -> None:
    place = directory_place(tmp_path)
    made_export(tmp_path / "in" / MODEL / "run-1")
    reports = {".report.json": b"{}", ".report.txt": b"refused"}
    (tmp_path / "failed" / MODEL).mkdir(parents=True)
    (tmp_path / "failed" / MODEL / "run-1.report.json").write_bytes(b"{}")
    (tmp_path / "failed" / MODEL / "run-1.report.txt").write_bytes(b"ref")
    (tmp_path / "failed" / MODEL / "run-1.deployctl.json").write_bytes(b"{}")
    (found,) = place.look()

    place.move_failed(found, reports)

    moved = tmp_path / "failed" / MODEL
    names = ["run-1", "run-1.deployctl.json", "run-1.report.json", "run-1.report.txt"]
    assert sorted(path.name for path in moved.iterdir()) == names
    assert (moved / "run-1.report.txt").read_bytes() == b"refused"
    made_export(tmp_path / "in" / MODEL / "run-1", number=2)
    (found,) = place.look()
    assert place.move_failed(found, {".report.txt": b"another"}) == str(moved / "run-1-2")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no second file system")
def test_a_move_to_another_file_system_is_made_once_whenever_it_is_killed(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if os.stat(other).st_dev == tmp_path.stat().st_dev:
            pytest.skip("it is the same file system")
        place = replace(directory_place(tmp_path), done=Path(other) / "done")
        inbox, done = tmp_path / "in" / MODEL, Path(other) / "done" / MODEL
        export = made_export(inbox / "run-1")
        (found,) = place.look()
        # As a kill leaves it: half of it on its way, then all of it there and here.
        shutil.copytree(export / "variables", done / ".deployctl-moving-run-1" / "variables")
        assert place.move_done(found) == str(done / "run-1")
        shutil.copytree(done / "run-1", export)
        (again,) = place.look()
        assert again == found

        assert place.move_done(again) == str(done / "run-1")

        assert ([path.name for path in done.iterdir()], list(inbox.iterdir())) == (["run-1"], [])
        made_export(inbox / ".deployctl-moved-run-2")
        place.clear_up()
        made_export(inbox / "run-1", number=3)
        (found,) = place.look()
        assert place.move_done(found) == str(done / "run-1-2")
        assert list(inbox.iterdir()) == []


def test_an_inbox_without_events_is_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a file system or a system that has none: importing watchdog's part for it fails.
    monkeypatch.setitem(sys.modules, "watchdog.observers.inotify_c", None)
    place = inbox_workspace(tmp_path / "work", settle_s=SOON)
    with place.watched():
        place.drop("run-1")
        until(lambda: place.published() == ["half/run-1"], "the export")
        place.drop("run-1", number=1, model="new")

        until(lambda: place.published() == ["half/run-1", "new/run-1"], "the export of a new model")


def test_what_follows_for_one_version_does_not_wait_for_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = '[rules.down]\nmodels = ["half"]\npromote = ["local"]\n[rules.kept]\nmodels = ["new"]\nkeep = 1\n'
    # No server runs: the promotion is tried again with ever longer pauses.
    place = inbox_workspace(tmp_path / "work", more=rules)
    follow = place.root / ".deployctl" / "inboxes" / "exports" / "follow"
    with caplog.at_level(logging.WARNING, "deployctl.daemon"), place.watched():
        place.drop("run-1")
        until(lambda: sum("half@1 waits for local" in each.getMessage() for each in caplog.records) >= 2, "two tries")
        place.drop("run-1", number=1, model="new")
        place.drop("run-2", number=2, model="new")

        until(lambda: place.versions("new") == [2], "the older version to be retired")
        until(lambda: [path.name for path in follow.iterdir()] == ["half@1.json"], "nothing else to be left to follow")


def test_pauses_stay_a_minute_however_long_something_is_away() -> None:
    assert [pause_after(attempts) for attempts in (0, 1, 7, 5_000)] == [0.5, 1.0, 60.0, 60.0]


def test_a_document_beside_or_in_the_export_tells_where_it_came_from(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work")
    digest = f"sha256:{'0' * 64}"
    with place.watched():
        (place.inbox / MODEL / "run.json").write_text('{"code": "c0ffee"}')
        place.drop("run-1")
        until(lambda: len(place.published()) == 1, "the export with the document of its model")
        made = made_export(tmp_path / "within", number=1)
        (made / "deployctl.json").write_text(
            '{"run": "https://runs.example/7", "datasets": {"d": "sha256:77"}, "metrics": {"accuracy": 1},'
            f' "tags": {{"team": "vision"}}, "parents": ["{digest}"]}}'
        )
        made.rename(place.inbox / MODEL / "run-2")
        until(lambda: len(place.published()) == 2, "the export with a document of its own")
        (place.inbox / MODEL / "run-3.deployctl.json").write_text('{"rnu": "typing"}')
        place.drop("run-3", number=3)
        until(lambda: place.refused() == ["half/run-3"], "the refusal of a document that cannot be meant")

    assert place.manifest(1)["provenance"]["code"] == "c0ffee"
    second = place.manifest(2)["provenance"]
    assert second["run"] == "https://runs.example/7"
    assert (second["datasets"], second["metrics"]) == ({"d": "sha256:77"}, {"accuracy": 1.0})
    assert (second["tags"], second["parents"]) == ({"team": "vision"}, [digest])
    error = place.events(EventKind.VERSION_REFUSED)[0].content.data["error"]
    assert "run-3.deployctl.json says 'rnu', which is none of run, code" in error


def test_what_cannot_be_moved_is_remembered(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work")
    (place.root / "exports.failed").write_text("in the way")
    broken = made_export(tmp_path / "broken")
    (broken / "saved_model.pb").write_bytes(b"no model")
    broken.rename(place.inbox / MODEL / "run-1")
    os.utime(place.inbox / MODEL)
    for number in (1, 2):
        with place.watched():
            # Renamed once more, so that each start takes it for complete.
            (place.inbox / MODEL / "run-1").rename(place.inbox / MODEL / ".run-1")
            (place.inbox / MODEL / ".run-1").rename(place.inbox / MODEL / "run-1")
            place.drop(f"good-{number}", number=number)
            until(lambda number=number: f"half/good-{number}" in place.published(), "a good export")  # type: ignore[misc]
            until(lambda: place.refused() == ["half/run-1"], "the refusal")

    assert (place.inbox / MODEL / "run-1").is_dir()


def test_waits_for_a_database_that_is_busy_and_refuses_nothing_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = inbox_workspace(tmp_path / "work", more='[lineage]\nbusy_timeout_s = "100ms"\n')
    with caplog.at_level(logging.WARNING, "deployctl.daemon"), place.watched():
        with closing(sqlite3.connect(place.root / "deployctl.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            place.drop("run-1")
            until(lambda: any("is tried again in" in record.getMessage() for record in caplog.records), "a retry")
            other.execute("ROLLBACK")

        until(lambda: place.published() == ["half/run-1"], "the export")

    assert place.refused() == []


def test_what_was_handled_is_not_handled_again_after_a_restart(tmp_path: Path) -> None:
    place = inbox_workspace(tmp_path / "work", settle_s=SOON)
    with place.watched():
        for number in range(3):
            place.drop(f"run-{number}", number=number)
        until(lambda: len(place.published()) == 3, "the exports")
    shutil.rmtree(place.inbox / MODEL / "run-0")
    with place.watched():
        place.drop("run-3", number=3)
        until(lambda: len(place.published()) == 4, "one more")
        handled = place.root / ".deployctl" / "inboxes" / "exports" / "handled"
        until(lambda: len(list(handled.iterdir())) == 3, "what is gone to be forgotten")

    assert place.published() == [f"half/run-{number}" for number in range(4)]


def test_a_thousand_exports_at_once_wait_in_a_queue_that_has_an_end() -> None:
    judge = Judge(marked=False, settle_s=10.0, stalled_s=60.0, most=100)
    exports = [Found(ModelName(MODEL), f"run-{number}", "f", 0.0, marked=False) for number in range(1000)]

    for found in exports:
        judge.ready(found, 0.0, renamed=False)

    assert len(judge.due(10.0)) == 100
    ready = [found for found in exports if judge.ready(found, 10.0, renamed=False)]
    assert ready == exports[:100]
    for found in ready:
        judge.forget(found.key)
    assert judge.ready(exports[500], 10.0, renamed=True) is Arrival.RENAMED


def test_what_follows_is_read_while_it_is_written(tmp_path: Path) -> None:
    follow_ups, written = FollowUps(tmp_path), threading.Event()

    def write() -> None:
        for number in range(1, 40):
            follow_up = FollowUp(ModelName("half"), VersionNumber(number), "run", "2026-11-21T00:00:00Z")
            follow_ups.put(follow_up)
            if number % 2:
                follow_ups.remove(follow_up)
        written.set()

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while not written.is_set() and not writing.done():
            follow_ups.all()
        writing.result()

    assert [each.version for each in follow_ups.all()] == [*reversed(range(2, 40, 2))]


def test_what_a_killed_daemon_was_writing_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "follow").mkdir()
    left = tmp_path / "follow" / ".half@1.json.abc"
    left.write_text("{")
    os.utime(left, (0, 0))

    assert FollowUps(tmp_path).all() == []
    assert not left.exists()
