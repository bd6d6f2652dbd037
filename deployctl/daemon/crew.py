"""Runs the daemon's duties, each in its thread, under one set of settings."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from deployctl.daemon.interface import Duty, Work
from deployctl.domain.clock import Clock
from deployctl.errors import DeployctlError

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# A duty that ran for so long before it failed begins with the first pause again.
_STEADY_S = 60.0


class Crew:
    """The duties at work."""

    def __init__(self, work: Work, duties: Sequence[Duty], clock: Clock) -> None:
        self._work = work
        self._clock = clock
        # Daemon threads: one that is parked must not keep the process.
        self._threads = [
            threading.Thread(target=self._keep, args=(duty,), name=duty.name, daemon=True) for duty in duties
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Tells every duty to return."""
        self._work.stopping.set()

    def join(self, timeout_s: float) -> tuple[str, ...]:
        """Waits for the duties to return; returns the names of those that had not after `timeout_s` seconds."""
        until = self._clock.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock.monotonic()))
        return tuple(thread.name for thread in self._threads if thread.is_alive())

    def _keep(self, duty: Duty) -> None:
        """Runs a duty for as long as it is wanted, however it fails."""
        pause_s = _FIRST_PAUSE_S
        while not self._work.stopping.is_set():
            began = self._clock.monotonic()
            try:
                duty.run(self._work)
            except DeployctlError as error:
                _log.error("%s; again in %g s", error, pause_s)
            except Exception:  # noqa: BLE001 - a bug in one duty must not end the others; it is told with its trace
                _log.exception("%s ended by a bug; again in %g s", duty.name, pause_s)
            if self._clock.monotonic() - began > _STEADY_S:
                pause_s = _FIRST_PAUSE_S
            self._work.pause(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
