"""SavedModels made by TensorFlow, built once for each test session and shared by its workers.

    def test_it(tensorflow_models: TensorFlowModels, tmp_path: Path) -> None:
        export = tensorflow_models.copy("keras_two_outputs", tmp_path / "export")

The names, and what each model computes, are in `tests/support/build_models.py`. Never change what `path`
returns: other tests read it; `copy` is for that.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

UPSTREAM = Path(__file__).resolve().parent.parent / "data" / "tensorflow_serving"
ROOT = UPSTREAM.parent.parent.parent
_BUILD_SECONDS = 240


@dataclass(frozen=True, slots=True)
class TensorFlowModels:
    """The directory that holds one SavedModel for each name."""

    root: Path

    def path(self, name: str) -> Path:
        """The SavedModel of that name, only to be read."""
        found = self.root / name
        assert found.is_dir(), f"no model {name!r} among {sorted(path.name for path in self.root.iterdir())}"
        return found

    def copy(self, name: str, destination: Path) -> Path:
        """Copies the SavedModel of that name to `destination`, which must not exist, and returns it."""
        return shutil.copytree(self.path(name), destination)

    def half_plus(self, constant: int) -> Path:
        """The model y = x/2 + `constant`, for 1 to 5."""
        return self.path(f"half_plus_{constant}")


@pytest.fixture(scope="session")
def tensorflow_models(tmp_path_factory: pytest.TempPathFactory) -> TensorFlowModels:
    """Builds the models, or waits until another worker has built them."""
    if find_spec("tensorflow") is None:
        skip_or_fail("tensorflow", "TensorFlow is not installed")
    base = tmp_path_factory.getbasetemp()
    # With xdist each worker has its own directory below the session's.
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    models = session / "tensorflow-models"
    with (session / "tensorflow-models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not models.exists():
            _build(models)
    return TensorFlowModels(models)


def skip_or_fail(what: str, reason: str) -> NoReturn:
    """Skips, or fails where DEPLOYCTL_REQUIRE lists `what`."""
    if what in os.environ.get("DEPLOYCTL_REQUIRE", "").split(","):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def _build(models: Path) -> None:
    partial = models.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.build_models", str(partial)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    partial.rename(models)
