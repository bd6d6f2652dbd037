"""The embedded server under load: beside Flask, with and without batches, and while another model loads."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from bench.clients import Answers, Clients
from bench.measurement import Measurement, UnavailableError
from bench.project import CHECKOUT, HALF_PLUS_TWO, HALF_PLUS_TWO_TF2, environment, scratch_directory
from bench.serving import Server, build, free_port, serving

_SECONDS = 3.0
_ROUNDS = 5
_FLASK_CLIENTS, _BATCH_CLIENTS, _NEIGHBOUR_CLIENTS = 8, 64, 4
_BATCHING = (
    "max_batch_size { value: 64 } batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 100 } "
    "num_batch_threads { value: 2 }"
)
# Nine layers of 1024: 33 MB, 2 to 3 ms for one row and little more for many.
_SMALL_DENSE = ("dense", 64, 1024, 9)
# 800 MB
_LARGE_DENSE = ("large", 64, 4096, 12)


def run() -> list[Measurement]:
    """Measures all three."""
    return [_beside_flask(), _batching(), _neighbour()]


def _beside_flask() -> Measurement:
    if find_spec("flask") is None:
        raise UnavailableError("Flask is not installed")
    with scratch_directory() as directory:
        body = _body(directory, [2.0])
        # tf.saved_model.load cannot run upstream's TensorFlow 1 export; the same formula by TensorFlow 2 for both.
        version = directory / "half" / "1"
        version.parent.mkdir()
        version.symlink_to(HALF_PLUS_TWO_TF2)
        with serving("half", version.parent) as server, _flask(version) as flask_port:
            ours = _Load(server.rest, "/v1/models/half:predict", body, _FLASK_CLIENTS)
            other = _Load(flask_port, "/predict", body, _FLASK_CLIENTS)
            return _compared("time per request, 8 REST clients", ours, other, than="Flask", budget=1 / 8)


def _batching() -> Measurement:
    with scratch_directory() as directory:
        version = build(directory, *_SMALL_DENSE)
        parameters = directory / "batching.config"
        parameters.write_text(_BATCHING)
        body = _body(directory, [[0.5] * 64])
        flags = ("--enable_batching", f"--batching_parameters_file={parameters}")
        with serving("dense", version.parent, *flags) as batched, serving("dense", version.parent) as alone:
            path = "/v1/models/dense:predict"
            ours = _Load(batched.rest, path, body, _BATCH_CLIENTS)
            other = _Load(alone.rest, path, body, _BATCH_CLIENTS)
            name = "time per request in batches, 64 REST clients"
            return _compared(name, ours, other, than="without batches", budget=1 / 3, note="dense, 9 x 1024")


def _neighbour() -> Measurement:
    with scratch_directory() as directory:
        large = build(directory, *_LARGE_DENSE)
        body = _body(directory, [2.0])
        half = f'config {{ name: "half" base_path: "{HALF_PLUS_TWO.parent}" model_platform: "tensorflow" }}'
        both = f'{half} config {{ name: "large" base_path: "{large.parent}" model_platform: "tensorflow" }}'
        config = directory / "models.config"
        config.write_text(f"model_config_list {{ {half} }}")
        with serving("half", None, f"--model_config_file={config}") as server:
            load = _Load(server.rest, "/v1/models/half:predict", body, _NEIGHBOUR_CLIENTS)
            load.once(1.0)
            rounds = [_loading_round(server, load, half, both) for _ in range(_ROUNDS)]
    quiet, loading = (median(side) for side in zip(*rounds, strict=True))
    return Measurement(
        "p99 while a model of 800 MB loads",
        loading,
        2.0,
        "p99 before",
        quiet,
        median(during / before for before, during in rounds),
        note=f"{_NEIGHBOUR_CLIENTS} REST clients",
    )


def _loading_round(server: Server, load: _Load, half: str, both: str) -> tuple[float, float]:
    """Returns the p99 before and during the load."""
    clients = load.start(60.0)
    threading.Event().wait(2.0)
    started = time.monotonic()
    server.reload(both)
    ended = time.monotonic()
    answers = clients.stop()
    server.reload(half)
    server.wait_unloaded("large")
    before, during = answers.between(started - 1.5, started), answers.between(started, ended)
    return _p99(before), _p99(during)


class _Load:
    """One kind of request, and how many clients send it."""

    def __init__(self, port: int, path: str, body: Path, clients: int) -> None:
        self._target = port, path, body
        self._clients = clients

    def start(self, seconds: float) -> Clients:
        port, path, body = self._target
        return Clients(port, path, body, clients=self._clients, seconds=seconds)

    def once(self, seconds: float) -> Answers:
        return self.start(seconds).answers()


def _compared(name: str, ours: _Load, other: _Load, *, than: str, budget: float, note: str = "") -> Measurement:
    for load in (ours, other):
        load.once(1.0)
    pairs: list[tuple[Answers, Answers]] = []
    for index in range(_ROUNDS):
        sides = (ours, other) if index % 2 else (other, ours)
        first, second = (load.once(_SECONDS) for load in sides)
        pairs.append((first, second) if index % 2 else (second, first))
    return Measurement(
        name,
        median(mine.per_request_s for mine, _ in pairs),
        budget,
        than,
        median(theirs.per_request_s for _, theirs in pairs),
        median(mine.per_request_s / theirs.per_request_s for mine, theirs in pairs),
        failures=sum(mine.failures + theirs.failures for mine, theirs in pairs),
        note=note,
    )


def _body(directory: Path, instances: Sequence[object]) -> Path:
    path = directory / "body.json"
    path.write_text(json.dumps({"instances": instances}))
    return path


def _p99(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    if not ordered:
        raise RuntimeError("no request was answered")
    return ordered[int(len(ordered) * 0.99)]


@contextmanager
def _flask(export: Path) -> Iterator[int]:
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "bench.flask_app", str(export), str(port)],
        cwd=CHECKOUT,
        env={**os.environ, **environment(), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_until_listening(process, port)
            yield port
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    pause = threading.Event()
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        pause.wait(0.05)
    raise RuntimeError(f"Flask did not start; it exited with {process.poll()}")
