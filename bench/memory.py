"""What the embedded server keeps of a model that was loaded and unloaded many times."""

from __future__ import annotations

from bench.measurement import Measurement
from bench.project import HALF_PLUS_TWO, scratch_directory
from bench.serving import build, serving

_CYCLES = 50
_MIB = 1 << 20
# 200 MB
_MODEL = ("model", 64, 3500, 5)


def run() -> list[Measurement]:
    """Compares the resident memory after the last unloading, and while the model is loaded, with the first time."""
    loaded, unloaded = [], []
    with scratch_directory() as directory:
        version = build(directory, *_MODEL)
        half = f'config {{ name: "half" base_path: "{HALF_PLUS_TWO.parent}" model_platform: "tensorflow" }}'
        model = f'config {{ name: "model" base_path: "{version.parent}" model_platform: "tensorflow" }}'
        config = directory / "models.config"
        config.write_text(f"model_config_list {{ {half} }}")
        with serving("half", None, f"--model_config_file={config}") as server:
            for _ in range(_CYCLES):
                server.reload(f"{half} {model}")
                loaded.append(server.resident_bytes())
                server.reload(half)
                server.wait_unloaded("model")
                unloaded.append(server.resident_bytes())
    name = f"memory after {_CYCLES} loads of 200 MB"
    return [_growth(f"{name}, unloaded", unloaded), _growth(f"{name}, loaded", loaded)]


def _growth(name: str, sizes: list[int]) -> Measurement:
    last, first = sizes[-1] / _MIB, sizes[0] / _MIB
    return Measurement(name, last, 1.2, "after the first", first, last / first, unit="MiB")
