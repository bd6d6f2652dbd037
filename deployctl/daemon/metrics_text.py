"""What the daemon measures, by name, and Prometheus' text format of it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

# https://prometheus.io/docs/instrumenting/exposition_formats/
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class Kind(StrEnum):
    """What may be done with a metric's numbers."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        help: what it tells; a unit is in the name.
    """

    kind: Kind
    labels: tuple[str, ...]
    help: str


_TARGET = ("target",)
_MODEL = ("target", "model")
_OPERATION = ("verb", "outcome")
# In the order of the page.
METRICS: Mapping[str, Metric] = {
    "deployctl_build_info": Metric(Kind.GAUGE, ("version", "python"), "1; what runs is in the labels."),
    "deployctl_leading": Metric(Kind.GAUGE, (), "Whether this daemon leads (1), or stands by (0)."),
    "deployctl_lineage_up": Metric(Kind.GAUGE, (), "Whether the lineage database could be read."),
    "deployctl_lineage_intact": Metric(
        Kind.GAUGE, (), "Whether the projections agree with the events, as the reconciliation last found them."
    ),
    "deployctl_events_total": Metric(
        Kind.COUNTER, ("kind", "target"), "Recorded events since the database was made; target is empty without one."
    ),
    "deployctl_last_event_timestamp_seconds": Metric(Kind.GAUGE, (), "When the newest event was recorded."),
    "deployctl_target_up": Metric(Kind.GAUGE, _TARGET, "Whether the target's server is READY."),
    "deployctl_target_state": Metric(Kind.GAUGE, ("target", "state"), "1 for the state that the server is in, else 0."),
    "deployctl_target_healthy": Metric(
        Kind.GAUGE, _TARGET, "Whether the server answers and serves what is recorded, as status says."
    ),
    "deployctl_target_looked_at": Metric(
        Kind.GAUGE, _TARGET, "Whether the target answered while the page was made; if not, what was known is shown."
    ),
    "deployctl_target_drift": Metric(Kind.GAUGE, _TARGET, "Differences between what is served and what is recorded."),
    "deployctl_target_degraded": Metric(Kind.GAUGE, _TARGET, "Whether the target is recorded as degraded."),
    "deployctl_target_problems": Metric(Kind.GAUGE, _TARGET, "What the daemon holds against the target, counted."),
    "deployctl_target_frozen": Metric(Kind.GAUGE, _TARGET, "Whether promotions, of all models or of one, are frozen."),
    "deployctl_target_starts_total": Metric(
        Kind.COUNTER, _TARGET, "How often another server was found in the place of the one before."
    ),
    "deployctl_target_memory_bytes": Metric(
        Kind.GAUGE, _TARGET, "What the server holds; absent where nobody can tell."
    ),
    "deployctl_model_version": Metric(Kind.GAUGE, _MODEL, "The version that clients reach; absent without one."),
    "deployctl_model_revision": Metric(Kind.GAUGE, _MODEL, "The current revision's number."),
    "deployctl_model_last_change_timestamp_seconds": Metric(Kind.GAUGE, _MODEL, "Since when the revision serves."),
    "deployctl_model_unreviewed": Metric(
        Kind.GAUGE, _MODEL, "Changes past a gate or a freeze that nobody has reviewed."
    ),
    "deployctl_rollback_ready": Metric(Kind.GAUGE, _MODEL, "Whether there is a last known good to roll back to."),
    "deployctl_rollback_version": Metric(
        Kind.GAUGE, _MODEL, "The version that a rollback leads to; absent without one."
    ),
    "deployctl_rollback_class": Metric(
        Kind.GAUGE, (*_MODEL, "class"), "1 for how far that version is: hot (loaded), warm (on disk), cold (elsewhere)."
    ),
    "deployctl_rollback_estimate_seconds": Metric(
        Kind.GAUGE, _MODEL, "How long a rollback should take, by the target's history; absent without any."
    ),
    "deployctl_model_requests_total": Metric(Kind.COUNTER, _MODEL, "Requests that the server has counted."),
    "deployctl_model_failed_requests_total": Metric(Kind.COUNTER, _MODEL, "Those of them that failed."),
    "deployctl_model_error_ratio": Metric(
        Kind.GAUGE, _MODEL, "The share of the last minute's requests that failed; absent without any."
    ),
    "deployctl_model_latency_seconds": Metric(
        Kind.GAUGE, _MODEL, "The last minute's mean latency in the server; absent without requests."
    ),
    "deployctl_model_probe_ok": Metric(
        Kind.GAUGE, (*_MODEL, "version"), "Whether the version answers its golden requests as is recorded."
    ),
    "deployctl_operations_running": Metric(Kind.GAUGE, ("verb",), "Operations under way on this machine."),
    "deployctl_operations_interrupted": Metric(
        Kind.GAUGE, (), "Operations that were cut off, and whose leftovers nobody has put right."
    ),
    "deployctl_operation_duration_seconds": Metric(
        Kind.HISTOGRAM, _OPERATION, "How long operations took that have ended since this daemon leads."
    ),
    "deployctl_inbox_waiting": Metric(
        Kind.GAUGE, ("inbox",), "Complete exports that wait to be published; absent before the inbox was looked into."
    ),
    "deployctl_inbox_follow_ups": Metric(
        Kind.GAUGE, ("inbox",), "Published versions for which promotions or the retention are still to be done."
    ),
    "deployctl_notifications_outstanding": Metric(
        Kind.GAUGE, ("channel",), "What a channel is still to be told, further events included that nobody looked at."
    ),
    "deployctl_notifications_failing": Metric(Kind.GAUGE, ("channel",), "Deliveries that have failed at least once."),
    "deployctl_notifications_dead": Metric(Kind.GAUGE, ("channel",), "Deliveries that were given up."),
    "process_cpu_seconds_total": Metric(Kind.COUNTER, (), "Processor time that the daemon has taken."),
    "process_resident_memory_bytes": Metric(Kind.GAUGE, (), "Memory that the daemon holds."),
    "process_threads": Metric(Kind.GAUGE, (), "The daemon's threads."),
    "process_open_fds": Metric(Kind.GAUGE, (), "The daemon's open files and connections."),
    "process_start_time_seconds": Metric(Kind.GAUGE, (), "When the daemon was started."),
}


@dataclass(slots=True)
class Durations:
    """A histogram of durations for each combination of label values; `counts` has one more than the limits."""

    counts: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    sums: dict[tuple[str, ...], float] = field(default_factory=dict)

    def add(self, seconds: float, labels: tuple[str, ...]) -> None:
        """Counts one duration."""
        cell = self.counts.setdefault(labels, [0] * (len(BUCKETS_S) + 1))
        cell[bisect_left(BUCKETS_S, seconds)] += 1
        self.sums[labels] = self.sums.get(labels, 0.0) + seconds

    def lines(self, name: str, names: Sequence[str]) -> Iterable[str]:
        """Yields the cumulative buckets, sum and count of each combination."""
        limits = [*(f"{limit:g}" for limit in BUCKETS_S), "+Inf"]
        for labels, cell in sorted(self.counts.items()):
            total = 0
            for limit, count in zip(limits, cell, strict=True):
                total += count
                yield _line(f"{name}_bucket", (*names, "le"), (*labels, limit), total)
            yield _line(f"{name}_sum", names, labels, self.sums[labels])
            yield _line(f"{name}_count", names, labels, total)


class Page:
    """The samples of one page."""

    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[tuple[str, ...], float]]] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Adds a sample with the values of the metric's labels, in their order; None adds nothing.

        Raises:
            ValueError: it has another number of labels.
        """
        if len(labels) != len(METRICS[name].labels):
            raise ValueError(f"{name} has the labels {METRICS[name].labels}, not {labels}")
        if value is not None:
            self._samples.setdefault(name, []).append((labels, value))

    def text(self, durations: Durations) -> str:
        """Returns the page; `durations` are those of the operations."""
        lines: list[str] = []
        for name, metric in METRICS.items():
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
            if metric.kind is Kind.HISTOGRAM:
                lines += durations.lines(name, metric.labels)
            lines += (_line(name, metric.labels, labels, value) for labels, value in self._samples.get(name, ()))
        return "\n".join(lines) + "\n"


def _line(name: str, names: Sequence[str], values: Sequence[str], number: float) -> str:
    labels = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(names, values, strict=True))
    return f"{name}{{{labels}}} {_number(number)}" if labels else f"{name} {_number(number)}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isfinite(value):
        # Times and bytes in full, not as powers of ten.
        return str(int(value)) if value == int(value) else repr(float(value))
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
