"""Removes trees of any depth: `shutil.rmtree` calls itself for each directory, and ends at about a thousand."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path


def remove_tree(path: Path) -> None:
    """Removes the directory `path` and all below it; what cannot be removed is left. Follows no symlinks.

    A directory within a directory is moved to the top instead of being entered, so that neither the depth of the
    tree, nor the length of its paths, nor the number of open files sets a bound.
    """
    with suppress(OSError), _opened(path) as top:
        # A removal that was interrupted has left names of its own.
        moved, names, left = secrets.token_hex(8), count(), set[str]()
        while directories := _emptied(top) - left:
            for name in directories:
                with suppress(OSError), _opened(name, within=top) as directory:
                    for inner in _emptied(directory):
                        with suppress(OSError):
                            os.rename(inner, f"{moved}-{next(names)}", src_dir_fd=directory, dst_dir_fd=top)
                try:
                    os.rmdir(name, dir_fd=top)
                except OSError:
                    left.add(name)
    with suppress(OSError):
        path.rmdir()


def _emptied(directory: int) -> set[str]:
    """Removes all but the directories that hold something, and returns the names of these."""
    found = set()
    with os.scandir(directory) as entries:
        for entry in list(entries):
            with suppress(OSError):
                if not stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                    os.unlink(entry.name, dir_fd=directory)
                    continue
                found.add(entry.name)
                os.rmdir(entry.name, dir_fd=directory)
                found.remove(entry.name)
    return found


@contextmanager
def _opened(name: Path | str, *, within: int | None = None) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
