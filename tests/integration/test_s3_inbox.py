"""Exports below a prefix of an object store are published once, when they are complete."""

from __future__ import annotations

from pathlib import Path

from deployctl.domain.event import EventKind
from tests.support.inbox import InboxWorkspace, inbox_workspace, made_export, until
from tests.support.s3 import Bucket


def upload(bucket: Bucket, export: Path, key: str) -> None:
    """Puts the files of an export below `key`, as a training job would."""
    for path in sorted(export.rglob("*")):
        if path.is_file():
            bucket.put(f"{key}/{path.relative_to(export)}", path.read_bytes())


def s3_inbox(bucket: Bucket, root: Path, **settings: str) -> InboxWorkspace:
    more = f'[repository.s3]\nendpoint_url = "{bucket.endpoint}"\nregion = "us-east-1"\naddressing = "path"\n'
    path = f'"s3://{bucket.name}/models/exports"'
    return inbox_workspace(root, more=more, path=path, **settings)


def sources(place: InboxWorkspace) -> list[str]:
    events = place.events(EventKind.VERSION_PUBLISHED)
    return [event.content.data["manifest"]["provenance"]["source"] for event in events]


def test_what_has_settled_is_published_once_and_what_is_no_model_is_moved_away(bucket: Bucket, tmp_path: Path) -> None:
    place = s3_inbox(bucket, tmp_path / "work", settle_s='"0s"', stalled_s='"0s"')
    upload(bucket, made_export(tmp_path / "export"), "exports/half/run-1")
    bucket.put("exports/half/run-1.deployctl.json", b'{"run": "7"}')
    bucket.put("exports/half/_temporary/saved_model.pb", b"unfinished")
    bucket.put("exports/half/run-2.zip", b"no archive")
    with place.watched():
        until(lambda: place.refused() == ["half/run-2.zip"], "the refusal")
        until(lambda: len(sources(place)) == 1, "the export")
        until(lambda: not bucket.keys("exports/half/run-2.zip"), "the move")

    assert sources(place) == [f"s3://{bucket.name}/models/exports/half/run-1"]
    assert place.manifest(1)["provenance"]["run"] == "7"
    left = {key for key in bucket.keys("exports") if not key.startswith("exports/half/run-1")}
    failed = {f"exports.failed/half/run-2.zip{ending}" for ending in ("", ".report.json", ".report.txt")}
    assert left == failed | {"exports/half/_temporary/saved_model.pb"}
    upload(bucket, made_export(tmp_path / "next", number=1), "exports/half/run-3")
    with place.watched():
        until(lambda: len(sources(place)) == 2, "the next export")


def test_a_marker_says_when_and_what_is_published_is_moved(bucket: Bucket, tmp_path: Path) -> None:
    place = s3_inbox(bucket, tmp_path / "work", marker='"_SUCCESS"', settle_s='"0s"', published='"move"')
    upload(bucket, made_export(tmp_path / "export"), "exports/half/run-1")
    upload(bucket, made_export(tmp_path / "marked", number=1), "exports/half/run-2")
    bucket.put("exports/half/run-2/_SUCCESS", b"")
    with place.watched():
        until(lambda: not bucket.keys("exports/half/run-2/"), "the move")

    assert sources(place) == [f"s3://{bucket.name}/models/exports/half/run-2"]
    assert bucket.keys("exports/half/run-1/")
    assert len(bucket.keys("exports.done/half/run-2/")) == 6


def test_a_move_that_was_killed_goes_on_where_it_was(bucket: Bucket, tmp_path: Path) -> None:
    place = s3_inbox(bucket, tmp_path / "work", marker='"_SUCCESS"', published='"move"')
    export = made_export(tmp_path / "export")
    upload(bucket, export, "exports/half/run-1")
    bucket.put("exports/half/run-1/_SUCCESS", b"")
    # As a kill leaves it; another one of nearly that name is in nobody's way, and one of that name is not written over.
    bucket.put("exports.done/half/run-1/saved_model.pb", (export / "saved_model.pb").read_bytes())
    bucket.put("exports.done/half/run-10/saved_model.pb", b"another")
    upload(bucket, made_export(tmp_path / "next", number=1), "exports/half/run-2")
    bucket.put("exports/half/run-2/_SUCCESS", b"")
    bucket.put("exports.done/half/run-2/saved_model.pb", b"of another")
    with place.watched():
        until(lambda: not bucket.keys("exports/"), "the moves")

    done = {key.split("/")[2] for key in bucket.keys("exports.done/half/")}
    assert done == {"run-1", "run-10", "run-2", "run-2-2"}
    assert len(bucket.keys("exports.done/half/run-1/")) == len(bucket.keys("exports.done/half/run-2-2/")) == 6
    assert bucket.read("exports.done/half/run-2/saved_model.pb") == b"of another"
