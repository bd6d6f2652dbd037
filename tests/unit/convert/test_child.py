"""The child process: whatever becomes of it is one sentence for the parent."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from deployctl.convert.child import call
from deployctl.errors import ConversionError

PROGRAMS = {
    "answers": "import json, sys; print(json.dumps({'got': json.load(sys.stdin)}))",
    "aborts": "import os; os.abort()",
    "complains": "import sys; sys.stderr.write('first\\nno such kernel\\n'); sys.exit(3)",
    "informs": "import os, sys; sys.stderr.write('WARNING: All log messages before absl::InitializeLog() is called are "
    "written to STDERR\\nI0000 00:00:1795302047.2 16379 cudart_stub.cc:31] Could not find cuda drivers on your machine"
    "\\nW0000 00:00:1795302047.3 16379 x.cc:1] slow\\n2026-01-01 00:00:00.123: I tensorflow/core/x.cc:1] fast\\n'); "
    "sys.stderr.flush(); os.abort()",
    "chatters": "print('Hello!')",
    "refuses": 'print(\'{"error": {"kind": "usage", "message": "not so", "hint": "like this"}}\')',
    "hangs": "import subprocess, sys; open('pid', 'w').write(str(subprocess.Popen(['sleep', '60']).pid)); input(); "
    "sys.stdin.close(); subprocess.run(['sleep', '60'])",
}


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in PROGRAMS.items():
        (tmp_path / f"child_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_the_answer_is_a_document() -> None:
    assert call("child_answers", {"x": [1, "ü"]}, timeout_s=30) == {"got": {"x": [1, "ü"]}}


@pytest.mark.parametrize(
    ("program", "kind", "words"),
    [
        ("aborts", "crashed", "the TensorFlow process was ended by SIGABRT"),
        ("informs", "crashed", "the TensorFlow process was ended by SIGABRT\n"),
        ("complains", "crashed", "the TensorFlow process ended with status 3: no such kernel"),
        ("chatters", "crashed", "the TensorFlow process ended with status 0"),
        ("refuses", "usage", "not so"),
    ],
)
def test_every_other_end_is_an_error(program: str, kind: str, words: str) -> None:
    with pytest.raises(ConversionError) as failed:
        call(f"child_{program}", {}, timeout_s=30)

    assert failed.value.kind == kind
    assert f"{failed.value}\n".startswith(words)


def test_a_child_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="not done within 1 s") as failed:
        call("child_hangs", {}, timeout_s=1)

    assert failed.value.kind == "timeout"
    grandchild = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(grandchild) and time.monotonic() < deadline:
        os.sched_yield()
    assert not _runs(grandchild)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_interrupts_are_let_through_again() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    call("child_answers", {}, timeout_s=30)

    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
