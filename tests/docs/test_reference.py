"""The generated pages of the reference are those of this code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from docs import generate
from tests.docs.console import ROOT


def test_the_generated_pages_are_current() -> None:
    command = [sys.executable, "-m", "docs.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_check_names_the_stale_pages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "PAGES", {"errors.md": generate.error_tree, "settings.md": lambda: "other\n"})
    assert generate.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("not current: docs/reference/settings.md\n")
