"""36 classifiers in one SavedModel, answered by one request, beside 36 Keras models asked in turn."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from bench.measurement import Measurement, UnavailableError, seconds
from bench.project import scratch_directory
from bench.serving import serving

_CLASSIFIERS, _FEATURES = 36, 20
_REQUESTS = 200
# Saves the bundle, then tells the median of the time that all models take for one row, in seconds.
_KERAS = f"""
import statistics, sys, time
import numpy, keras
keras.utils.set_random_seed(1)
models = []
for _ in range({_CLASSIFIERS}):
    hidden, scores = keras.layers.Dense(32, activation="relu"), keras.layers.Dense(3, activation="softmax")
    models.append(keras.Sequential([keras.Input(({_FEATURES},)), hidden, scores]))
x = keras.Input(({_FEATURES},), name="x")
bundle = keras.Model(x, {{f"classifier_{{number}}": model(x) for number, model in enumerate(models)}})
bundle.export(sys.argv[1], verbose=False)
row = numpy.full((1, {_FEATURES}), 0.5, "float32")
times = []
for turn in range(4):
    started = time.perf_counter()
    for model in models:
        model.predict(row, verbose=0)
    times.append(time.perf_counter() - started)
print(statistics.median(times[1:]))
"""


def run() -> list[Measurement]:
    """Measures one request for all against the models in turn."""
    with scratch_directory() as directory:
        version = directory / "bundle" / "1"
        keras_s = _keras(version)
        with serving("bundle", version.parent) as server:
            connection = HTTPConnection("127.0.0.1", server.rest, timeout=30)
            call = _request(connection, json.dumps({"instances": [[0.5] * _FEATURES]}))
            for _ in range(20):
                call()
            ours = [seconds(call) for _ in range(_REQUESTS)]
    name = f"one request to {_CLASSIFIERS} classifiers"
    return [
        Measurement(name, median(ours), 1 / 10, "Keras predict in turn", keras_s, median(ours) / keras_s, note="REST")
    ]


def _keras(version: Path) -> float:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _KERAS, str(version)], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise UnavailableError(f"Keras failed after {time.monotonic() - started:.0f} s: {done.stderr.strip()[-300:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _request(connection: HTTPConnection, body: str) -> Callable[[], None]:
    def call() -> None:
        connection.request("POST", "/v1/models/bundle:predict", body)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != HTTPStatus.OK or len(answer["predictions"][0]) != _CLASSIFIERS:
            raise RuntimeError(f"the server answered {response.status}: {answer}")

    return call
