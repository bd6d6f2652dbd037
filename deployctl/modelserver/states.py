"""What became of every version that this process has seen; nothing is ever forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from deployctl.domain.serving import VersionState
from deployctl.modelserver.interface import Code, VersionReport


@dataclass(frozen=True, slots=True)
class _Entry:
    serial: int
    report: VersionReport


class StateMonitor:
    """Keeps the last state of each version, and lets callers wait for one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._serial = 0
        self._entries: dict[str, dict[int, _Entry]] = {}

    @property
    def serial(self) -> int:
        """Counts reports: a mark to wait from."""
        with self._condition:
            return self._serial

    def report(self, name: str, report: VersionReport) -> None:
        """Notes the new state of a version."""
        with self._condition:
            self._serial += 1
            self._entries.setdefault(name, {})[report.version] = _Entry(self._serial, report)
            self._condition.notify_all()

    def versions(self, name: str) -> tuple[VersionReport, ...]:
        """Returns every version of `name` ever seen, descending."""
        with self._condition:
            entries = self._entries.get(name, {})
            return tuple(entries[version].report for version in sorted(entries, reverse=True))

    def available(self, name: str, version: int) -> bool:
        """Whether requests to `version` are answered now."""
        with self._condition:
            entry = self._entries.get(name, {}).get(version)
            return entry is not None and entry.report.state is VersionState.AVAILABLE

    def wait_settled(
        self, names: Collection[str], *, since: int, idle_timeout_s: float
    ) -> dict[str, VersionReport | None]:
        """Waits until each of `names` has a version that is AVAILABLE, or failed, by a report after `since`.

        Loading may take as long as it takes; what is not waited for is a model of which nothing is heard.

        Args:
            names: models.
            since: a `serial`; older reports do not count.
            idle_timeout_s: how long a model may have no version at all.

        Returns:
            By model, the highest version that settled; None where no version turned up in time.
        """
        deadline = time.monotonic() + idle_timeout_s
        with self._condition:
            while True:
                settled = {name: self._settled(name, since) for name in names}
                missing = [name for name, report in settled.items() if report is None]
                if not missing:
                    return settled
                unheard = not all(self._heard(name, since) for name in missing)
                left = deadline - time.monotonic()
                if unheard and left <= 0 and all(not self._heard(name, since) for name in missing):
                    return settled
                self._condition.wait(max(left, 0.0) if unheard and left > 0 else None)

    def _heard(self, name: str, since: int) -> bool:
        return any(
            entry.serial > since and not _unloaded(entry.report) for entry in self._entries.get(name, {}).values()
        )

    def _settled(self, name: str, since: int) -> VersionReport | None:
        entries = self._entries.get(name, {})
        for version in sorted(entries, reverse=True):
            entry = entries[version]
            if entry.serial > since and _decided(entry.report):
                return entry.report
        return None


def _unloaded(report: VersionReport) -> bool:
    return report.state is VersionState.END and report.code is Code.OK


def _decided(report: VersionReport) -> bool:
    return report.state is VersionState.AVAILABLE or (report.state is VersionState.END and not _unloaded(report))
