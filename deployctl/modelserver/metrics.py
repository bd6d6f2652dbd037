"""The server's counters and histograms, named and rendered as TensorFlow Serving's Prometheus exporter does.

Names, labels and bucket limits are those of tensorflow_serving/servables/tensorflow/util.cc,
saved_model_warmup_util.cc and tensorflow/cc/saved_model/loader.cc; the text is that of
tensorflow_serving/util/prometheus_exporter.cc, which writes TYPE lines but no HELP lines.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import ClassVar

from deployctl.modelserver.interface import Code

# Clients choose which model they ask for; what none is called has no series of its own.
UNKNOWN_MODEL = ""
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
_LATENCY_BUCKETS = (10.0, 1.8, 33)
_EXAMPLE_BUCKETS = (1.0, 2.0, 15)
# Clients choose the model's name, so something has to end what they can make us remember.
_MOST_CELLS = 10_000


class Counter:
    """A cumulative count for each combination of label values."""

    kind: ClassVar[str] = "counter"

    def __init__(self, name: str, *labels: str) -> None:
        self.registered_name = name
        self.name = _prometheus_name(name)
        self._labels = tuple(_label_name(label) for label in labels)
        self._cells: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def first(self) -> int:
        """The value of the first cell in the order of the label values, 0 when there is none."""
        with self._lock:
            return self._cells[min(self._cells)] if self._cells else 0

    def add(self, amount: int, *labels: str) -> None:
        """Adds `amount` to the cell of these label values, in the order of the label names."""
        with self._lock:
            if labels in self._cells or len(self._cells) < _MOST_CELLS:
                self._cells[labels] = self._cells.get(labels, 0) + amount

    def lines(self) -> list[str]:
        """Renders the TYPE line and one line for each cell, in the order of the label values."""
        with self._lock:
            cells = sorted(self._cells.items())
        lines = [f"# TYPE {self.name} {self.kind}"]
        lines += [f"{self.name}{{{_label_text(self._labels, labels)}}} {value}" for labels, value in cells]
        return lines


class Histogram:
    """How often values fell into buckets whose limits grow exponentially, for each combination of label values."""

    def __init__(self, name: str, *labels: str, buckets: tuple[float, float, int]) -> None:
        self.name = _prometheus_name(name)
        self._labels = tuple(_label_name(label) for label in labels)
        scale, growth, count = buckets
        limits = [scale]
        for _ in range(count - 1):
            limits.append(limits[-1] * growth)
        self._limits = tuple(limits)
        self._cells: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def add(self, value: float, *labels: str) -> None:
        """Counts `value`; a value that equals a limit belongs to the bucket above it."""
        bucket = bisect_right(self._limits, value)
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                if len(self._cells) >= _MOST_CELLS:
                    return
                cell = self._cells[labels] = [0] * (len(self._limits) + 1)
                self._sums[labels] = 0.0
            cell[bucket] += 1
            self._sums[labels] += value

    def lines(self) -> list[str]:
        """Renders the TYPE line, then for each cell its cumulative buckets, sum and count."""
        with self._lock:
            cells = [(labels, list(cell), self._sums[labels]) for labels, cell in sorted(self._cells.items())]
        lines = [f"# TYPE {self.name} histogram"]
        for labels, cell, total in cells:
            lines += self._cell_lines(_label_text(self._labels, labels), cell, total)
        return lines

    def _cell_lines(self, text: str, cell: Sequence[int], total: float) -> list[str]:
        prefix = f"{self.name}_bucket{{{text}," if text else f"{self.name}_bucket{{"
        limits = [f"{limit:g}" for limit in self._limits] + ["+Inf"]
        lines, cumulative = [], 0
        for limit, count in zip(limits, cell, strict=True):
            cumulative += count
            lines.append(f'{prefix}le="{limit}"}} {cumulative}')
        lines.append(f"{self.name}_sum{{{text}}} {total:g}")
        lines.append(f"{self.name}_count{{{text}}} {cumulative}")
        return lines


class Metrics:
    """Everything that one server process counts. Every method may be called from any thread."""

    def __init__(self) -> None:
        self.load_attempts = Counter("/tensorflow/cc/saved_model/load_attempt_count", "model_path", "status")
        self.load_latency = Counter("/tensorflow/cc/saved_model/load_latency", "model_path")
        self.warmup_latency = Histogram(
            "/tensorflow/serving/model_warmup_latency", "model_path", "status", buckets=_LATENCY_BUCKETS
        )
        self.example_total = Counter("/tensorflow/serving/request_example_count_total", "model")
        self.example_counts = Histogram("/tensorflow/serving/request_example_counts", "model", buckets=_EXAMPLE_BUCKETS)
        self.requests = Counter("/tensorflow/serving/request_count", "model_name", "status")
        self.request_latency = Histogram(
            "/tensorflow/serving/request_latency", "model_name", "API", "entrypoint", buckets=_LATENCY_BUCKETS
        )
        self.runtime_latency = Histogram(
            "/tensorflow/serving/runtime_latency", "model_name", "API", "runtime", buckets=_LATENCY_BUCKETS
        )

    def loaded(self, model_path: str, *, succeeded: bool, micros: int) -> None:
        """Counts one attempt to load the version directory `model_path`; `micros` counts only for a success."""
        self.load_attempts.add(1, model_path, "success" if succeeded else "fail")
        if succeeded:
            self.load_latency.add(micros, model_path)

    def warmed_up(self, model_path: str, *, status: str, micros: float) -> None:
        """Counts one warm-up of `model_path`; `status` is the text of its outcome, "OK" for a success."""
        self.warmup_latency.add(micros, model_path, status)

    def request_answered(self, model: str, code: Code) -> None:
        """Counts one request for `model`, or UNKNOWN_MODEL, by the name of its status code ("OK", "NOT_FOUND")."""
        self.requests.add(1, model, code.name)

    def request_timed(self, model: str, *, api: str, entrypoint: str, micros: float) -> None:
        """Records a successful request's wall time; `api` is "predict" or such, `entrypoint` "REST" or "GRPC"."""
        self.request_latency.add(micros, model, api, entrypoint)

    def runtime_timed(self, model: str, *, api: str, runtime: str, micros: float) -> None:
        """Records the wall time inside TensorFlow; `api` is "Predict" or such, `runtime` "TF1" or "TFLite"."""
        self.runtime_latency.add(micros, model, api, runtime)

    def examples_received(self, model: str, count: int) -> None:
        """Counts the tf.Examples of one classify, regress or multi-inference request."""
        self.example_total.add(count, model)
        self.example_counts.add(count, model)

    def counter_value(self, name: str) -> int:
        """The counter's first time series, by its name with slashes; 0 for other metrics and unknown names.

        So tensorflow_serving/model_servers/model_service_impl.cc, GetMetrics, has it.
        """
        counters = [metric for metric in vars(self).values() if isinstance(metric, Counter)]
        return next((counter.first() for counter in counters if counter.registered_name == name), 0)

    def render(self) -> bytes:
        """The page for Prometheus: all metrics by name, those without a value yet as a bare TYPE line."""
        metrics: list[Counter | Histogram] = [m for m in vars(self).values() if isinstance(m, Counter | Histogram)]
        metrics.sort(key=lambda metric: metric.name)
        lines = [line for metric in metrics for line in metric.lines()]
        return ("\n".join(lines) + "\n").encode()


def _prometheus_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", ":", name)


def _label_name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]", "_", name)


def _label_text(names: Sequence[str], values: Sequence[str]) -> str:
    # A path's name need not be UTF-8, and a page that is not is no page for Prometheus.
    texts = (value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for value in values)
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in texts)
    return ",".join(f'{name}="{value}"' for name, value in zip(names, escaped, strict=True))
