"""What every command costs before it does anything."""

from __future__ import annotations

import sys

from bench.measurement import Measurement, compare, run_command
from bench.project import deployctl, environment

_PAIRS = 15


def run() -> list[Measurement]:
    """Measures `--help` and `--version`; the budget of 0.15 s is 2.5 times a bare `import typer`."""
    return [
        compare(
            f"deployctl {flag}",
            lambda flag=flag: run_command(deployctl(flag), environment=environment()),  # type: ignore[misc]
            lambda: run_command([sys.executable, "-c", "import typer"]),
            than="import typer",
            budget=2.5,
            pairs=_PAIRS,
        )
        for flag in ("--help", "--version")
    ]
