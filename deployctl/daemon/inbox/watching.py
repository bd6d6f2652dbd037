"""The duty that publishes what arrives in an inbox, each export once, when it is complete."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from deployctl.config.daemon_settings import InboxSettings
from deployctl.config.settings import Settings
from deployctl.daemon.inbox.handling import Handling
from deployctl.daemon.inbox.hints import Watch, watching
from deployctl.daemon.inbox.judge import Judge
from deployctl.daemon.inbox.memory import FollowUps, Memory
from deployctl.daemon.inbox.place import Place
from deployctl.daemon.inbox.scan import Ready, Scan
from deployctl.daemon.interface import Duty, Work
from deployctl.repository.durable import storage_errors
from deployctl.repository.opening import scheme_of

_log = logging.getLogger(__name__)
# So many failures in a row that may pass are not the fault of single exports.
_FAILURES_IN_A_ROW = 3
# An end and a hint may both wake us; only the hint does so at once.
_LONGEST_WAIT_S = 0.5


def inbox_directory(settings: Settings, inbox: str) -> Path:
    """Returns where the state of the inbox of that name is kept."""
    return settings.state_path / "inboxes" / inbox


@dataclass(frozen=True, slots=True)
class Inbox(Duty):
    """Watches one inbox.

    Attributes:
        inbox: its name in the settings.
        follow: set when something is to follow for a version that was published.
    """

    inbox: str
    follow: Event

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"inbox {self.inbox}"

    def run(self, work: Work) -> None:
        """Publishes what is complete until it is told to stop.

        Raises:
            StorageError: the inbox cannot be looked into, or nothing can be remembered of it.
        """
        settings = work.settings.inboxes[self.inbox]
        directory = inbox_directory(work.settings, self.inbox)
        memory, clock = Memory(directory), work.shared.context.clock
        judge = Judge(marked=bool(settings.marker), settle_s=settings.settle_s, stalled_s=settings.stalled_s)
        with ExitStack() as stack:
            place, watch = _opened(work, settings, stack)
            scan = Scan(place, watch, memory, judge, clock, poll_interval_s=settings.poll_interval_s)
            handle = Handling(work, self.inbox, place, memory, FollowUps(directory), judge, self.follow)
            ready = scan.ready()
            # From here on no event is missed.
            _log.info("watching %s", settings.path)
            while not work.stopping.is_set():
                _handle_all(work, self.inbox, ready, handle)
                if not ready:
                    _wait(work, watch, scan.next_at() - clock.monotonic())
                ready = scan.ready()


def _handle_all(work: Work, inbox: str, ready: list[Ready], handle: Handling) -> None:
    """Handles exports until an end, or until what keeps them from being published keeps all of them."""
    failures = 0
    for done, each in enumerate(ready):
        work.board.queue(inbox, len(ready) - done)
        if work.stopping.is_set() or failures >= _FAILURES_IN_A_ROW:
            return
        failures = 0 if handle(each) else failures + 1
    work.board.queue(inbox, 0)


def _wait(work: Work, watch: Watch | None, seconds: float) -> None:
    clock = work.shared.context.clock
    deadline = clock.monotonic() + seconds
    while not work.stopping.is_set() and (left_s := deadline - clock.monotonic()) > 0:
        if watch is None:
            work.pause(left_s)
        elif watch.hints.arrived.wait(min(left_s, _LONGEST_WAIT_S)):
            return


def _opened(work: Work, settings: InboxSettings, stack: ExitStack) -> tuple[Place, Watch | None]:
    """Returns the place of an inbox, and what watches it where something can."""
    done, failed = settings.done_path or f"{settings.path}.done", settings.failed_path or f"{settings.path}.failed"
    if scheme_of(settings.path):
        from deployctl.daemon.inbox.s3 import open_place

        return open_place(work, settings, done=done, failed=failed), None
    from deployctl.daemon.inbox.directory import DirectoryPlace

    root = work.settings.root
    place = DirectoryPlace(root / settings.path, settings.marker, done=root / done, failed=root / failed)
    with storage_errors("make the inbox", place.path):
        place.path.mkdir(exist_ok=True)
    place.clear_up()
    return place, stack.enter_context(watching(place.path))
