"""The page that Prometheus reads: what is recorded, what targets serve, and what operations took.

It costs at most one look every few seconds however often it is asked for, and a target that hangs keeps nobody
waiting: each is looked at in a thread of its own, and after a moment the page shows what was known of it.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl import __version__
from deployctl.daemon.board import ModelHealth, TargetHealth
from deployctl.daemon.metrics_text import Durations, Page
from deployctl.domain.names import TargetName
from deployctl.domain.operation import OperationRecord, OperationState
from deployctl.domain.serving import ServerCondition
from deployctl.errors import DatabaseError, DeployctlError
from deployctl.operations.rollout import RolloutClass
from deployctl.operations.status import ModelOnTarget, TargetStatus, target_status

if TYPE_CHECKING:
    from deployctl.daemon.interface import Work
    from deployctl.lineage.tallies import Tally

_log = logging.getLogger(__name__)
# A page is shown again for so long, and waits so long for targets; Prometheus gives up after 10 s by default.
_FRESH_S = 3.0
_PATIENCE_S = 2.0
# How operations end, by the exit code; what is not here has failed with nothing changed.
_OUTCOMES = {0: "done", 3: "refused", 4: "unknown", 5: "restored", 6: "degraded", 130: "interrupted"}


def metrics_page(work: Work) -> str:
    """Returns the page in Prometheus' text format; whatever fails, there is one."""
    return work.metrics.text(work)


