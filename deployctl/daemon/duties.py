"""Which duties a daemon has under its settings."""

from __future__ import annotations

from collections.abc import Iterator

from deployctl.config.settings import Settings
from deployctl.daemon.interface import Duty


def duties(settings: Settings) -> Iterator[Duty]:
    """Yields the duties; what one needs is imported when it is yielded."""
    if settings.daemon.listen:
        from deployctl.daemon.api.server import Api
        from deployctl.daemon.api.upkeep import ClientUpkeep

        yield Api()
        yield ClientUpkeep()
    if settings.notifications:
        from deployctl.daemon.notify import Notifications

        yield Notifications()
    for inbox in settings.inboxes:
        from threading import Event

        from deployctl.daemon.inbox.follow import Following
        from deployctl.daemon.inbox.watching import Inbox

        follow = Event()
        yield Inbox(inbox, follow)
        yield Following(inbox, follow)
    if settings.targets:
        from deployctl.daemon.health import TargetHealthDuty
        from deployctl.daemon.reconcile import TargetReconciliation, Upkeep
        from deployctl.system import SystemClock

        yield Upkeep(SystemClock())
        for target in settings.targets:
            yield TargetReconciliation(target, SystemClock())
            yield TargetHealthDuty(target, SystemClock())
