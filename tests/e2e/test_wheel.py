"""The wheel, installed outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.models import ROOT
from tests.support.workspace import HALF_PLUS_TWO

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("e2e-wheel")]

_TIMEOUT_S = 240
# Ctrl-C as soon as the command is being loaded.
INTERRUPTED_EARLY = """
import sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
"""


def run(*words: str | Path, directory: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        words, cwd=directory, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed")
def test_every_command_works_from_the_wheel_with_the_migrations_in_it(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist"))
    run(*build, directory=ROOT)
    (wheel,) = (tmp_path / "dist").glob("deployctl-*.whl")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", directory=tmp_path).strip())
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, str(wheel), directory=tmp_path)
    # What deployctl depends on is taken from where these tests run, without network.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = tmp_path / "venv" / "bin" / "deployctl"
    outside = tmp_path / "outside"
    outside.mkdir()
    kept = {name: value for name, value in os.environ.items() if "DEPLOYCTL" not in name and name != "PYTHONPATH"}
    environment = {**kept, "HOME": str(outside)}

    def deployctl(*words: str) -> str:
        return run(command, *words, directory=outside, environment=environment)

    where = "import deployctl; print(deployctl.__file__)"
    assert run(python, "-c", where, directory=outside, environment=environment).startswith(str(site))
    assert "made deployctl.toml" in deployctl("init")
    assert "is current" in deployctl("db", "upgrade")
    assert "the tables are as the schema says" in deployctl("db", "check")
    assert deployctl("publish", str(HALF_PLUS_TWO), "--model", "half", "-o", "name") == "half@1\n"
    assert deployctl("versions", "-o", "name") == "half\n"
    assert deployctl("--version").startswith("deployctl ")
    assert "stopped" in deployctl("status")

    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED_EARLY)
    interrupted = subprocess.run(
        [command, "status"],
        cwd=outside,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert (interrupted.returncode, interrupted.stdout, interrupted.stderr) == (130, "", "")
