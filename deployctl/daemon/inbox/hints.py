"""What the file system tells of an inbox as it happens: hints where to look, and what was renamed into place."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import Inotify

    from deployctl.domain.names import ModelName

_log = logging.getLogger(__name__)
# What is beyond this is found by looking.
_MOST = 20_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What was told since the last time: MODEL/NAME of exports, and whether there is a new directory of a model."""

    touched: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()
    models_changed: bool = False


class Hints:
    """Collects what the file system tells; everything may be missed, and is then found by looking.

    Args:
        root: the inbox.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self.arrived = threading.Event()
        self._touched: set[str] = set()
        self._renamed: set[str] = set()
        self._models_changed = False

    def take(self) -> Taken:
        """Returns what was told since the last call."""
        with self._lock:
            taken = Taken(frozenset(self._touched), frozenset(self._renamed), self._models_changed)
            self._touched, self._renamed, self._models_changed = set(), set(), False
            self.arrived.clear()
            return taken

    def tell(self, path: Path, *, renamed: bool) -> None:
        """Takes in that something happened at `path`."""
        try:
            parts = path.relative_to(self._root).parts
        except ValueError:
            return
        with self._lock:
            if len(parts) <= 1:
                self._models_changed = True
            elif len(self._touched) < _MOST:
                key = "/".join(parts[:2])
                self._touched.add(key)
                if renamed and len(parts) == 2:
                    self._renamed.add(key)
            self.arrived.set()


class Watcher:
    """Watches the inbox and the models' directories, not what is below: that is looked at while it settles.

    Where there are no events, nothing is ever told.
    """

    def __init__(self, root: Path, hints: Hints) -> None:
        self._hints = hints
        self._inotify: Inotify | None = None
        self._thread: threading.Thread | None = None
        self._watched: dict[Path, int] = {}
        self._closing = threading.Event()
        try:
            # The observers of watchdog hold every event back for half a second, to pair moves; we need no pairs.
            from watchdog.observers.inotify_c import Inotify, InotifyConstants

            mask = InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_CREATE | InotifyConstants.IN_CLOSE_WRITE
            self._inotify = Inotify(os.fsencode(root), event_mask=mask)
            self._watched[root] = root.stat().st_ino
        # Without inotify, importing it raises one of these.
        except (ImportError, AttributeError, OSError) as error:
            _log.warning("%s is polled, since the file system tells nothing: %s", root, error)
            return
        self._thread = threading.Thread(target=self._read, args=(self._inotify,), name="inotify", daemon=True)
        self._thread.start()

    def watch(self, root: Path, models: list[ModelName]) -> list[ModelName]:
        """Watches what is not watched yet; returns the models whose directories are new to it."""
        if self._inotify is None:
            return []
        new = []
        for path, model in ((root, None), *((root / model, model) for model in models)):
            try:
                inode = path.stat().st_ino
                if self._watched.get(path) != inode:
                    self._inotify.add_watch(os.fsencode(path))
                    self._watched[path] = inode
                    new += [model] if model else []
            except OSError as error:
                # No watches left: what is not watched is polled.
                _log.debug("%s is not watched: %s", path, error)
        wanted = {root, *(root / model for model in models)}
        self._watched = {path: inode for path, inode in self._watched.items() if path in wanted}
        return new

    def close(self) -> None:
        """Ends watching."""
        self._closing.set()
        if self._inotify is not None:
            self._inotify.close()
        if self._thread is not None:
            self._thread.join()

    def _read(self, inotify: Inotify) -> None:
        while not self._closing.is_set():
            try:
                events = inotify.read_events()
            except KeyError:  # of a directory that is not there any more
                continue
            except OSError as error:
                _log.warning("the inbox is polled from now on, since its events cannot be read: %s", error)
                return
            inotify.clear_move_records()
            for event in events:
                self._hints.tell(Path(os.fsdecode(event.src_path)), renamed=event.is_moved_to)


@dataclass(slots=True)
class Watch:
    """Hints and what feeds them."""

    root: Path
    hints: Hints
    watcher: Watcher
    _begun: bool = field(default=False)

    def keep(self, models: list[ModelName]) -> list[ModelName]:
        """Watches the directories of the models; returns those that came since the last time, none the first time."""
        new = self.watcher.watch(self.root, models)
        found, self._begun = (new if self._begun else []), True
        return found


@contextmanager
def watching(root: Path) -> Iterator[Watch]:
    """Watches an inbox while the block runs."""
    hints = Hints(root)
    watcher = Watcher(root, hints)
    try:
        yield Watch(root, hints, watcher)
    finally:
        watcher.close()
