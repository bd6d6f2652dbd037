"""Reading all that a SavedModel declares, against TensorFlow's own tool."""

from __future__ import annotations

from bench.measurement import Measurement, compare, run_command
from bench.project import HALF_PLUS_TWO_TF2, beside_interpreter, deployctl, environment

_PAIRS = 5


def run() -> list[Measurement]:
    """Measures `deployctl inspect` on upstream's TF2 half_plus_two."""
    tool = beside_interpreter("saved_model_cli")
    return [
        compare(
            "deployctl inspect",
            lambda: run_command(deployctl("inspect", str(HALF_PLUS_TWO_TF2)), environment=environment()),
            lambda: run_command([tool, "show", "--all", "--dir", str(HALF_PLUS_TWO_TF2)]),
            than="saved_model_cli show --all",
            budget=0.1,
            pairs=_PAIRS,
            note="signatures and every op",
        )
    ]
