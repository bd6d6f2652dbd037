"""The child process: `python -m deployctl.convert.worker PARENT` reads one request from stdin and answers on stdout.

Whatever TensorFlow prints goes to stderr, so that stdout holds the answer alone.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from deployctl.errors import DeployctlError
from deployctl.modelserver.parent import end_with_parent

_LARGEST_MESSAGE = 600
# Each verb's module has a function `run(request) -> answer`.
_VERBS = {
    "describe_keras": "deployctl.convert.keras_file",
    "run_tflite": "deployctl.convert.tflite",
    "convert": "deployctl.convert.early",
}


def main() -> int:
    """Answers the request and returns the exit status."""
    end_with_parent(sys.argv[1:])
    stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with stdout:
        json.dump(answer(json.load(sys.stdin)), stdout)
    return 0


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to one request; every error is {"error": …}."""
    if request.get("work"):
        # Keras writes its settings where it finds none, and the user's own must not change what a model computes.
        os.environ["KERAS_HOME"] = request["work"]
    try:
        module = importlib.import_module(_VERBS[request["verb"]])
        found: dict[str, Any] = module.run(request)
        return found
    except DeployctlError as error:
        return _error(getattr(error, "kind", "failed"), str(error), error.hint)
    except ModuleNotFoundError as error:
        return _error("missing", f"{error.name} is not installed", "pip install 'deployctl[tensorflow]'")
    except MemoryError:
        return _error("memory", "there is not enough memory for the conversion", None)
    # TensorFlow and Keras raise every class there is; all of them are one kind of answer to the parent.
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return _error("failed", _sentence(error), None)


def _error(kind: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message, "hint": hint}}


def _sentence(error: BaseException) -> str:
    return f"TensorFlow says {type(error).__name__}: {told(error)}"


def told(error: BaseException) -> str:
    """Returns the first paragraph of an error that says something, on one line.

    TensorFlow's begin with "Graph execution error:" and a list of where each node was made.
    """
    paragraphs = [" ".join(each.split()) for each in str(error).split("\n\n") if each.strip()]
    telling = [each for each in paragraphs if not each.endswith(":") and not each.startswith("Detected at node")]
    return (telling or paragraphs or [""])[0][:_LARGEST_MESSAGE]


if __name__ == "__main__":
    sys.exit(main())
