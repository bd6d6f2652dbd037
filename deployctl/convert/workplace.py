"""Directories that a conversion works in: gone when it ends, and after kill -9 with the next one in the same place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from deployctl.processes import ProcessIdentity, this_process

_OWNER = "owner.json"


@contextmanager
def workplace(parent: Path, prefix: str) -> Iterator[Path]:
    """Gives a new directory in `parent`, and removes it afterwards.

    Those of the same prefix whose processes are known to have ended are removed first.

    Args:
        parent: an existing directory.
        prefix: of the names of such directories, and of nothing else's.

    Raises:
        OSError: `parent` cannot be written to.
    """
    _clear(parent, prefix)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        (work / _OWNER).write_text(json.dumps(asdict(this_process())), encoding="utf-8")
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _clear(parent: Path, prefix: str) -> None:
    with os.scandir(parent) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for work in found:
        if _is_abandoned(work):
            shutil.rmtree(work, ignore_errors=True)


def _is_abandoned(work: Path) -> bool:
    # Whoever says nothing may be about to; and in a directory for all, others' are theirs to remove.
    with suppress(OSError, ValueError, TypeError):
        if work.stat(follow_symlinks=False).st_uid == os.geteuid():
            document = json.loads((work / _OWNER).read_text(encoding="utf-8"))
            return ProcessIdentity(**document).is_known_dead()
    return False
