"""What a server counts of its requests, from TensorFlow Serving's Prometheus page."""

from __future__ import annotations

import re

from deployctl.errors import ServerError
from deployctl.serving.interface import RequestCounts

# tensorflow_serving/model_servers/prometheus_exporter.h, and the configuration that turns it on.
PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
MONITORING_CONFIG = f'prometheus_config {{ enable: true path: "{PROMETHEUS_PATH}" }}\n'
_LINE = re.compile(r":tensorflow:serving:(request_count|request_latency_sum|request_latency_count)\{(.*)\} (\S+)")
_LABEL = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"')
_MICROSECONDS = 1e6


def parse_counts(page: str, model: str) -> RequestCounts:
    """Returns the counts of `model`, which are zero for one that nobody has called.

    Raises:
        ServerError: a number on the page is none.
    """
    total, failed, seconds, timed = 0.0, 0.0, 0.0, 0.0
    for line in page.splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            continue
        name, labels, number = found.groups()
        said = dict(_LABEL.findall(labels))
        if said.get("model_name") != model:
            continue
        try:
            value = float(number)
        except ValueError as error:
            raise ServerError(f"the model server counts {number!r}, which is no number") from error
        if name == "request_count":
            total += value
            failed += value if said.get("status") != "OK" else 0.0
        elif name == "request_latency_sum":
            seconds += value / _MICROSECONDS
        else:
            timed += value
    return RequestCounts(int(total), int(failed), seconds, int(timed))
