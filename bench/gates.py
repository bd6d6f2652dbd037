"""The gates that only look: a real MobileNetV2 beside TensorFlow's own tool and a scanner, and a graph of 500 MB."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench.measurement import Measurement, UnavailableError, run_command
from bench.modelscan import modelscan
from bench.project import HALF_PLUS_TWO_TF2, beside_interpreter, deployctl, environment, scratch_directory

_RUNS = 7
_BUDGET_S = 0.25
_LARGE_BUDGET_S, _LARGE_BUDGET_BYTES = 2.0, 700_000_000
_LARGE_CONSTANTS, _CONSTANT_BYTES = 500, 1_000_000
_GATES = ("--gate", "signature", "--gate", "compatibility", "--gate", "ops")
_BUILD = (
    "import sys, keras; keras.utils.set_random_seed(1); "
    "keras.applications.MobileNetV2(weights=None).export(sys.argv[1], verbose=False)"
)


def run() -> list[Measurement]:
    """Measures `deployctl validate` from process start, and the memory that it needs."""
    tool = beside_interpreter("saved_model_cli")
    with scratch_directory() as directory:
        model, large = directory / "mobilenet", directory / "large"
        run_command([sys.executable, "-c", _BUILD, str(model)], environment={"TF_CPP_MIN_LOG_LEVEL": "3"})
        _write_large(large)
        # From an empty directory, so that no settings are found.
        empty = directory / "empty"
        empty.mkdir()
        others = {"saved_model_cli show --all": [tool, "show", "--dir", str(model), "--all"]}
        note = "MobileNetV2"
        try:
            others["modelscan"] = [str(modelscan(directory / "modelscan")), "-p", str(model)]
        except UnavailableError as reason:
            note += f"; {reason}"
        return [*_beside(others, model, empty, note), _large(large, empty)]


def _beside(others: dict[str, list[str]], model: Path, empty: Path, note: str) -> list[Measurement]:
    words = deployctl("validate", str(model), "--against", str(model), *_GATES)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(_RUNS):
        ours.append(run_command(words, cwd=empty, environment=environment()))
        for name, command in others.items():
            theirs[name].append(run_command(command, cwd=empty))
    return [
        Measurement(
            "signature, compatibility, ops",
            ours_s=median(ours),
            budget=_BUDGET_S,
            other=name,
            other_s=median(times),
            note=note,
        )
        for name, times in theirs.items()
    ]


def _large(model: Path, empty: Path) -> Measurement:
    words = deployctl("validate", str(model), "--against", str(model), *_GATES)
    measured = [_time_and_memory(words, empty) for _ in range(3)]
    peak = max(memory for _, memory in measured)
    return Measurement(
        "the same of 500 MB of graph",
        ours_s=median(seconds for seconds, _ in measured),
        budget=_LARGE_BUDGET_S,
        failures=int(peak > _LARGE_BUDGET_BYTES),
        note=f"{peak / 1e6:.0f} MB of memory, at most {_LARGE_BUDGET_BYTES / 1e6:.0f}",
    )


def _time_and_memory(words: list[str], directory: Path) -> tuple[float, int]:
    """Returns seconds from start to exit and the most bytes of memory."""
    started = time.perf_counter()
    process = subprocess.Popen(
        words, cwd=directory, env={**os.environ, **environment()}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words_of_it = process.stderr.read().decode(errors="replace") if process.stderr else ""
        raise RuntimeError(f"{' '.join(words)} exited with {process.returncode}: {words_of_it[-2000:]}")
    if process.stderr:
        process.stderr.close()
    return took, usage.ru_maxrss * 1024


def _write_large(directory: Path) -> None:
    """Writes half_plus_two with constants of 500 MB in its graph, piece by piece.

    A child's peak memory counts from its fork on, so this process must stay small.
    """
    from deployctl.protos.saved_model_pb2 import NodeDef, SavedModel
    from tests.support.tables import varint

    directory.mkdir()
    model = SavedModel.FromString((HALF_PLUS_TWO_TF2 / "saved_model.pb").read_bytes())
    small = model.meta_graphs[0].SerializeToString()
    node = NodeDef(op="Const")
    node.attr["value"].tensor.tensor_content = os.urandom(_CONSTANT_BYTES)
    content = node.SerializeToString()
    named = b"\x0a\x04%04d"
    field = b"\x0a" + varint(len(content) + len(named % 0))
    graph_bytes = _LARGE_CONSTANTS * (len(field) + len(named % 0) + len(content))
    head = b"\x12" + varint(graph_bytes)
    with (directory / "saved_model.pb").open("wb") as file:
        file.write(b"\x08\x01\x12" + varint(len(small) + len(head) + graph_bytes) + small + head)
        for number in range(_LARGE_CONSTANTS):
            file.write(field + named % number + content)
    for name in ("variables", "assets"):
        (directory / name).symlink_to(HALF_PLUS_TWO_TF2 / name)
