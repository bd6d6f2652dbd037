"""In which thread TensorFlow works: the caller's for quick calls, its own for the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import UPSTREAM, TensorFlowModels

ROOT = Path(__file__).resolve().parent.parent.parent
# Prints the processor time of all threads but the caller's, as a share of all, over a thousand calls in a row.
PROGRAM = """
import sys, threading
from pathlib import Path
import numpy as np
from deployctl.modelserver.session import Session, SessionOptions

session = Session(sys.argv[1], SessionOptions())
signature = session.signatures.signatures["serving_default"]
(source,), (result,) = signature.inputs.values(), signature.outputs.values()
rows = np.full(eval(sys.argv[2]), 2.0, dtype=np.float32)

def spent():
    stats = {path.parent.name: int(path.read_text().split()[0]) for path in Path("/proc/self/task").glob("*/schedstat")}
    mine = stats.pop(str(threading.get_native_id()))
    return mine, sum(stats.values())

def call(times):
    for _ in range(times):
        (answer,) = session.run([(source.tensor, rows)], [result.tensor], timeout_s=30.0)
    return answer

call(100)
before = spent()
answer = call(1000)
mine, others = (after - earlier for after, earlier in zip(spent(), before))
assert float(answer.ravel()[0]) == float(sys.argv[3]), answer
print(others / (mine + others))
"""


def share_of_other_threads(export: Path, shape: str, expected: float) -> float:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(export), shape, str(expected)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell threads' times")
def test_quick_calls_run_in_the_callers_thread() -> None:
    # Handed over to TensorFlow's threads, more than half of the time is theirs.
    assert share_of_other_threads(UPSTREAM / "saved_model_half_plus_two_cpu" / "00000123", "(1, 1)", 3.0) < 0.1


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell threads' times")
def test_calls_of_a_graph_that_may_loop_run_in_tensorflows_threads(tensorflow_models: TensorFlowModels) -> None:
    assert share_of_other_threads(tensorflow_models.path("looping"), "(1,)", 2.0) > 0.1
