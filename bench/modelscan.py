"""Another scanner of SavedModels: the one on this machine, or one that is installed for as long as it is measured."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from bench.measurement import UnavailableError

_VARIABLE = "DEPLOYCTL_MODELSCAN"
_INSTALL_S = 300


def modelscan(directory: Path) -> Path:
    """Returns the program, which is installed into `directory` where neither the variable nor the PATH has it.

    It sees this interpreter's packages, so that TensorFlow, which it needs for SavedModels, is not installed twice.

    Raises:
        UnavailableError: it is not there, and cannot be installed.
    """
    found = os.environ.get(_VARIABLE) or shutil.which("modelscan")
    if found:
        return Path(found)
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    (packages / "beside.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "modelscan"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        raise UnavailableError(f"modelscan cannot be installed: {words[-1] if words else done.returncode}")
    return directory / "bin" / "modelscan"
