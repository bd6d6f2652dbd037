"""The generated pages of the reference are those of this code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from docs import generate
from tests.docs.console import ROOT


def test_the_generated_pages_are_current() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_check_names_the_stale_pages_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "REFERENCE", tmp_path)
    monkeypatch.setattr(generate, "PAGES", {"same.md": lambda: "same\n", "other.md": lambda: "other\n"})
    (tmp_path / "same.md").write_text("same\n")
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err == "not current: docs/reference/other.md\nhint: make docs\n"
    assert not (tmp_path / "other.md").exists()
