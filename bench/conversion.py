"""Conversions: 36 classifiers in one request, a checkpoint without its training state, and large word vectors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measurement import Measurement, UnavailableError, compare
from bench.project import Project, deployctl, environment, scratch_directory, scratch_project

_CLASSIFIERS = 36
_PAIRS = 10
_WORDS, _SIZE = 300_000, 100
_MEMORY_BYTES = 1_000_000_000
_TIMEOUT_S = 600

# Classifiers of texts as the articles have them: 40 word vectors of 100 numbers each, a convolution, a few classes.
_BUILD = f"""
import sys
import keras
for index in range({_CLASSIFIERS}):
    vectors = keras.Input((40, {_SIZE}), name="vectors")
    hidden = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(64, 3, activation="relu")(vectors))
    scores = keras.layers.Dense(2 + index % 4, activation="softmax", name="scores")(hidden)
    keras.Model(vectors, scores).save(f"{{sys.argv[1]}}/c{{index:02}}.keras")
import tensorflow as tf
v1 = tf.compat.v1
with v1.Graph().as_default(), v1.Session() as session:
    x = v1.placeholder(tf.float32, [None, 512], name="x")
    hidden = tf.nn.relu(v1.matmul(x, v1.get_variable("w1", [512, 512])))
    y = v1.matmul(hidden, v1.get_variable("w2", [512, 10]), name="y")
    train = v1.train.AdamOptimizer().minimize(tf.reduce_mean(tf.square(y)))
    session.run(v1.global_variables_initializer())
    v1.train.Saver().save(session, sys.argv[1] + "/trained.ckpt")
"""
# Asks every model in turn for each line of stdin, and prints the seconds.
_IN_TURN = """
import sys, time
from pathlib import Path
import keras, numpy
models = [keras.models.load_model(path) for path in sorted(Path(sys.argv[1]).glob("c*.keras"))]
x = numpy.random.default_rng(1).random((1, 40, 100), dtype=numpy.float32)
ask = {"predict": lambda model: model.predict(x, verbose=0), "call": lambda model: model(x).numpy()}
for line in sys.stdin:
    started = time.perf_counter()
    for model in models:
        ask[line.strip()](model)
    print(time.perf_counter() - started, flush=True)
"""


def run() -> list[Measurement]:
    """Measures all three."""
    with scratch_directory() as sources, scratch_project() as project:
        _python(_BUILD, sources)
        return [*_in_one_request(project, sources), _frozen(sources), _word_vectors(sources)]


def _in_one_request(project: Project, sources: Path) -> Iterator[Measurement]:
    from deployctl.client import Client

    try:
        import numpy as np
    except ImportError as error:
        raise UnavailableError("NumPy is not installed") from error
    paths = [str(path) for path in sorted(sources.glob("c*.keras"))]
    project.run("up")
    project.run("convert", "bundle", *paths, "--publish", "meta")
    project.run("promote", "meta@1")
    place = json.loads(project.output("status", "local", "-o", "json"))["targets"][0]["endpoints"]
    inputs = {"vectors": np.random.default_rng(1).random((1, 40, _SIZE), dtype=np.float32)}
    with Client(f"grpc://{place['grpc']}") as client, _in_turn(sources) as asked:

        def one_request() -> float:
            started = time.perf_counter()
            assert len(client.predict("meta", inputs, label="stable")) == _CLASSIFIERS
            return time.perf_counter() - started

        for _ in range(5):
            one_request()
        for how, budget in (("predict", 0.1), ("call", 1.0)):
            asked(how)
            yield compare(
                f"{_CLASSIFIERS} classifiers in one request",
                one_request,
                lambda how=how: asked(how),  # type: ignore[misc]
                than=f"{_CLASSIFIERS} local Keras {how}s in turn",
                budget=budget,
                pairs=_PAIRS,
                note="by gRPC, a server in another process",
            )


@contextmanager
def _in_turn(sources: Path) -> Iterator[_Asked]:
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_TURN, str(sources)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield _Asked(process)
    finally:
        process.kill()
        process.communicate()


class _Asked:
    """The process that asks the models in turn."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, how: str) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{how}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


def _frozen(sources: Path) -> Measurement:
    words = ("convert", "freeze", str(sources / "trained.ckpt"), "--outputs", "y=y:0")
    took, _, document = _converted(*words, "--out", str(sources / "frozen.pb"))
    ratio = document["result_bytes"] / document["source_bytes"]
    return Measurement(
        "bytes of a frozen checkpoint",
        ours_s=took,
        budget=0.35,
        other="the checkpoint with Adam's state",
        ratio=ratio,
        failures=int(ratio < 0.25),
        note="the ratio is of bytes",
    )


def _word_vectors(sources: Path) -> Measurement:
    _write_vectors(sources / "vectors.txt")
    words = ("convert", "bundle", str(sources / "c00.keras"), "--shared-input", "tokens")
    took, peak, _ = _converted(*words, "--vectors", str(sources / "vectors.txt"), "--out", str(sources / "tokens"))
    return Measurement(
        "300,000 × 100 word vectors to a bundle",
        ours_s=took,
        budget=60,
        failures=int(peak > _MEMORY_BYTES),
        note=f"at most {peak / 1e6:.0f} MB of memory, of 1,000 allowed",
    )


def _write_vectors(file: Path) -> None:
    import numpy as np

    random = np.random.default_rng(1)
    with file.open("w") as stream:
        for start in range(0, _WORDS, 1000):
            rows = random.random((1000, _SIZE))
            stream.writelines(
                f"w{start + index} {' '.join(f'{value:.5f}' for value in row)}\n" for index, row in enumerate(rows)
            )


def _converted(*words: str) -> tuple[float, int, dict[str, float]]:
    """Returns the seconds, the most bytes that a process of the command had in memory, and what it printed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        deployctl(*words, "-o", "json"), env={**os.environ, **environment()}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} exited with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024, json.loads(text)


def _python(code: str, *words: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        check=True,
        timeout=_TIMEOUT_S,
    )
