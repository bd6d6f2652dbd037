"""Exports dropped into the inbox of a daemon are published, judged, promoted and answer, without a command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployctl.domain.event import EventKind
from tests.support.daemon import daemon
from tests.support.inbox import MODEL, InboxWorkspace, inbox_workspace, until
from tests.support.workspace import HALF_PLUS_THREE, ask, with_unknown_op

RULE = '[rules.half]\nmodels = ["ha*"]\npromote = ["local"]\nkeep = 2\n[rules.others]\nmodels = ["*"]\n'


@pytest.fixture
def place(tmp_path: Path) -> Iterator[InboxWorkspace]:
    """A workspace with an inbox and rules; nothing runs."""
    place = inbox_workspace(tmp_path / "work", more=RULE)
    settings = place.root / "deployctl.toml"
    settings.write_text(settings.read_text().replace("gates = []", 'gates = ["ops"]'))
    yield place
    place.workspace.down()


def test_an_export_is_published_judged_promoted_and_answers_without_a_command(place: InboxWorkspace) -> None:
    place.workspace.ok("up")
    with daemon(place.workspace) as running:
        running.await_line("watching exports")
        place.drop("run-1")
        line = running.await_line("half@1 serves stable on local")
        assert line["operation"] == place.events(EventKind.REVISION_SERVING)[0].content.operation
        assert ask(place.workspace.rest(), MODEL) == 3.0
        place.drop("run-2", source=HALF_PLUS_THREE)
        running.await_line("half@2 serves stable on local")
        assert ask(place.workspace.rest(), MODEL) == 4.0

        with_unknown_op(place.root / "made" / "unknown").rename(place.inbox / MODEL / "run-3")

        running.await_line("half@3 is not promoted on local")
        assert running.stop() == 0
    assert place.published() == ["half/run-1", "half/run-2", "half/run-3"]
    assert ask(place.workspace.rest(), MODEL) == 4.0
    judged = place.events(EventKind.VERSION_VALIDATED)[-1].content
    assert {each["gate"]: each["outcome"] for each in judged.data["gates"]}["ops"] == "failed"
    promoted = place.events(EventKind.REVISION_PENDING)[0].content
    assert promoted.reason == "inbox exports: half/run-1"
    assert promoted.actor.command == "daemon: inbox exports promotes half@1 on local"


def test_each_export_is_published_once_however_often_the_daemon_is_killed(place: InboxWorkspace) -> None:
    for number in range(24):
        place.drop(f"run-{number:02}", number=number, model="other")
    settings = place.root / "deployctl.toml"
    settings.write_text(settings.read_text().replace('settle_s = "1h"', 'settle_s = "0s"'))
    for published in (3, 11):
        with daemon(place.workspace, DEPLOYCTL_DAEMON_LEASE_S="1s") as running:
            until(lambda published=published: len(place.published()) >= published, "some exports")  # type: ignore[misc]
            running.kill()

    with daemon(place.workspace, DEPLOYCTL_DAEMON_LEASE_S="1s") as running:
        until(lambda: len(place.published()) == 24, "all exports")
        place.drop("run-99", number=99, model="other")
        until(lambda: len(place.published()) == 25, "one more")
        assert running.stop() == 0

    assert len(set(place.published())) == 25
    assert place.refused() == []
    assert place.workspace.json("versions", "other")["versions"][-1]["version"] == 25
    assert place.workspace.json("audit", "verify")["intact"]


def test_what_follows_is_done_once_though_the_daemon_was_killed_before(place: InboxWorkspace) -> None:
    place.workspace.ok("up")
    with daemon(place.workspace, DEPLOYCTL_DAEMON_LEASE_S="1s") as running:
        running.await_line("watching exports")
        for number in range(4):
            place.drop(f"run-{number}", number=number)
            running.await_line(f"half@{number + 1} serves stable on local" if number < 3 else "half@4")
        running.kill()

    with daemon(place.workspace, DEPLOYCTL_DAEMON_LEASE_S="1s") as running:
        until(lambda: place.versions() == [3, 4], "what is old to be retired")
        follow = place.root / ".deployctl" / "inboxes" / "exports" / "follow"
        until(lambda: list(follow.iterdir()) == [], "nothing to be left to follow")
        assert running.stop() == 0

    revisions = place.events(EventKind.REVISION_PENDING)
    assert [event.content.data["desired"]["labels"]["stable"] for event in revisions] == [1, 2, 3, 4]
    assert "half@4" in place.workspace.fails(8, "retire", "half@4", hint="deployctl show half@4")


def test_of_versions_that_waited_only_the_newest_that_passes_is_promoted(place: InboxWorkspace) -> None:
    follow = place.root / ".deployctl" / "inboxes" / "exports" / "follow"
    with daemon(place.workspace) as running:
        running.await_line("watching exports")
        for number in (1, 2, 3):
            place.drop(f"run-{number}", number=number)
            running.await_line(f"half@{number} waits for local")
        with_unknown_op(place.root / "made" / "unknown").rename(place.inbox / MODEL / "run-4")
        running.await_line("half@4 waits for local")
        assert place.versions() == [1, 2, 3, 4]

        place.workspace.ok("up")

        running.await_line("half@4 is not promoted on local")
        running.await_line("half@3 serves stable on local")
        until(lambda: list(follow.iterdir()) == [], "nothing to be left to follow")
        assert running.stop() == 0
    promoted = place.events(EventKind.REVISION_PENDING)
    assert [event.content.data["desired"]["labels"]["stable"] for event in promoted] == [3]
    assert place.versions() == [3, 4]
