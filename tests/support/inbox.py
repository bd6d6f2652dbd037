"""A workspace with an inbox, and the duties of the daemon that look after it, in this process."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployctl.bootstrap import opened
from deployctl.config.load import load
from deployctl.daemon.crew import Crew
from deployctl.daemon.inbox.follow import Following
from deployctl.daemon.inbox.watching import Inbox
from deployctl.daemon.interface import Work
from deployctl.domain.clock import Observer
from deployctl.domain.event import Event, EventKind
from deployctl.domain.manifest import MANIFEST_PATH
from deployctl.system import SystemClock
from tests.support.workspace import HALF_PLUS_TWO, Workspace

MODEL = "half"
TIMEOUT_S = 60.0
# So long that nothing is published, or refused, for having waited.
NEVER = "1h"


@dataclass(frozen=True, slots=True)
class InboxWorkspace:
    """A workspace with the inbox `exports`."""

    workspace: Workspace

    @property
    def root(self) -> Path:
        return self.workspace.root

    @property
    def inbox(self) -> Path:
        return self.root / "exports"

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Runs the duties while the block runs."""
        settings = load(directory=self.root, environment={}).settings
        with opened(settings, Observer()) as shared:
            work, follow = Work(shared), threading.Event()
            with _logged("watching") as watching:
                crew = Crew(work, [Inbox("exports", follow), Following("exports", follow)], SystemClock())
                assert watching.wait(TIMEOUT_S)
            try:
                yield
            finally:
                crew.stop()
                assert crew.join(TIMEOUT_S) == ()

    def drop(self, name: str, *, number: int = 0, source: Path = HALF_PLUS_TWO, model: str = MODEL) -> Path:
        """Renames an export with bytes of its own number into the inbox."""
        made = made_export(self.root / "made" / name, number=number, source=source)
        goal = self.inbox / model / name
        # An export takes longer to be made than the clock of the file system takes to tick.
        threading.Event().wait(0.02)
        goal.parent.mkdir(parents=True, exist_ok=True)
        return made.rename(goal)

    def events(self, kind: EventKind) -> list[Event]:
        """The recorded events of a kind, oldest first."""
        with opened(load(directory=self.root, environment={}).settings, Observer()) as deployment:
            return [event for event in deployment.lineage.events() if event.content.kind is kind]

    def published(self) -> list[str]:
        """Where the published versions came from, in order: names below the inbox."""
        return [
            str(Path(event.content.data["manifest"]["provenance"]["source"]).relative_to(self.inbox))
            for event in self.events(EventKind.VERSION_PUBLISHED)
        ]

    def versions(self, model: str = MODEL) -> list[int]:
        """The versions in the repository, ascending."""
        return sorted(int(path.name) for path in (self.root / "models" / model).glob("[0-9]*"))

    def refused(self) -> list[str]:
        """The exports that were refused, in order."""
        return [event.content.data["export"] for event in self.events(EventKind.VERSION_REFUSED)]

    def manifest(self, version: int, model: str = MODEL) -> dict[str, Any]:
        path = self.root / "models" / model / str(version) / MANIFEST_PATH
        document: dict[str, Any] = json.loads(path.read_text())
        return document


def inbox_workspace(root: Path, *, more: str = "", **settings: str) -> InboxWorkspace:
    """Returns a workspace whose inbox has these settings, as TOML values; nothing becomes complete by waiting."""
    chosen = {"path": '"exports"', "settle_s": f'"{NEVER}"', "poll_interval_s": '"100ms"', **settings}
    table = "\n".join(f"{name} = {value}" for name, value in chosen.items())
    targets = "[targets.local]\nrest_port = 0\ngrpc_port = 0\ngates = []\n"
    workspace = Workspace.make(root, targets=f"{targets}[inboxes.exports]\n{table}\n{more}")
    (root / "exports" / MODEL).mkdir(parents=True)
    return InboxWorkspace(workspace)


@contextmanager
def _logged(words: str) -> Iterator[threading.Event]:
    """Gives an event that is set when a log line with these words is written."""
    logger, heard = logging.getLogger("deployctl.daemon"), threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                heard.set()

    listener, level = Listener(), logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield heard
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)


def made_export(directory: Path, *, number: int = 0, source: Path = HALF_PLUS_TWO) -> Path:
    """Makes an export; `number` decides its bytes."""
    shutil.copytree(source, directory)
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "number").write_text(str(number))
    return directory


def until(true: Callable[[], bool], what: str) -> None:
    """Waits until something is true."""
    deadline, pause = time.monotonic() + TIMEOUT_S, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.05)
