from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deployctl.cli.provenance import code_commit, metrics, pairs
from deployctl.errors import UsageError


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *words], check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout.strip()


def test_pairs_keep_everything_after_the_first_equals_sign() -> None:
    assert pairs("--tag", ["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    assert pairs("--tag", None) == {}


@pytest.mark.parametrize("word", ["a", "=1", ""])
def test_a_word_without_name_or_sign_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="is not NAME=VALUE"):
        pairs("--tag", [word])


def test_a_name_is_given_once() -> None:
    with pytest.raises(UsageError, match="gives 'a' twice"):
        pairs("--tag", ["a=1", "a=2"])


def test_metrics_are_finite_numbers() -> None:
    assert metrics(["accuracy=0.973", "loss=1e-3"]) == {"accuracy": 0.973, "loss": 0.001}
    for wrong in ("x=high", "x=nan", "x=inf", "x="):
        with pytest.raises(UsageError, match="--metric x="):
            metrics([wrong])


def test_a_checkout_gives_its_commit_and_says_when_it_has_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-q", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")

    assert code_commit(str(tmp_path)) == commit
    (tmp_path / "train.py").write_text("2")
    assert code_commit(str(tmp_path)) == f"{commit}-dirty"


def test_any_other_word_is_a_commit_already() -> None:
    assert code_commit("4f2a") == "4f2a"
    assert code_commit("") == ""


def test_a_directory_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a git checkout with a commit"):
        code_commit(str(tmp_path))
