"""The commands that are measured, and a scratch project to run them in."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import UnavailableError, run_command

CHECKOUT = Path(__file__).parent.parent
MODELS = CHECKOUT / "tests" / "data" / "tensorflow_serving"
HALF_PLUS_TWO = MODELS / "saved_model_half_plus_two_cpu" / "00000123"
HALF_PLUS_TWO_TF2 = MODELS / "saved_model_half_plus_two_tf2_cpu" / "00000123"
HALF_PLUS_THREE = MODELS / "saved_model_half_plus_three" / "00000123"


def deployctl(*words: str) -> list[str]:
    """Returns the command line of deployctl, as installed beside this interpreter or else from the checkout."""
    installed = Path(sys.executable).parent / "deployctl"
    return [str(installed), *words] if installed.exists() else [sys.executable, "-m", "deployctl.cli", *words]


def model_server(*words: str) -> list[str]:
    """Returns the command line of the embedded model server."""
    start = "from deployctl.modelserver.main import main; main()"
    return [sys.executable, "-c", start, *words]


def beside_interpreter(command: str) -> str:
    """Returns the path of a command that some package installed.

    Raises:
        UnavailableError: it is not installed.
    """
    path = Path(sys.executable).parent / command
    if not path.exists():
        raise UnavailableError(f"{command} is not installed")
    return str(path)


@dataclass(frozen=True, slots=True)
class Project:
    """A directory with a settings file, a repository and a database."""

    directory: Path

    def run(self, *words: str) -> float:
        """Runs deployctl here and returns its seconds."""
        return run_command(deployctl(*words), cwd=self.directory, environment=environment())

    def output(self, *words: str) -> str:
        """Runs deployctl here and returns what it printed."""
        return subprocess.run(
            deployctl(*words),
            cwd=self.directory,
            env={**os.environ, **environment()},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout

    def stop(self) -> None:
        """Stops the server, if it runs."""
        subprocess.run(
            deployctl("down"),
            cwd=self.directory,
            env={**os.environ, **environment()},
            capture_output=True,
            check=False,
            timeout=120,
        )


@contextmanager
def scratch_project() -> Iterator[Project]:
    """Makes a project whose server takes free ports; stops that and removes the project when the block ends."""
    with scratch_directory() as directory:
        project = Project(directory)
        project.run("init")
        settings = directory / "deployctl.toml"
        text = (
            settings.read_text()
            .replace("rest_port = 8501", "gates = []\nrest_port = 0")
            .replace("grpc_port = 8500", "grpc_port = 0")
        )
        settings.write_text(text)
        try:
            yield project
        finally:
            project.stop()


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Makes a directory on a real disk: BENCH_DIR if it is set, /var/tmp otherwise (/tmp may be memory)."""
    with tempfile.TemporaryDirectory(
        prefix="deployctl-bench-", dir=os.environ.get("BENCH_DIR", "/var/tmp")
    ) as directory:
        yield Path(directory)


def environment() -> dict[str, str]:
    """Returns what the commands need to find the checkout from another directory."""
    return {"PYTHONPATH": str(CHECKOUT)}
