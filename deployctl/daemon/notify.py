"""The duty that tells others what happened: each channel in a thread of its own, so that none waits for another."""

from __future__ import annotations

import logging
import os
import random
import threading
from datetime import timedelta

from deployctl.config.daemon_settings import NotificationSettings
from deployctl.config.settings import Settings
from deployctl.daemon.interface import Duty, Work
from deployctl.daemon.notify_call import Call, Webhook, webhook
from deployctl.daemon.notify_words import notice, wanted
from deployctl.domain.clock import Clock
from deployctl.errors import DatabaseError, DeployctlError, NotificationError
from deployctl.lineage.deliveries import Deliveries, Delivery

_log = logging.getLogger(__name__)
# How often the database is asked whether there is something to tell.
_LOOK_S = 1.0
_TROUBLE_S = 5.0
_END_S = 3.0


class Notifications(Duty):
    """Delivers events to the webhooks of the settings, at least once each."""

    @property
    def name(self) -> str:
        """What logs call it."""
        return "notifications"

    def run(self, work: Work) -> None:
        """Works until `work.stopping` is set; a channel that cannot be called keeps its events."""
        with work.shared.deliveries() as deliveries:
            channels = self._channels(work, deliveries)
            _log.info("telling %s", ", ".join(channels) or "nobody")
            try:
                while not work.stopping.is_set():
                    for name in deliveries.look() & channels.keys():
                        channels[name].wake()
                    work.pause(_LOOK_S)
            finally:
                for channel in channels.values():
                    channel.end()
                for channel in channels.values():
                    channel.join(_END_S)

    def _channels(self, work: Work, deliveries: Deliveries) -> dict[str, Channel]:
        channels = {}
        for name, settings in work.settings.notifications.items():
            # Known from here on, so that what happens while it cannot be called is not lost.
            deliveries.begin(name)
            try:
                hook = webhook(name, settings, os.environ)
            except DeployctlError as error:
                _log.error("%s; its events wait", error)
                continue
            channels[name] = Channel(hook, settings, work.settings, deliveries, work.shared.context.clock)
        return channels


class Channel:
    """One webhook with its thread, which sleeps until it is woken."""

    def __init__(
        self,
        hook: Webhook,
        own: NotificationSettings,
        settings: Settings,
        deliveries: Deliveries,
        clock: Clock,
    ) -> None:
        self._hook = hook
        self._own = own
        self._settings = settings
        self._deliveries = deliveries
        self._clock = clock
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._call: Call | None = None
        self._random = random.Random()
        self._thread = threading.Thread(target=self._serve, name=f"notifications.{hook.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Says that there is something to do."""
        self._woken.set()

    def end(self) -> None:
        """Tells the thread to end; a call that is under way is given up, and made again at the next start."""
        self._ending.set()
        self._woken.set()
        with self._lock:
            if self._call is not None:
                self._call.give_up()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread's end, for at most `timeout_s` seconds."""
        self._thread.join(timeout_s)

    def _serve(self) -> None:
        while True:
            self._woken.wait()
            if self._ending.is_set():
                return
            self._woken.clear()
            try:
                self._do_all()
            except DatabaseError as error:
                _log.error("%s waits for the database: %s", self._hook.name, error)
                self._ending.wait(_TROUBLE_S)
            except Exception:  # noqa: BLE001 - a bug in one channel must not end it for good; it is told with its trace
                _log.exception("%s failed by a bug; again in %g s", self._hook.name, _TROUBLE_S)
                self._ending.wait(_TROUBLE_S)

    def _do_all(self) -> None:
        """Returns when nothing is due any more."""
        channel = self._hook.name
        while not self._ending.is_set():
            looked_at = self._deliveries.take_in(channel, lambda each: wanted(self._settings, self._own.events, each))
            delivery = self._deliveries.due(channel)
            if delivery is not None:
                self._deliver(delivery)
            elif not looked_at:
                return

    def _deliver(self, delivery: Delivery) -> None:
        happening = self._deliveries.happening(delivery.sequence)
        found = notice(self._settings, happening) if happening else None
        if found is None:
            # The settings have changed since, so that this is nothing to tell any more.
            self._deliveries.delivered(delivery)
            return
        call = Call(self._hook)
        with self._lock:
            self._call = call
        if self._ending.is_set():
            return
        try:
            call(found, timestamp=int(self._clock.now().timestamp()))
        except NotificationError as error:
            # A call that we gave up ourselves says nothing of its receiver.
            if not self._ending.is_set():
                self._failed(delivery, error)
        else:
            self._deliveries.delivered(delivery)
            _log.info("%s was told of event %d: %s", self._hook.name, delivery.sequence, found.text)
        finally:
            with self._lock:
                self._call = None

    def _failed(self, delivery: Delivery, error: NotificationError) -> None:
        attempts = delivery.attempts + 1
        what = f"{self._hook.name} was not told of event {delivery.sequence} at attempt {attempts}: {error}"
        if attempts >= self._own.attempts:
            self._deliveries.failed(delivery, str(error), again_at=None)
            _log.error("%s; given up: deployctl notifications retry %s", what, self._hook.name)
            return
        pause_s = self._pause_s(attempts, error.retry_after_s)
        again_at = self._clock.now() + timedelta(seconds=pause_s)
        self._deliveries.failed(delivery, str(error), again_at=again_at)
        _log.warning("%s; again in %.1f s", what, pause_s)

    def _pause_s(self, attempts: int, retry_after_s: float) -> float:
        """Returns the pause after so many attempts: it doubles, and varies so that not all come at once."""
        longest = self._own.max_retry_s
        # Past 2**40 every pause is the longest, and a float ends at 2**1023.
        pause_s = min(longest, self._own.retry_s * 2.0 ** min(attempts - 1, 40))
        return max(pause_s * self._random.uniform(0.5, 1.0), min(retry_after_s, longest))
