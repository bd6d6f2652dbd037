"""A model without a server takes what its inputs can hold, refuses the rest in a sentence, and outlives nobody."""

from __future__ import annotations

import base64
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployctl.modelserver.local import answer
from tests.support.graphs import write_zoo

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zoo(tmp_path_factory.mktemp("local") / "zoo")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("uint64", [2**64 - 1, 1]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("int64", [2**53 + 1, 0.0]),
        ("int32", [1.0, 2]),
        ("bool", [True, False]),
        ("bool", [0, 1.0]),
        ("float32", [1, 0.5]),
        ("float32", []),
    ],
)
def test_numbers_come_back_as_they_were_given(zoo: Path, signature: str, value: list[Any]) -> None:
    given = {"path": str(zoo), "signature": signature}

    assert answer(given | {"inputs": {"x": value}})["outputs"] == value
    if value:
        assert answer(given | {"instances": value})["outputs"] == value


@pytest.mark.parametrize(
    ("signature", "value", "offender"),
    [
        ("int64", [2**63, -1], "9223372036854775808"),
        ("int32", [1, 2, 1.7], "1.7"),
        ("uint8", [7, -1], "-1"),
        ("uint8", [7, 300], "300"),
        ("bool", [True, 0.5, 300], "0.5"),
        ("uint64", True, "True"),
        ("float32", [1e300], "1e"),
        ("float32", "a", "'a'"),
        ("float32", [None], "None"),
        ("float32", [[1], [1, 2]], "ragged"),
        ("float32", nested(900), "nested"),
        ("string", [1], "int64"),
        ("string", {"b64": 5}, "b64"),
        ("string", [{"b64": "!!"}], "!!"),
        ("string", [{"c": "!!"}], "b64"),
        ("string", ["\ud800"], "UTF-8"),
    ],
)
def test_what_an_input_cannot_hold_is_refused(zoo: Path, signature: str, value: Any, offender: str) -> None:
    error = answer({"path": str(zoo), "signature": signature, "inputs": {"x": value}})["error"]

    assert error["kind"] == "request"
    assert "input 'x' " in error["message"]
    assert offender in error["message"]


@pytest.mark.parametrize("given", [{"inputs": ["a"]}, {"instances": [1.0]}, {"inputs": {"b64": "YQ=="}}])
def test_tensors_are_fetched_by_names_of_inputs_alone(zoo: Path, given: dict[str, Any]) -> None:
    error = answer({"path": str(zoo), "fetch": ["nosuch"], **given})["error"]

    assert error["kind"] == "request"
    assert "name the inputs" in error["message"]


def test_bytes_go_in_and_out_whole(zoo: Path) -> None:
    given = {"path": str(zoo), "inputs": {"x": [{"b64": base64.b64encode(b"a\0").decode()}, "ä"]}}

    assert answer(given)["outputs"] == [2, 2]


def test_bytes_are_saved_whole_or_not_at_all(zoo: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    given = {"path": str(zoo), "signature": "string", "save": str(file)}

    kept = answer(given | {"inputs": {"x": ["a", {"b64": "AGI="}]}})
    with np.load(file) as saved:
        assert saved["y"].tolist() == [b"a", b"\0b"]
    refused = answer(given | {"inputs": {"x": [{"b64": "YQA="}]}})["error"]

    assert "error" not in kept
    assert "end in NUL" in refused["message"]
    with np.load(file) as saved:
        assert saved["y"].tolist() == [b"a", b"\0b"]


_ASKING = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "deployctl.modelserver.local", str(os.getpid())])
print(child.pid, flush=True)
child.wait()
"""


def test_the_child_ends_with_the_command_that_was_killed() -> None:
    command = [sys.executable, "-c", _ASKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as asking:
        assert asking.stdout is not None
        child = os.pidfd_open(int(asking.stdout.readline()))

        asking.kill()

        # Its stdin stays open, so that only the end of the command ends it.
        ended, _, _ = select.select([child], [], [], 60)
        os.close(child)
        assert ended
