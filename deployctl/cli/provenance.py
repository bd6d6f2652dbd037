"""What the words of `publish` say of where a version came from."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from deployctl.errors import UsageError
from deployctl.operations.provenance import finite

_GIT_TIMEOUT_S = 10.0


def pairs(option: str, words: Sequence[str] | None) -> dict[str, str]:
    """Returns NAME=VALUE words as a mapping, in the order given.

    Raises:
        UsageError: a word has no `=` or no name, or a name occurs twice.
    """
    found: dict[str, str] = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {word!r} is not NAME=VALUE")
        if name in found:
            raise UsageError(f"{option} gives {name!r} twice")
        found[name] = value
    return found


def metrics(words: Sequence[str] | None) -> dict[str, float]:
    """Returns NAME=NUMBER words as a mapping; finite numbers only, since JSON has no others."""
    found = {}
    for name, text in pairs("--metric", words).items():
        try:
            number = float(text)
        except ValueError as error:
            raise UsageError(f"--metric {name}={text} is not a number") from error
        found[name] = finite(f"--metric {name}={text}", number)
    return found


def code_commit(code: str) -> str:
    """Returns `code`, or, where it is a directory, the commit checked out there, "-dirty" if it has changes.

    Raises:
        UsageError: the directory is no git checkout, or git is not to be had.
    """
    if not code or not Path(code).is_dir():
        return code
    commit = _git(code, "rev-parse", "HEAD")
    return commit + ("-dirty" if _git(code, "status", "--porcelain") else "")


def _git(directory: str, *words: str) -> str:
    command = ["git", "-C", directory, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"--code {directory!r} is not a git checkout with a commit") from error
    return done.stdout.strip()
