"""Gates that only look load neither TensorFlow, nor NumPy, nor what is for servers and databases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.models import ROOT
from tests.support.workspace import HALF_PLUS_TWO

HEAVY = {"tensorflow", "keras", "numpy", "grpc", "sqlalchemy", "alembic", "boto3", "docker"}
HEAVY |= {"model_signing", "cryptography", "pydantic"}
CODE = """
import sys
from deployctl.cli.app import app
try:
    app(["validate", sys.argv[1], "--against", sys.argv[1]])
except SystemExit as ended:
    assert not ended.code, ended.code
print(*sys.modules, file=sys.stderr)
"""


def test_judging_an_export_loads_nothing_heavy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(HALF_PLUS_TWO)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "compatibility  passed" in done.stdout
    assert HEAVY.isdisjoint(done.stderr.split())