class MetricsPage:
    """The newest page with what is remembered between two of them; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text = ""
        self._made_at = 0.0
        self._looks: dict[TargetName, _Look] = {}
        self._tally: Tally | None = None
        self._durations = Durations()
        self._counted: set[str] = set()
        self._since: datetime | None = None

    def text(self, work: Work) -> str:
        """Returns the page, made now unless there is one of a moment ago."""
        with self._lock:
            if not self._text or time.monotonic() - self._made_at > _FRESH_S:
                self._text = self._make(work)
                self._made_at = time.monotonic()
            return self._text

    def _make(self, work: Work) -> str:
        page = Page()
        page.add("deployctl_build_info", 1, __version__, platform.python_version())
        self._start_looks(work)
        self._add_lineage(page, work)
        self._add_operations(page, work)
        _add_inboxes(page, work)
        _add_process(page)
        self._add_targets(page, work)
        return page.text(self._durations)

    def _start_looks(self, work: Work) -> None:
        for name in work.settings.targets:
            look = self._looks.setdefault(name, _Look(name))
            look.start(work)

    def _add_targets(self, page: Page, work: Work) -> None:
        until = time.monotonic() + _PATIENCE_S
        for name in work.settings.targets:
            look = self._looks[name]
            answered = look.wait(until - time.monotonic())
            page.add("deployctl_target_looked_at", answered, name)
            _add_target(page, name, look.found, work.board.target(name))

    def _add_lineage(self, page: Page, work: Work) -> None:
        from deployctl.lineage.tallies import Tally

        page.add("deployctl_lineage_intact", not work.board.lineage_problem)
        before = self._tally or Tally()
        try:
            with work.shared.tallies() as tallies:
                self._tally = tallies.tally(before)
                ours = tallies.leader().startswith(f"{socket.gethostname()}:{os.getpid()}:")
            self._add_channels(page, work)
        except DatabaseError as error:
            _log.warning("the metrics page goes without the lineage: %s", error)
            page.add("deployctl_lineage_up", 0)
            return
        page.add("deployctl_lineage_up", 1)
        page.add("deployctl_leading", ours)
        for (kind, target), count in sorted(self._tally.events.items()):
            page.add("deployctl_events_total", count, kind, target)
        if self._tally.at is not None:
            page.add("deployctl_last_event_timestamp_seconds", self._tally.at.timestamp())

    def _add_channels(self, page: Page, work: Work) -> None:
        if not work.settings.notifications:
            return
        with work.shared.deliveries() as deliveries:
            states = deliveries.states()
        for name in work.settings.notifications:
            state = states.get(name)
            if state is not None:
                page.add("deployctl_notifications_outstanding", state.outstanding + state.behind, name)
                page.add("deployctl_notifications_failing", state.failing, name)
                page.add("deployctl_notifications_dead", state.dead, name)

    def _add_operations(self, page: Page, work: Work) -> None:
        context = work.shared.context
        self._since = self._since or context.clock.now()
        records = context.journal.operations()
        self._count(records, self._since)
        running: dict[str, int] = {}
        for record in records:
            if record.state is OperationState.RUNNING:
                running[record.request.verb] = running.get(record.request.verb, 0) + 1
        for verb, count in sorted(running.items()):
            page.add("deployctl_operations_running", count, verb)
        interrupted = [record for record in records if record.state is OperationState.INTERRUPTED]
        page.add("deployctl_operations_interrupted", len(interrupted))

    def _count(self, records: Iterable[OperationRecord], since: datetime) -> None:
        """Adds the operations that have ended to the durations, each once."""
        ended = {record.id: record for record in records if record.ended_at is not None and record.ended_at >= since}
        for record in ended.values():
            if record.id not in self._counted and record.ended_at is not None:
                outcome = _OUTCOMES.get(record.exit_code or 0, "failed")
                seconds = (record.ended_at - record.started_at).total_seconds()
                self._durations.add(max(0.0, seconds), (record.request.verb, outcome))
        # The journal forgets, and so may we.
        self._counted = set(ended)


class _Look:
    """The newest look at one target; there is never more than one under way."""

    def __init__(self, name: TargetName) -> None:
        self._name = name
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self.found: TargetStatus | None = None

    def start(self, work: Work) -> None:
        """Begins a look unless one is under way still."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._done.clear()
        self._thread = threading.Thread(target=self._run, args=(work,), name=f"metrics.{self._name}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Returns whether the look is over and has found something."""
        return self._done.wait(max(0.0, timeout_s))

    def _run(self, work: Work) -> None:
        try:
            with work.operation("daemon: metrics") as deployment:
                self.found = target_status(deployment.target(self._name), deployment.context)
        except DeployctlError as error:
            _log.warning("the metrics page goes without %s: %s", self._name, error)
        except Exception:  # noqa: BLE001 - a bug in the look at one target must not keep the page from being made
            _log.exception("the look at %s failed by a bug", self._name)
        else:
            self._done.set()


def _add_target(page: Page, name: TargetName, found: TargetStatus | None, health: TargetHealth) -> None:
    condition = found.state if found else health.condition
    if condition is not None:
        page.add("deployctl_target_up", condition is ServerCondition.READY, name)
        for state in ServerCondition:
            page.add("deployctl_target_state", condition is state, name, state.value)
    page.add("deployctl_target_degraded", health.degraded_since is not None, name)
    page.add("deployctl_target_problems", len(health.problems), name)
    page.add("deployctl_target_starts_total", health.starts, name)
    page.add("deployctl_target_memory_bytes", health.memory_bytes, name)
    for counted, each in sorted(health.models.items()):
        _add_health(page, (name, counted), each)
    if found is None:
        return
    page.add("deployctl_target_healthy", found.healthy, name)
    page.add("deployctl_target_frozen", bool(found.freezes), name)
    page.add("deployctl_target_drift", len(found.drift) + sum(len(model.drift) for model in found.models), name)
    for model in found.models:
        _add_model(page, (name, model.name), model)


def _add_model(page: Page, labels: tuple[str, str], model: ModelOnTarget) -> None:
    rollback = model.rollback
    page.add("deployctl_model_version", model.live, *labels)
    page.add("deployctl_model_revision", model.revision, *labels)
    page.add("deployctl_model_last_change_timestamp_seconds", model.since.timestamp(), *labels)
    page.add("deployctl_model_unreviewed", len(model.unreviewed), *labels)
    page.add("deployctl_rollback_ready", rollback is not None, *labels)
    if rollback is not None:
        page.add("deployctl_rollback_version", rollback.version, *labels)
        page.add("deployctl_rollback_estimate_seconds", rollback.estimate_s, *labels)
        for each in RolloutClass:
            page.add("deployctl_rollback_class", rollback.rollout_class is each, *labels, each.value)


def _add_health(page: Page, labels: tuple[str, str], health: ModelHealth) -> None:
    page.add("deployctl_model_requests_total", health.requests, *labels)
    page.add("deployctl_model_failed_requests_total", health.failed, *labels)
    page.add("deployctl_model_error_ratio", health.error_rate, *labels)
    page.add("deployctl_model_latency_seconds", health.latency_s, *labels)
    for version, problem in sorted(health.probes.items()):
        page.add("deployctl_model_probe_ok", not problem, *labels, str(version))


def _add_inboxes(page: Page, work: Work) -> None:
    for name, length in sorted(work.board.queues().items()):
        page.add("deployctl_inbox_waiting", length, name)
    for name in work.settings.inboxes:
        directory = work.settings.state_path / "inboxes" / name / "follow"
        page.add("deployctl_inbox_follow_ups", sum(1 for _ in directory.glob("*.json")), name)


def _add_process(page: Page) -> None:
    """Adds what Linux tells of this process (proc_pid_stat(5), proc_pid_statm(5)); nothing elsewhere."""
    times = os.times()
    page.add("process_cpu_seconds_total", round(times.user + times.system, 3))
    page.add("process_threads", threading.active_count())
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        page.add("process_resident_memory_bytes", pages * os.sysconf("SC_PAGE_SIZE"))
        page.add("process_open_fds", sum(1 for _ in Path("/proc/self/fd").iterdir()))
        ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        since_boot = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        age_s = since_boot - ticks / os.sysconf("SC_CLK_TCK")
        page.add("process_start_time_seconds", round(time.time() - age_s, 2))
