"""The daemon's life: it leads or stands by, rereads its settings, and ends in good order."""

from __future__ import annotations

import logging
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
from deployctl.errors import DatabaseError, DeployctlError
from deployctl.lineage.leadership import Leadership

_log = logging.getLogger(__name__)


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
        """
        settings = self._load()
        with self._signals():
            while not self._ending:
                settings = self._under(settings)
        _log.info("ended")

    def _under(self, settings: Settings) -> Settings:
        """Works under `settings` until the end, or until there are new ones, which are returned."""
        self._reloading = False
        with ExitStack() as stack:
            shared = stack.enter_context(opened(settings, LogObserver()))
            # Made now, so that what cannot be used is told at once, and not by each duty.
            shared.repository, shared.lineage.folded_sequence()
            leadership = stack.enter_context(shared.leadership(self._holder, settings.daemon.lease_s))
            following = _Term(shared, leadership, self._wake).serve(self._next_settings)
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


class _Term:
    """The time of a daemon under one set of settings."""

    def __init__(self, shared: Deployment, leadership: Leadership, wake: threading.Event) -> None:
        self._shared = shared
        self._settings = shared.settings
        self._leadership = leadership
        self._wake = wake
        self._clock = shared.context.clock
        self._crew: Crew | None = None
        self._renewed_at = self._clock.monotonic()
        self._standing_by = False

    def serve(self, next_settings: Callable[[Settings], Settings | None]) -> Settings:
        """Leads while it may, stands by while another leads; returns the settings of the next term."""
        notify("READY=1")
        pause_s = min(self._settings.daemon.lease_s / 3, watchdog_interval_s() or self._settings.daemon.lease_s)
        try:
            while True:
                notify("WATCHDOG=1")
                self._lead_or_stand_by()
                self._wake.wait(pause_s)
                self._wake.clear()
                found = next_settings(self._settings)
                if found is not None:
                    return found
        finally:
            self._step_down()

    def _lead_or_stand_by(self) -> None:
        try:
            ours = self._leadership.hold()
        except DatabaseError as error:
            _log.error("the lease of the daemon was not renewed: %s", error)
            ours = self._clock.monotonic() - self._renewed_at < self._settings.daemon.lease_s
        else:
            self._renewed_at = self._clock.monotonic() if ours else self._renewed_at
        if ours and self._crew is None:
            _log.info("leading")
            self._standing_by = False
            self._crew = Crew(Work(self._shared), list(duties(self._settings)), self._clock)
        elif not ours:
            self._step_down()
            if not self._standing_by:
                self._standing_by = True
                _log.info("standing by for %s", self._leadership.holder())

    def _step_down(self) -> None:
        crew, self._crew = self._crew, None
        if crew is None:
            return
        crew.stop()
        for name in crew.join(self._settings.daemon.stop_timeout_s):
            _log.warning("%s is parked in the middle of a step; what it left is settled at the next start", name)


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000
