"""What the daemon's duties are, and what each is given to work with."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from deployctl.bootstrap import Deployment
from deployctl.config.settings import Settings
from deployctl.daemon.board import Board
from deployctl.daemon.logs import LogObserver, operation_logged
from deployctl.daemon.metrics import MetricsPage
from deployctl.domain.authority import Authority
from deployctl.domain.clock import Observer
from deployctl.domain.event import Actor
from deployctl.errors import LockedError


@dataclass(frozen=True, slots=True)
class Work:
    """What a duty works with until it is told to stop.

    Attributes:
        shared: holds the connections that every operation of the daemon uses.
        stopping: set once the duty must return soon.
        board: what duties know of the targets, for each other and for the API.
        metrics: what `metrics_page` remembers from one page to the next.
        leads: whether this daemon still has the lease, as far as it can know without asking.
    """

    shared: Deployment
    stopping: threading.Event = field(default_factory=threading.Event)
    board: Board = field(default_factory=Board)
    metrics: MetricsPage = field(default_factory=MetricsPage)
    leads: Callable[[], bool] = lambda: True

    @property
    def settings(self) -> Settings:
        """The settings; new ones come with new work."""
        return self.shared.settings

    def pause(self, seconds: float) -> bool:
        """Returns after `seconds`, or as soon as the duty must return, which is what is told."""
        return self.stopping.wait(seconds)

    @contextmanager
    def operation(
        self,
        command: str,
        *,
        actor: Actor | None = None,
        observer: Observer | None = None,
        authority: Authority | None = None,
    ) -> Iterator[Deployment]:
        """Gives deployctl for one operation, with an id of its own that the log lines of this thread carry meanwhile.

        Args:
            command: what is recorded as the command line, such as "daemon: inbox exports".
            actor: who acts; by default the user that the daemon runs as.
            observer: hears of progress; by default it is logged.
            authority: what whoever acts may do; by default everything.

        Raises:
            LockedError: this daemon has not renewed its lease in time, as one that was stopped for a while; another one
                may be at work.
        """
        if not self.leads():
            raise LockedError("this daemon has not renewed its lease, and begins nothing", hint="deployctl status")
        ours = self.shared.context.actor
        who = actor or Actor(ours.user, ours.host, ours.ci, command)
        deployment = Deployment(
            self.settings, observer or LogObserver(), actor=who, authority=authority, over=self.shared
        )
        with operation_logged(deployment.context.operation):
            yield deployment


class Duty(abc.ABC):
    """One of the things that the daemon does all the time, in a thread of its own while the daemon leads.

    A duty keeps nothing in memory that must not be lost: it may be killed at any moment, and is made anew when the
    settings change.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What logs call it."""

    @abc.abstractmethod
    def run(self, work: Work) -> None:
        """Works until `work.stopping` is set.

        What it raises is logged, and it is run again after a pause that grows with each time.
        """
