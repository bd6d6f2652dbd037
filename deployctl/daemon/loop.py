"""The daemon's life: it leads or stands by, rereads its settings, and ends in good order."""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType

from deployctl.bootstrap import Deployment, opened
from deployctl.config.settings import Settings
from deployctl.daemon.crew import Crew
from deployctl.daemon.duties import duties
from deployctl.daemon.interface import Work
from deployctl.daemon.logs import LogObserver
from deployctl.daemon.systemd import notify, watchdog_interval_s
from deployctl.errors import DatabaseError, DeployctlError, LeaseLostError
from deployctl.lineage.leadership import Leadership

_log = logging.getLogger(__name__)
# How often it is looked whether a step that new settings wait for is done.
_LOOK_S = 0.2


class Daemon:
    """One daemon process.

    Args:
        load: reads the settings; raises SettingsError where they cannot be used.
    """

    def __init__(self, load: Callable[[], Settings]) -> None:
        self._load = load
        self._wake = threading.Event()
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._ending = False
        self._reloading = False

    def run(self) -> None:
        """Returns when SIGTERM or SIGINT has come and the steps in progress are finished or parked.

        Raises:
            SettingsError: the settings cannot be used.
            DatabaseError: the lineage database cannot be used.
            LeaseLostError: another daemon leads, and a step of this one does not end.
        """
        settings = self._load()
        with self._signals():
            while not self._ending:
                settings = self._under(settings)
        _log.info("ended")

    def _under(self, settings: Settings) -> Settings:
        """Works under `settings` until the end, or until there are new ones, which are returned."""
        with ExitStack() as stack:
            shared = stack.enter_context(_usable(settings))
            leadership = stack.enter_context(shared.leadership(self._holder, settings.daemon.lease_s))
            following = _Term(shared, leadership, self._wake, lambda: self._ending).serve(self._next_settings)
            if self._ending:
                with suppress(DatabaseError):
                    leadership.give_up()
            return following

    def _next_settings(self, current: Settings) -> Settings | None:
        """Returns the settings to go on with when something has woken us, None to go on as before."""
        if self._ending:
            return current
        if not self._reloading:
            return None
        self._reloading = False
        notify(f"RELOADING=1\nMONOTONIC_USEC={_monotonic_us()}")
        try:
            loaded = self._load()
            with _usable(loaded):
                pass
        except DeployctlError as error:
            _log.error("the settings are kept as they were: %s", error)
            notify("READY=1")
            return None
        _log.info("the settings were read again")
        return loaded

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def end(number: int, _: FrameType | None) -> None:
            del number
            notify("STOPPING=1")
            self._ending = True
            self._wake.set()

        def reload(number: int, _: FrameType | None) -> None:
            del number
            self._reloading = True
            self._wake.set()

        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, end),
            signal.SIGINT: signal.signal(signal.SIGINT, end),
            signal.SIGHUP: signal.signal(signal.SIGHUP, reload),
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _usable(settings: Settings) -> Iterator[Deployment]:
    """Gives deployctl under these settings; what cannot be used is told now, and not by each duty."""
    with opened(settings, LogObserver()) as shared:
        shared.repository, shared.lineage.folded_sequence()
        yield shared


class _Term:
    """The time of a daemon under one set of settings.

    Args:
        wake: set when there is something to be asked of `next_settings`.
        ending: whether the daemon is to end.
    """

    def __init__(
        self, shared: Deployment, leadership: Leadership, wake: threading.Event, ending: Callable[[], bool]
    ) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._leadership = leadership
        self._wake = wake
        self._ending = ending
        self._clock = shared.context.clock
        self._crew: Crew | None = None
        self._renewed_at = -math.inf
        self._standing_by = False

    def serve(self, next_settings: Callable[[Settings], Settings | None]) -> Settings:
        """Leads while it may, stands by while another leads; returns the settings of the next term.

        Raises:
            LeaseLostError: another daemon leads, and a step of ours does not end.
        """
        notify("READY=1")
        lease_s = self._settings.daemon.lease_s
        pause_s = min(lease_s / 3, watchdog_interval_s() or lease_s)
        try:
            while True:
                notify("WATCHDOG=1")
                self._lead_or_stand_by()
                self._wake.wait(pause_s)
                self._wake.clear()
                found = next_settings(self._settings)
                if found is not None:
                    self._finish(min(pause_s, _LOOK_S))
                    return found
        finally:
            self._step_down()

    def _lead_or_stand_by(self) -> None:
        ours = self._hold()
        if ours is None:
            # Nobody can tell who leads. What is at work begins nothing once the lease may be another's; the API says
            # what is away.
            return
        if ours and self._crew is None:
            _log.info("leading")
            self._standing_by = False
            self._crew = Crew(Work(self._shared, leads=self._leads), list(duties(self._settings)), self._clock)
        elif not ours:
            self._step_aside()
            if not self._standing_by:
                self._standing_by = True
                _log.info("standing by for %s", self._other())

    def _other(self) -> str:
        """Returns who leads, for the log: a database that is away again is no reason to end."""
        with suppress(DatabaseError):
            return self._leadership.holder() or "nobody any more"
        return "another daemon"

    def _hold(self) -> bool | None:
        """Takes or renews the lease; returns whether it is ours, None where the database cannot be asked."""
        asked_at = self._clock.monotonic()
        try:
            ours = self._leadership.hold()
        except DatabaseError as error:
            _log.error("the lease of the daemon was not renewed: %s", error)
            return None
        self._renewed_at = asked_at if ours else -math.inf
        return ours

    def _leads(self) -> bool:
        """Whether no other daemon can lead yet, for all that we know."""
        return self._clock.monotonic() - self._renewed_at < self._settings.daemon.lease_s

    def _finish(self, pause_s: float) -> None:
        """Lets steps in progress end before there are new settings, however long they take, unless the daemon ends."""
        if self._crew is None:
            return
        self._crew.stop()
        told_at = self._clock.monotonic() + self._settings.daemon.stop_timeout_s
        while not self._ending() and (left := self._crew.join(pause_s)):
            notify("WATCHDOG=1")
            if self._hold() is False:
                self._step_aside()
                return
            if self._clock.monotonic() >= told_at:
                told_at = math.inf
                _log.warning("the new settings wait for the end of a step of %s", " and of ".join(left))

    def _step_aside(self) -> None:
        """Ends the work since another daemon leads; what does not end would go on beside it, and ends the process."""
        if parked := self._step_down():
            raise LeaseLostError(f"another daemon leads, and {parked[0]} is still in the middle of a step")

    def _step_down(self) -> tuple[str, ...]:
        """Ends the work; returns which duties are still in the middle of a step."""
        crew, self._crew = self._crew, None
        if crew is None:
            return ()
        crew.stop()
        parked = crew.join(self._settings.daemon.stop_timeout_s)
        for name in parked:
            _log.warning("%s is parked in the middle of a step; what it left is settled at the next start", name)
        return parked


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000
