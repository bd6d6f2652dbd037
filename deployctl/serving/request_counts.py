"""What a server counts of its requests, from TensorFlow Serving's Prometheus page."""

from __future__ import annotations

import re
from dataclasses import replace

from deployctl.domain.names import ModelName
from deployctl.errors import ServerError
from deployctl.serving.interface import RequestCounts

# tensorflow_serving/model_servers/prometheus_exporter.h, and the configuration that turns it on.
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
MONITORING_CONFIG = f'prometheus_config {{ enable: true path: "{PROMETHEUS_PATH}" }}\n'
_LINE = re.compile(r":tensorflow:serving:(request_count|request_latency_sum|request_latency_count)\{(.*)\} (\S+)")
_LABEL = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"')
_MICROSECONDS = 1e6


def parse_counts(page: str) -> dict[ModelName, RequestCounts]:
    """Returns the counts of each model that anybody has called.

    Raises:
        ServerError: a number on the page is none.
    """
    found: dict[ModelName, RequestCounts] = {}
    for line in page.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None:
            continue
        name, labels, number = match.groups()
        said = dict(_LABEL.findall(labels))
        try:
            value = float(number)
        except ValueError as error:
            raise ServerError(f"the model server counts {number!r}, which is no number") from error
        model = ModelName(said.get("model_name", ""))
        found[model] = _with(found.get(model, RequestCounts()), name, value, failed=said.get("status") != "OK")
    return found


def _with(counts: RequestCounts, name: str, value: float, *, failed: bool) -> RequestCounts:
    match name:
        case "request_count":
            more = int(value)
            return replace(counts, total=counts.total + more, failed=counts.failed + (more if failed else 0))
        case "request_latency_sum":
            return replace(counts, latency_s=counts.latency_s + value / _MICROSECONDS)
        case _:
            return replace(counts, timed=counts.timed + int(value))
