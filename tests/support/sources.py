"""What the tests of `convert` start from, built once for each session, and one TensorFlow process for many calls."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deployctl.cli.conversion_options import stem
from deployctl.convert import child
from deployctl.convert.request import ConversionRequest, SourceRequest
from deployctl.convert.run import Converted, convert
from deployctl.savedmodel.source import identify
from tests.support.models import ROOT, skip_or_fail

_BUILD_SECONDS = 240
_MODULES = ("deployctl.convert.worker", "deployctl.modelserver.local")


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of what `tests.support.build_sources` builds, only to be read."""
    if find_spec("tensorflow") is None:
        skip_or_fail("tensorflow", "TensorFlow is not installed")
    base = tmp_path_factory.getbasetemp()
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = session / "convert-sources"
    with (session / "convert-sources.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", "tests.support.build_sources", str(partial)],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                timeout=_BUILD_SECONDS,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            partial.rename(folder)
    return folder


@dataclass(frozen=True)
class KeptChild:
    """The child processes of `convert`, answering one request after the other: loading TensorFlow takes seconds.

    Attributes:
        processes: by the module that answers; what TensorFlow's Python made is run without it, in another process.
    """

    processes: Mapping[str, subprocess.Popen[str]]

    def call(self, module: str, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Does what `deployctl.convert.child.call` does, in a kept process, without its limit of time."""
        del timeout_s
        process = self.processes[module]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return child.checked(json.loads(process.stdout.readline()))

    def predicted(self, path: Path, inputs: dict[str, Any], signature: str = "", *, tags: str = "serve") -> Any:
        """Returns what a SavedModel or frozen graph answers, run without TensorFlow's Python."""
        request = {"path": str(path), "inputs": inputs, "signature": signature, "tags": tags.split(",")}
        return self.call("deployctl.modelserver.local", request, timeout_s=60)["outputs"]

    def convert(self, destination: Path, *paths: Path, **options: Any) -> Converted:
        """Converts `paths`, each named by its stem; `inputs`, `tags` and the like are for each of them."""
        fields = ("inputs", "outputs", "tags", "builder")
        about = {name: options.pop(name) for name in fields if name in options}
        about |= {"signature": options.pop("source_signature", None)}
        found = [identify(path) for path in paths]
        parts = [SourceRequest(stem(each.path), str(each.path), each.kind.value, **about) for each in found]
        request = ConversionRequest(sources=tuple(parts), work="", **options)
        return convert(request, destination, timeout_s=120, ask=self.call)


@pytest.fixture(scope="session")
def kept_child(sources: Path) -> Iterator[KeptChild]:
    """One process with TensorFlow's Python, which can import modules beside the sources, and one without."""
    with ExitStack() as stack:
        processes = {module: stack.enter_context(_answering(module, sources)) for module in _MODULES}
        yield KeptChild(processes)


@contextmanager
def _answering(module: str, sources: Path) -> Iterator[subprocess.Popen[str]]:
    """Gives a process that answers requests to `module`."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.support.sources", module],
        cwd=sources,
        env=child.environment() | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    # Freeing what TensorFlow holds may take long, and is of no use to anybody.
    process.kill()
    process.wait(30)


def main(module: str) -> None:
    """Answers one request to the module a line until stdin ends."""
    answer = importlib.import_module(module).answer
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
