"""The quickstart: `python -m examples.quickstart`, or `make quickstart`. May be run again at once."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from examples.quickstart.clients import ClosedLoop

ROOT = Path(__file__).parents[2]
WORKSPACE = ROOT / "build" / "quickstart"
DEPLOYCTL = Path(sys.executable).with_name("deployctl")
STEP_TIMEOUT_S = 300

SETTINGS = """\
[repository]
model_base_path = "models"
[lineage]
url = "sqlite:///deployctl.db"
[targets.local]
rest_port = 0    # any free port, so that the quickstart disturbs nothing
grpc_port = 0
"""


def main() -> None:
    """Runs every step; ends the server in any case."""
    began = time.monotonic()
    prepare()
    exports = train()
    try:
        publish_and_serve(exports)
    finally:
        deployctl("down")
    print(f"\nAll of it took {time.monotonic() - began:.0f} s. What it made is in {WORKSPACE.relative_to(ROOT)}.")


def prepare() -> None:
    """Makes an empty workspace; a server that an earlier, interrupted run left is stopped."""
    heading("A workspace with a repository, a lineage database and one target")
    if (WORKSPACE / "deployctl.toml").exists():
        subprocess.run([DEPLOYCTL, "down"], cwd=WORKSPACE, capture_output=True, timeout=STEP_TIMEOUT_S, check=False)
    shutil.rmtree(WORKSPACE, ignore_errors=True)
    WORKSPACE.mkdir(parents=True)
    (WORKSPACE / "deployctl.toml").write_text(SETTINGS)
    deployctl("init")
    deployctl("doctor")


def train() -> list[dict[str, object]]:
    """Returns path and accuracy of two exports, trained in a child process."""
    heading("Train two versions of a digit classifier")
    command = [sys.executable, "-m", "examples.quickstart.train", str(WORKSPACE / "exports")]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        command, cwd=ROOT, env=quiet, text=True, capture_output=True, timeout=STEP_TIMEOUT_S, check=False
    )
    if done.returncode:
        sys.exit(f"training failed:\n{done.stderr}")
    exports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for export in exports:
        print(f"{Path(str(export['export'])).relative_to(WORKSPACE)}: accuracy {export['accuracy']}")
    return exports


def publish_and_serve(exports: list[dict[str, object]]) -> None:
    """Publishes both exports, serves the first, replaces it under load, and rolls back."""
    heading("Publish both")
    for export in exports:
        path = Path(str(export["export"])).relative_to(WORKSPACE)
        deployctl("publish", str(path), "--model", "digits", "--metric", f"accuracy={export['accuracy']}")
    heading("Serve the first")
    deployctl("up")
    deployctl("promote", "digits@1", "-m", "first model")
    image = json.dumps([a_seven()])
    deployctl("predict", "digits", "--instances", image, show=["predict", "digits", "--instances", "[[…64 pixels…]]"])
    heading("Replace it while four clients call without pause")
    body = json.dumps({"instances": [a_seven()]})
    with ClosedLoop(rest_address(), "/v1/models/digits/labels/stable:predict", body, clients=4) as clients:
        deployctl("promote", "digits@2", "-m", "retrained")
        deployctl("rollback", "digits", "-m", "a drill")
        deployctl("promote", "digits@2", "-m", "retrained, after the drill")
    print(f"{clients.tally.answered} requests were answered meanwhile, {clients.tally.failed} failed")
    if clients.tally.failed:
        sys.exit("requests failed while versions changed")
    heading("Roll back")
    deployctl("rollback", "digits", "-m", "recall dropped")
    deployctl("status")
    deployctl("history", "digits")


def a_seven() -> list[float]:
    """Returns one image of the data set, 64 grey values from 0 to 1."""
    from sklearn.datasets import load_digits

    return [float(value) / 16.0 for value in load_digits().data[7]]


def rest_address() -> str:
    """Returns host:port of the server's REST API, as `deployctl status` tells it."""
    command = [DEPLOYCTL, "status", "-o", "json"]
    done = subprocess.run(command, cwd=WORKSPACE, text=True, capture_output=True, timeout=STEP_TIMEOUT_S, check=True)
    address: str = json.loads(done.stdout)["targets"][0]["endpoints"]["rest"]
    return address.removeprefix("http://")


def deployctl(*words: str, show: list[str] | None = None) -> None:
    """Prints a deployctl command and runs it; a failure ends the quickstart."""
    print(f"$ deployctl {shlex.join(show or words)}", flush=True)
    done = subprocess.run([DEPLOYCTL, *words], cwd=WORKSPACE, timeout=STEP_TIMEOUT_S, check=False)
    if done.returncode:
        sys.exit(f"deployctl {words[0]} exited with {done.returncode}")


def heading(text: str) -> None:
    """Prints what the next steps show."""
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
