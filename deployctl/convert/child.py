"""Runs what needs TensorFlow in a process of its own, so that its errors and crashes are reported and not inherited."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import deployctl
from deployctl.errors import ConversionError

# The worker's own answer is far smaller; anything larger is no answer.
_WORDS_OF_LOG = 400
# What TensorFlow logs wherever there is no accelerator, and other lines that explain no end: "I0000 00:00:17… cpu.cc:1]
# …" and "2026-01-01 00:00:00.1: I tensorflow/…" (absl/log, tsl/platform/default/logging.cc).
_INFORMATION = re.compile(
    r"[IW]\d{4} [\d:.]+ |[\d-]{10} [\d:.]+: [IW] |E\d{4} .*cuda|WARNING:|To enable the following instructions:"
)


def call(module: str, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """Runs `python -m module` with `request` as JSON on its stdin, and returns the JSON document that it answers.

    Raises:
        ConversionError: it refused, crashed, was not done in time, or a package that it needs is missing.
    """
    with tempfile.TemporaryFile(prefix="deployctl-child-") as log:
        # An interrupt while the child is being started would leave it behind, known to nobody.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = _started(module, log)
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            answer, _ = process.communicate(json.dumps(request).encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ConversionError(f"TensorFlow was not done within {timeout_s:g} s", kind="timeout") from error
        finally:
            _end(process)
        return _document(process.returncode, answer, log)


def _started(module: str, log: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment(),
        process_group=0,
    )


def environment() -> dict[str, str]:
    """Returns the environment that a child gets."""
    package = str(Path(deployctl.__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([package, inherited] if inherited else [package]),
        # A conversion needs no accelerator, and finding none is not worth a warning.
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "KERAS_BACKEND": "tensorflow",
        "PYTHONWARNINGS": "ignore",
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and what it started, if they still run."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _document(status: int, answer: bytes, log: BinaryIO) -> dict[str, Any]:
    try:
        document = json.loads(answer)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise ConversionError(f"the TensorFlow process {how}{_last_words(log)}", kind="crashed")
    return checked(document)


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """Returns a worker's answer.

    Raises:
        ConversionError: it is an error.
    """
    error = document.get("error")
    if error is not None:
        raise ConversionError(str(error["message"]), kind=str(error["kind"]), hint=error.get("hint"))
    return document


def _last_words(log: BinaryIO) -> str:
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not _INFORMATION.match(line)]
    return f": {lines[-1].strip()[:_WORDS_OF_LOG]}" if lines else ""
